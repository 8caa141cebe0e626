"""Answers that a model writes: prompts, rows, what shuffling changes; and answers declined."""

from types import SimpleNamespace

import numpy as np
import pytest

from minisys.bench import kgrag, kgrag_abstention, kgrag_answers, kgrag_sets
from minisys.bench.kgrag_abstention import Asked, auc, shares
from minisys.bench.kgrag_answers import (
    ALONE,
    EXAMPLES,
    GOLD,
    Writer,
    first_line,
    measure_written,
    prompt,
    reads,
)
from minisys.kgrag.embedding import HashingEmbedder
from minisys.kgrag.evaluate import Outcome
from minisys.kgrag.reading import WordSupport
from minisys.kgrag.world import make_world

pytest.importorskip("bm25s")


@pytest.fixture(scope="module")
def prepared():
    return kgrag_sets.prepare(make_world(0, 100).questions, HashingEmbedder(64))


def test_prompt_shows_examples_of_the_same_kind():
    alone = prompt("Who taught Ira Sole?", ())
    assert "Passage" not in alone
    assert alone.count("Question:") == len(EXAMPLES) + 1
    assert alone.endswith("Question: Who taught Ira Sole?\nAnswer:")
    both = prompt("Who taught\n Ira Sole?", ["Ira Sole: Ada Venn\n\ntaught her."])
    assert both.startswith("Passage: Alpine Lines:")
    end = "Passage: Ira Sole: Ada Venn taught her.\nQuestion: Who taught Ira Sole?\nAnswer:"
    assert both.endswith(f"\n\n{end}")
    assert "Answer: Chur\n\n" in both


def test_an_answer_is_the_first_line_written():
    assert first_line(" Ada Venn\n\nQuestion: Who") == "Ada Venn"
    assert first_line("\n \n1884") == "1884"
    assert first_line(" \n") == ""


def test_written_answers_are_scored_against_the_gold(prepared):
    gold = dict(list(kgrag_answers.gold_contexts(prepared).items())[:4])
    asked = {question.id: question for question in prepared.questions.questions}
    shown = []

    def write(prompts):
        shown.extend(prompts)
        return [f" The {asked[name].answers[0]}!\nQuestion" if i else "" for i, name in enumerate(gold)]

    outcome = measure_written(GOLD, prepared, gold, write)
    assert outcome.values["exact_match"] == [0, 1, 1, 1]
    assert outcome.values["answer_f1"] == [0, 1, 1, 1]
    assert outcome.values["chunks"] == [len(chunks) for chunks in gold.values()]
    for text, (name, chunks) in zip(shown, gold.items(), strict=True):
        own = text.split("\n\n")[-1]
        assert own.count("Passage:") == len(chunks)
        for document, number in asked[name].facts:
            sentence = next(
                c.text for c in prepared.corpus.chunks if (c.document, c.sentence) == (document, number)
            )
            assert f"{document}: {sentence}" in own
    alone = measure_written(ALONE, prepared, dict.fromkeys(gold, ()), write)
    assert alone.values["words"] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="contexts: got 1"):
        measure_written(ALONE, prepared, {"none": ()}, write)


def test_rows_of_written_answers_stand_beside_those_of_dense(prepared):
    def outcome(method, values):
        names = tuple(question.id for question in prepared.questions.questions[:4])
        chunks = {name: values for name in ("exact_match", "answer_f1")}
        return Outcome(method, names, ((),) * 4, chunks)

    table = kgrag.Table()
    dense, grown = reads("dense, k = 3"), reads("kg2rag, k = 3")
    found = [outcome(ALONE, [0, 0, 0, 0]), outcome(dense, [1, 0, 0, 0]), outcome(grown, [1, 1, 1, 0])]
    table.add("world", prepared, found)
    rows = table.payload()["rows"]
    assert list(rows) == [f"world: {ALONE}", f"world: {dense}", f"world: {grown}"]
    assert rows[f"world: {grown}"]["answer_f1_gain"] == 0.5
    assert rows[f"world: {grown}"]["baseline"] == dense
    assert [row["k"] for row in rows.values()] == [0, 3, 3]


def test_what_shuffling_changes_is_paired():
    names = ("a", "b", "c", "d")

    def outcome(method, **values):
        return Outcome(method, names, ((),) * 4, values)

    before = [outcome("x", recall=[1, 1, 1, 1], ms=[1] * 4), outcome("y", recall=[0] * 4)]
    after = [outcome("x", recall=[0, 1, 1, 1], ms=[2] * 4), outcome("z", recall=[1] * 4)]
    found = kgrag_answers.changes(after, before)
    assert list(found) == ["x"]
    assert found["x"]["recall_change"] == -0.25
    assert found["x"]["recall_change_low"] <= -0.25 <= found["x"]["recall_change_high"] <= 0
    assert "ms_change" not in found["x"]
    other = Outcome("x", ("a", "b", "c", "e"), ((),) * 4, {"recall": [0] * 4})
    with pytest.raises(ValueError, match="other questions for 'x'"):
        kgrag_answers.changes([other], before)


def test_a_shuffled_set_keeps_its_evidence(prepared):
    """People and places change places; questions, gold facts and triples go with them."""
    labels = {"person": "PERSON", "town": "GPE", "work": "WORK_OF_ART"}
    world = make_world(0, 100)
    entities = [entity for entity in world.entities.values() if entity.category in labels]

    def parse(texts):
        for text in texts:
            named = [
                SimpleNamespace(text=e.name, label_=labels[e.category]) for e in entities if e.name in text
            ]
            yield SimpleNamespace(ents=named)

    twin = kgrag_sets.prepare_shuffled(prepared, parse)
    assert twin.about["triples"] == prepared.about["triples"]
    assert twin.about["triples_are"] == prepared.about["triples_are"]
    assert twin.about["questions_changed"] > 0.7 * len(prepared.questions.questions)
    assert twin.questions.name == "world-shuffled"
    assert not np.array_equal(twin.corpus.vectors, prepared.corpus.vectors)
    old, new = (kgrag_answers.gold_contexts(one) for one in (prepared, twin))
    assert old == new
    twin_asked = {question.id: question for question in twin.questions.questions}
    kept = [question for question in prepared.questions.questions if question.kind == "2hop"]
    changed = [question.answers != twin_asked[question.id].answers for question in kept]
    assert sum(changed) > len(kept) / 3  # those that are a person, a town or a work


def test_continuations_come_back_in_order():
    """Batches are made of prompts of like length, so the order inside differs."""
    writer = Writer(None, None, batch=2)
    writer._continue = lambda prompts: [text.upper() for text in prompts]
    assert writer(["bbb", "a", "cc", "dddd"]) == ["BBB", "A", "CC", "DDDD"]


@pytest.mark.usefixtures("no_runtime_types")
def test_a_writer_of_nothing_is_refused():
    with pytest.raises(ValueError, match="tokens: got 0"):
        Writer(None, None, tokens=0)
    with pytest.raises(ValueError, match="batch: got 0"):
        Writer(None, None, batch=0)


def test_shares_of_answers_given_and_declined():
    asked = [Asked("2hop", True, True, 0.9), Asked("2hop", True, False, 0.5), Asked("2hop", True, True, 0.1),
             Asked("missing", False, False, 0.6), Asked("unknown", False, False, 0.0)]  # fmt: skip
    found = shares(asked, 0.4)
    assert found["answered"] == 2 / 3
    assert found["kept_right"] == 1 / 2
    assert found["right_among_answered"] == 1 / 3
    assert found["declined"] == 1 / 2
    assert (found["declined_missing"], found["declined_unknown"]) == (0, 1)
    assert auc(asked) == pytest.approx((2 + 1 + 1) / 6)


def test_the_threshold_comes_from_the_other_world(prepared, monkeypatch):
    fresh = kgrag_sets.prepare(make_world(1, 100).questions, HashingEmbedder(64))
    asked = {
        id(prepared): [Asked("2hop", True, True, 0.8), Asked("missing", False, False, 0.6)],
        id(fresh): [Asked("2hop", True, True, 0.65), Asked("missing", False, False, 0.3)],
    }
    monkeypatch.setattr(kgrag_abstention, "ask", lambda one, support, method: asked[id(one)])
    support = WordSupport(HashingEmbedder(64))
    found = kgrag_abstention.measure_abstention(prepared, fresh, support)
    assert found["fitted"]["threshold"] == pytest.approx(0.7)
    assert found["fitted"]["answered"] == 0  # the fit on the fresh world would have answered
    assert found["fitted"]["declined"] == 1
    assert found["auc"] == 1
    names = [{document.name for document in one.questions.documents} for one in (prepared, fresh)]
    assert len(names[0] & names[1]) < 0.2 * len(names[0])
