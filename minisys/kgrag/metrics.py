"""How good retrieval and answers are, and how sure a difference between two methods is.

Retrieval is counted on supporting facts: precision, recall and F1 of a set of retrieved chunks, as the
evaluation of HotpotQA does (arXiv 1809.09600). Answers: exact match and F1 over words after the normalisation
of SQuAD (arXiv 1606.05250), with HotpotQA's rule that yes and no match nothing but themselves. Two methods
are compared on the same questions, by a paired bootstrap.
"""

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.types import Corpus

WHOLE_ANSWERS = ("yes", "no", "noanswer")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Scores:
    """Precision, recall and F1, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True, slots=True)
class Redundancy:
    """What of a context is said twice.

    Attributes:
        chunks, triples: how many there are in the context.
        duplicate_chunks: chunks whose words stand in an earlier chunk.
        duplicate_triples: triples with the entities and the relation of an earlier one.
        duplicate_pairs: triples that join two entities which an earlier one joins, in either direction.
    """

    chunks: int
    triples: int
    duplicate_chunks: int
    duplicate_triples: int
    duplicate_pairs: int


def retrieval_scores(retrieved: Iterable, gold: Collection) -> Scores:
    """Precision, recall and F1 of the set of retrieved facts against the gold facts.

    Nothing retrieved has precision 0. Raises ValueError where `gold` is empty: nothing can be scored then.
    """
    found, wanted = set(retrieved), set(gold)
    check(bool(wanted), "gold", "no facts", "at least one")
    return _scores(len(found & wanted), len(found), len(wanted))


def recall_at(ranked: Sequence, gold: Collection, k: int) -> float:
    """Share of the gold facts among the first `k` of `ranked`."""
    check_positive_int("k", k)
    check(bool(gold), "gold", "no facts", "at least one")
    return len(set(ranked[:k]) & set(gold)) / len(set(gold))


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and doubled blanks (SQuAD's evaluation)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 where `answer` is one of the gold spellings after normalisation, else 0."""
    check(bool(gold), "gold", "no answers", "at least one")
    return float(any(normalize_answer(answer) == normalize_answer(other) for other in gold))


def answer_f1(answer: str, gold: Sequence[str]) -> float:
    """The best F1 over words of `answer` against a gold spelling; yes and no count as wholes."""
    check(bool(gold), "gold", "no answers", "at least one")
    return max(_answer_scores(answer, other).f1 for other in gold)


def redundancy(corpus: Corpus, chunks: Sequence[int]) -> Redundancy:
    """What of a context of `chunks` (numbers, in order) is said twice. Relations are compared as words."""
    words = [frozenset(normalize_answer(corpus.chunks[number].text).split()) for number in chunks]
    duplicate_chunks = sum(any(words[i] <= words[j] for j in range(i)) for i in range(len(words)))
    graph = corpus.graph
    inside = np.flatnonzero(np.isin(graph.chunks, np.asarray(chunks, dtype=graph.chunks.dtype)))
    triples, pairs = set(), set()
    for triple in inside.tolist():
        head, tail = int(graph.heads[triple]), int(graph.tails[triple])
        triples.add((head, normalize_answer(graph.relations[triple]), tail))
        pairs.add(frozenset((head, tail)))
    count = len(inside)
    return Redundancy(len(words), count, duplicate_chunks, count - len(triples), count - len(pairs))


def bootstrap(values: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of `values` with the 95 % percentile interval of a bootstrap over questions."""
    sample = np.asarray(values, dtype=np.float64)
    check(sample.ndim == 1 and sample.size > 0, "values", f"shape {sample.shape}", "one value a question")
    check(bool(np.isfinite(sample).all()), "values", "values that are not finite", "finite ones")
    check_positive_int("resamples", resamples)
    generator = np.random.default_rng(seed)
    block = max(1, 2_000_000 // sample.size)  # draws held at once
    means = []
    for first in range(0, resamples, block):
        drawn = generator.integers(sample.size, size=(min(block, resamples - first), sample.size))
        means.append(sample[drawn].mean(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(sample.mean()), float(low), float(high))


def paired_bootstrap(
    values: Sequence[float], baseline: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of ``values - baseline``, question by question, with its 95 % interval.

    Both methods answer the same questions, so that what makes a question hard cancels.
    """
    check(len(values) == len(baseline), "baseline", f"{len(baseline)} values", f"{len(values)}")
    return bootstrap(np.subtract(values, baseline).tolist(), resamples=resamples, seed=seed)


def _answer_scores(answer: str, gold: str) -> Scores:
    given, wanted = normalize_answer(answer), normalize_answer(gold)
    if given != wanted and (given in WHOLE_ANSWERS or wanted in WHOLE_ANSWERS):
        return Scores(0.0, 0.0, 0.0)
    have, want = given.split(), wanted.split()
    return _scores((Counter(have) & Counter(want)).total(), len(have), len(want))


def _scores(common: int, found: int, wanted: int) -> Scores:
    if common == 0:
        return Scores(0.0, 0.0, 0.0)
    precision, recall = common / found, common / wanted
    return Scores(precision, recall, 2 * precision * recall / (precision + recall))
