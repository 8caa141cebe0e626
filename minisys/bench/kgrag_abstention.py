"""Does it know what it does not know? The confidence from which an answer is given, fitted and measured.

Fitted on the questions of one generated world, measured on those of another: other facts, mostly other names,
the same templates. So it says how the threshold does on new facts, and nothing about other ways to write.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minisys.bench.kgrag_sets import Prepared
from minisys.kgrag import answering
from minisys.kgrag.answering import POOL, answer, best_threshold
from minisys.kgrag.metrics import answer_f1
from minisys.kgrag.reading import WordSupport


@dataclass(frozen=True)
class Asked:
    """A question after it was answered without a threshold."""

    kind: str
    answerable: bool
    right: bool
    confidence: float


def measure_abstention(
    fitted_on: Prepared, measured_on: Prepared, support: WordSupport, method: str = "kg2rag"
) -> dict:
    """Fit the threshold on one set, and measure it on another, beside the threshold that the package ships.

    The fit keeps right answers (F1 of the short one above 0.5) and declines what the corpus does not hold.
    """
    known, fresh = (ask(prepared, support, method) for prepared in (fitted_on, measured_on))
    decided = [one for one in known if one.right or not one.answerable]
    fitted = best_threshold([one.confidence for one in decided], [one.right for one in decided])
    row = {"method": method, "questions_fitted": len(known), "questions_measured": len(fresh)}
    for name, threshold in (("fitted", fitted), ("shipped", answering.THRESHOLD)):
        row[name] = {"threshold": threshold} | shares(fresh, threshold)
    return row | {"auc": auc(fresh)}


def ask(prepared: Prepared, support: WordSupport, method: str) -> list[Asked]:
    """Answer all questions of a set without a threshold."""
    from minisys.kgrag.retrieve import Retriever

    retriever, done = Retriever(prepared.corpus, prepared.embedder), []
    for question in prepared.questions.questions:
        found = retriever.retrieve(question.text, method, k=POOL, vector=prepared.vectors[question.id])
        given = answer(question.text, prepared.corpus, found.chunks, support, threshold=0)
        right = question.answerable and answer_f1(given.short, question.answers) > 0.5
        done.append(Asked(question.kind, question.answerable, right, given.confidence))
    return done


def shares(asked: Sequence[Asked], threshold: float) -> dict:
    """Shares of questions answered and declined, by kind, and of answers that are right."""
    given = [one for one in asked if one.confidence >= threshold]
    groups = {
        "answered": [one for one in asked if one.answerable],
        "kept_right": [one for one in asked if one.right],
    }
    found = {name: _share(given, group) for name, group in groups.items()}
    found["right_among_answered"] = sum(one.right for one in given) / max(1, len(given))
    without = [one for one in asked if not one.answerable]
    found["declined"] = 1 - _share(given, without)
    for kind in dict.fromkeys(one.kind for one in without):
        found[f"declined_{kind}"] = 1 - _share(given, [one for one in without if one.kind == kind])
    return found


def auc(asked: Sequence[Asked]) -> float:
    """How often an answerable question has the higher confidence of a pair; a tie counts half."""
    yes = np.array([one.confidence for one in asked if one.answerable])
    no = np.array([one.confidence for one in asked if not one.answerable])
    return float((np.sign(yes[:, None] - no) / 2 + 0.5).mean())


def _share(given: Sequence[Asked], group: Sequence[Asked]) -> float:
    inside = {id(one) for one in given}
    return sum(id(one) in inside for one in group) / max(1, len(group))
