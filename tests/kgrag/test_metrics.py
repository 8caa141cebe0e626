"""Scores against values worked out by hand, and intervals against what a bootstrap must do."""

import numpy as np
import pytest

from minisys.kgrag.metrics import (
    answer_f1,
    bootstrap,
    exact_match,
    normalize_answer,
    paired_bootstrap,
    recall_at,
    redundancy,
    retrieval_scores,
)
from minisys.kgrag.types import Chunk, Corpus, Graph


def test_retrieval_scores():
    gold = [("a", 0), ("b", 1)]
    scores = retrieval_scores([("a", 0), ("c", 0), ("c", 1), ("c", 1)], gold)
    assert (scores.precision, scores.recall) == (1 / 3, 1 / 2)  # a fact found twice counts once
    assert scores.f1 == pytest.approx(0.4, abs=1e-15)
    assert retrieval_scores([], gold).f1 == 0
    assert retrieval_scores(gold, gold).f1 == 1
    with pytest.raises(ValueError, match="gold: got no facts"):
        retrieval_scores([("a", 0)], [])


def test_recall_at_counts_only_the_first():
    ranked = ["x", "a", "y", "b"]
    assert [recall_at(ranked, ["a", "b"], k) for k in (1, 2, 3, 4, 9)] == [0, 0.5, 0.5, 1, 1]
    with pytest.raises(ValueError, match="k: got 0"):
        recall_at(ranked, ["a"], 0)


def test_normalisation():
    assert normalize_answer("The  Café, a bar & an Inn!") == "café bar inn"
    assert normalize_answer("Theatre") == "theatre"  # an article is a word of its own
    assert normalize_answer("the U.S.") == "us"


def test_exact_match_takes_the_best_spelling():
    assert exact_match("The Old Town.", ["old town", "x"]) == 1
    assert exact_match("old", ["old town"]) == 0
    with pytest.raises(ValueError, match="gold: got no answers"):
        exact_match("x", [])


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("the old town of Brond", ["Brond"], 2 / 5),  # P 1/4, R 1
        ("Brond", ["Tessal", "old Brond"], 2 / 3),
        ("yes", ["yes, he did"], 0),  # HotpotQA: yes and no match as wholes
        ("no", ["no"], 1),
        ("no one", ["no"], 0),
        ("a a", ["b"], 0),
        ("x x y", ["x y y"], 2 / 3),
        ("", ["x"], 0),
    ],
)
def test_answer_f1(answer, gold, expected):
    assert answer_f1(answer, gold) == pytest.approx(expected, abs=1e-12)


def make_corpus():
    texts = ["Ira was born in Brond.", "Brond is where Ira was born in.", "Ira was born in Brond", "Else."]
    chunks = [Chunk("d", text, 0, len(text), number) for number, text in enumerate(texts)]
    numbers = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 2], [0, 2, 2]], dtype=np.int32)
    relations = ["was born in", "is the birthplace of", "Was born in!", "knows"]
    graph = Graph(["Ira", "Brond", "Ada"], relations, *numbers.T, num_chunks=4)
    return Corpus(chunks, np.eye(4, dtype=np.float32), graph)


def test_redundancy():
    found = redundancy(make_corpus(), [0, 1, 2, 3])
    assert (found.chunks, found.triples) == (4, 4)
    assert found.duplicate_chunks == 1  # the third says what the first said
    assert found.duplicate_triples == 1  # compared without case and punctuation
    assert found.duplicate_pairs == 2  # and the other way round
    alone = redundancy(make_corpus(), [2])
    assert (alone.triples, alone.duplicate_triples, alone.duplicate_pairs) == (2, 0, 0)
    assert redundancy(make_corpus(), []).triples == 0


def test_bootstrap_interval_is_that_of_the_mean():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found = bootstrap(values.tolist())
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    error = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - error, abs=0.01)
    assert found.high == pytest.approx(values.mean() + error, abs=0.01)
    assert found == bootstrap(values.tolist())
    assert found != bootstrap(values.tolist(), seed=1)


def test_pairing_removes_what_the_questions_share():
    random = np.random.default_rng(0)
    hardness = random.normal(0, 10, 60)
    ours = hardness + 0.5 + random.normal(0, 0.5, 60)
    difference = paired_bootstrap(ours.tolist(), hardness.tolist())
    assert difference.sign == 1
    assert paired_bootstrap(hardness.tolist(), ours.tolist()).sign == -1
    assert difference.high - difference.low < 0.4
    assert bootstrap(ours.tolist()).high - bootstrap(ours.tolist()).low > 3
    assert paired_bootstrap([1.0, 0.0], [0.0, 1.0]).sign == 0


def test_bad_input(no_runtime_types):
    with pytest.raises(ValueError, match="baseline: got 1 values, expected 2"):
        paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="values: got shape"):
        bootstrap([])
    with pytest.raises(ValueError, match="not finite"):
        bootstrap([1.0, float("nan")])
