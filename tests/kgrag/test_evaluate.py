"""The harness on methods whose scores are known."""

import numpy as np
import pytest

from minisys.kgrag.datasets import Question, QuestionSet, make_document
from minisys.kgrag.evaluate import by_kind, compare, evaluate, measure_context
from minisys.kgrag.types import Corpus, Graph


def make_set(count=20):
    documents = tuple(make_document(f"d{i}", ["First one.", "Second one."]) for i in range(count))
    questions = [
        Question(f"q{i}", f"What of d{i}?", (f"answer {i}",), "even" if i % 2 == 0 else "odd",
                 ((f"d{i}", 0), (f"d{(i + 1) % count}", 1)))
        for i in range(count)
    ]  # fmt: skip
    questions.append(Question("none", "What of nothing?", (), "unanswerable", ()))
    return QuestionSet("toy", documents, tuple(questions))


@pytest.fixture
def toy():
    questions = make_set()
    chunks = questions.chunks()
    empty = np.zeros(0, np.int32)
    graph = Graph([], [], empty, empty, empty, len(chunks))
    return questions, Corpus(chunks, np.eye(len(chunks), dtype=np.float32), graph)


def number(question):
    return int(question.id[1:])


def perfect(question):
    return [2 * number(question), (2 * number(question) + 3) % 40]


def half(question):
    return [2 * number(question), 2 * number(question) + 1]


def test_perfect_and_half(toy):
    questions, corpus = toy
    whole = evaluate("perfect", perfect, questions, corpus)
    assert len(whole.questions) == 20  # the one without an answer is not asked
    assert set(whole.values["f1"]) == {1.0}
    assert set(whole.values["all_found"]) == {1.0}
    part = evaluate("half", half, questions, corpus, answer=lambda q, context: f"the answer {number(q)}")
    assert set(part.values["recall"]) == {0.5}
    assert set(part.values["all_found"]) == {0.0}
    assert set(part.values["exact_match"]) == {1.0}
    assert set(part.values["words"]) == {4.0}
    assert part.contexts[3] == (6, 7)
    rows = compare([part, whole], "half", resamples=200)
    assert [row["method"] for row in rows] == ["half", "perfect"]
    assert rows[1]["f1_gain"] == rows[1]["f1_gain_low"] == 0.5
    assert "f1_gain" not in rows[0]
    assert rows[0]["median_ms"] >= 0
    assert all(np.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))


def test_gain_is_taken_question_by_question(toy):
    questions, corpus = toy
    ours = evaluate("ours", lambda q: perfect(q) if number(q) % 4 else half(q), questions, corpus)
    other = evaluate("other", half, questions, corpus)
    row = compare([other, ours], "other", resamples=2000)[1]
    assert row["recall_gain"] == pytest.approx(0.375, abs=1e-12)
    assert row["recall_gain_low"] < 0.375 < row["recall_gain_high"]
    assert row["recall_gain_low"] > 0
    assert by_kind(ours, questions, "recall") == {"even": 0.75, "odd": 1.0}


def test_recall_follows_the_order(toy):
    questions, corpus = toy
    found = measure_context(questions.questions[0], [7, 0, 9, 3], corpus, (1, 2, 4))
    assert [found[f"recall_at_{k}"] for k in (1, 2, 4)] == [0, 0.5, 1]


def test_an_answer_of_none_counts_as_wrong(toy):
    questions, corpus = toy
    found = evaluate("mute", perfect, questions, corpus, answer=lambda q, context: None)
    assert set(found.values["answer_f1"]) == {0.0}


def test_bad_input(toy):
    questions, corpus = toy
    with pytest.raises(ValueError, match="wide, question q0: got chunk 40, expected numbers below 40"):
        evaluate("wide", lambda q: [40], questions, corpus)
    with pytest.raises(ValueError, match="twice, question q0: got a chunk twice"):
        evaluate("twice", lambda q: [1, 1], questions, corpus)
    with pytest.raises(ValueError, match="questions: got none with an answer"):
        evaluate("none", perfect, QuestionSet("x", questions.documents, questions.questions[-1:]), corpus)
    outcome = evaluate("half", half, questions, corpus)
    with pytest.raises(ValueError, match="baseline: got 'dense', expected one of half"):
        compare([outcome], "dense")
    with pytest.raises(ValueError, match="each method once"):
        compare([outcome, outcome], "half")
    fewer = evaluate("fewer", half, QuestionSet("x", questions.documents, questions.questions[:3]), corpus)
    with pytest.raises(ValueError, match="other questions for 'fewer'"):
        compare([outcome, fewer], "half")
    with pytest.raises(ValueError, match="measure: got 'speed'"):
        by_kind(outcome, questions, "speed")
