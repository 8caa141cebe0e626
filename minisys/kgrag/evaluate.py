"""Run retrieval methods over a question set: what each found of the gold evidence, how long, at what length.

A method is a function from a question to chunk numbers in the order of its context. `evaluate` keeps a value
for each question, and `compare` makes a table of means with intervals, and of differences to one method on
the same questions (`minisys.kgrag.metrics.paired_bootstrap`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minisys.core.checks import check
from minisys.kgrag.datasets import Question, QuestionSet
from minisys.kgrag.metrics import (
    answer_f1,
    bootstrap,
    exact_match,
    paired_bootstrap,
    recall_at,
    redundancy,
    retrieval_scores,
)
from minisys.kgrag.types import Corpus

Retrieve = Callable[[Question], Sequence[int]]
Answer = Callable[[Question, list[int]], str | None]  # None: not in the corpus
CUTS = (2, 5, 10)
INTERVALS = ("precision", "recall", "f1", "all_found", "exact_match", "answer_f1")  # the means that get one


@dataclass(frozen=True)
class Outcome:
    """What one method did.

    Attributes:
        method: its name.
        questions: ids of the questions, in order.
        contexts: the chunk numbers it gave for each question.
        values: for each measure one value a question. Retrieval: ``precision``, ``recall``, ``f1``,
            ``all_found`` (whether every supporting fact is in the context), ``recall_at_2`` …; the context:
            ``chunks``, ``words``, ``triples``, ``duplicate_chunks``, ``duplicate_triples``,
            ``duplicate_pairs``; the time: ``ms``; and with answers ``exact_match`` and ``answer_f1``.
    """

    method: str
    questions: tuple[str, ...]
    contexts: tuple[tuple[int, ...], ...]
    values: dict[str, list[float]]


def evaluate(
    method: str,
    retrieve: Retrieve,
    questions: QuestionSet,
    corpus: Corpus,
    *,
    answer: Answer | None = None,
    cuts: Sequence[int] = CUTS,
) -> Outcome:
    """Run `retrieve`, and `answer` on what it found, over the questions that have an answer.

    Args:
        method: a name for the table.
        retrieve: gives chunk numbers of `corpus`; its time is what ``ms`` counts, so embed questions before
            where that is not meant.
        answer: gives the answer from a context, or None where it finds none; an answer of None scores 0.
        cuts: the k of the recalls at k.

    Raises ValueError where no question has both an answer and evidence, and for a chunk number outside the
    corpus or twice in a context.
    """
    asked = [question for question in questions.questions if question.answerable and question.facts]
    check(bool(asked), "questions", "none with an answer and evidence", "at least one")
    values: dict[str, list[float]] = {}
    contexts = []
    for question in asked:
        begun = time.perf_counter()
        context = [int(number) for number in retrieve(question)]
        elapsed = time.perf_counter() - begun
        _check_context(method, question, context, len(corpus.chunks))
        contexts.append(tuple(context))
        row = measure_context(question, context, corpus, cuts) | {"ms": 1e3 * elapsed}
        if answer is not None:
            given = answer(question, context) or ""
            row["exact_match"] = exact_match(given, question.answers)
            row["answer_f1"] = answer_f1(given, question.answers)
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return Outcome(method, tuple(question.id for question in asked), tuple(contexts), values)


def measure_context(
    question: Question, context: Sequence[int], corpus: Corpus, cuts: Sequence[int] = CUTS
) -> dict[str, float]:
    """The measures of one context, as in `Outcome.values`."""
    chunks = [corpus.chunks[number] for number in context]
    ranked = [(chunk.document, chunk.sentence) for chunk in chunks]
    scores = retrieval_scores(ranked, question.facts)
    row = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}
    row["all_found"] = float(set(question.facts) <= set(ranked))
    row |= {f"recall_at_{k}": recall_at(ranked, question.facts, k) for k in cuts}
    row["words"] = float(sum(len(chunk.text.split()) for chunk in chunks))
    said_twice = redundancy(corpus, context)
    return row | {name: float(getattr(said_twice, name)) for name in said_twice.__dataclass_fields__}


def compare(outcomes: Sequence[Outcome], baseline: str, *, resamples: int = 10_000) -> list[dict]:
    """A row for each outcome, in order, for a table or a result file.

    Means of all measures under their names; the 95 % interval of those in `INTERVALS` as ``f1_low`` and
    ``f1_high``; time as ``median_ms`` and ``p90_ms``; and against `baseline`, on the same questions,
    ``f1_gain`` with ``f1_gain_low`` and ``f1_gain_high``.

    Raises ValueError where `baseline` is not among the outcomes, or two outcomes answered other questions.
    """
    names = [outcome.method for outcome in outcomes]
    check(len(set(names)) == len(names), "outcomes", names, "each method once")
    check(baseline in names, "baseline", repr(baseline), f"one of {', '.join(names)}")
    other = outcomes[names.index(baseline)]
    rows = []
    for outcome in outcomes:
        same = outcome.questions == other.questions
        check(same, "outcomes", f"other questions for {outcome.method!r}", "the same for all")
        row: dict = {"method": outcome.method, "questions": len(outcome.questions)}
        for name, values in outcome.values.items():
            if name == "ms":
                row["median_ms"], row["p90_ms"] = np.quantile(values, [0.5, 0.9]).tolist()
                continue
            row[name] = float(np.mean(values))
            if name not in INTERVALS:
                continue
            interval = bootstrap(values, resamples=resamples)
            row[f"{name}_low"], row[f"{name}_high"] = interval.low, interval.high
            if outcome is not other and name in other.values:
                gain = paired_bootstrap(values, other.values[name], resamples=resamples)
                row[f"{name}_gain"] = gain.mean
                row[f"{name}_gain_low"], row[f"{name}_gain_high"] = gain.low, gain.high
        rows.append(row)
    return rows


def by_kind(outcome: Outcome, questions: QuestionSet, measure: str) -> dict[str, float]:
    """Mean of `measure` for each kind of question."""
    check(measure in outcome.values, "measure", repr(measure), f"one of {', '.join(outcome.values)}")
    kind = {question.id: question.kind for question in questions.questions}
    groups: dict[str, list[float]] = {}
    for name, value in zip(outcome.questions, outcome.values[measure], strict=True):
        groups.setdefault(kind[name], []).append(value)
    return {name: float(np.mean(values)) for name, values in groups.items()}


def _check_context(method: str, question: Question, context: list[int], chunks: int) -> None:
    place = f"{method}, question {question.id}"
    outside = [number for number in context if not 0 <= number < chunks]
    check(not outside, place, f"chunk {outside[0] if outside else ''}", f"numbers below {chunks}")
    check(len(set(context)) == len(context), place, "a chunk twice", "each chunk once")
