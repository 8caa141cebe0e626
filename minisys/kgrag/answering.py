"""Answers with citations, or none: “not in the corpus” is an answer.

Extractive by default: the answer is sentences of the corpus, each with the chunk that it comes from, and a
short answer read off them where there is one. Nothing in it is made up, so what can go wrong is the choice.
The choice and the confidence come from `minisys.kgrag.reading`; below `THRESHOLD` the answer is that the
corpus does not hold one. The threshold is fitted on questions of the generated world, and
`minisys bench kgrag` measures it on another world. Generative answers: `minisys.kgrag.generation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minisys.core.checks import check
from minisys.kgrag.reading import Reading, WordSupport, question_words, read
from minisys.kgrag.shortanswer import short_answer
from minisys.kgrag.types import Corpus, Embedder

NOT_FOUND = "Not in the corpus."
POOL = (
    40  # chunks worth offering to `answer`: it chooses among them, so more of them cost time, not precision
)
THRESHOLD = 0.2


@dataclass(frozen=True)
class Citation:
    """Where a sentence comes from: the document, its sentence's number there, and the chunk's number."""

    document: str
    sentence: int
    chunk: int


@dataclass(frozen=True)
class AnswerSentence:
    """A sentence of an answer, and the chunks that it rests on: at least one."""

    text: str
    citations: tuple[Citation, ...]


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        sentences: empty where the corpus does not hold an answer.
        short: a name, a number, yes or no; empty where none could be read off the sentences.
        confidence: in [0, 1]; the answer is given from the threshold on.
    """

    sentences: tuple[AnswerSentence, ...]
    short: str
    confidence: float

    @property
    def found(self) -> bool:
        return bool(self.sentences)

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences) or NOT_FOUND


def answer(
    question: str,
    corpus: Corpus,
    chunks: Sequence[int],
    embedder: Embedder | WordSupport,
    *,
    threshold: float = THRESHOLD,
) -> Answer:
    """Answer `question` with sentences among `chunks`, or not at all.

    Args:
        question: a question in words.
        corpus: what was indexed.
        chunks: numbers of the chunks that retrieval found, the best first.
        embedder: compares words. A `WordSupport` keeps the vectors of words from question to question.
        threshold: the confidence from which on an answer is given.

    Raises ValueError for a blank question, a corpus without chunks and a chunk number outside it.
    """
    check(isinstance(question, str) and bool(question.strip()), "question", repr(question), "a question")
    check(len(corpus.chunks) > 0, "corpus", "no chunks", "at least one")
    chunks = [int(number) for number in chunks]
    outside = [number for number in chunks if not 0 <= number < len(corpus.chunks)]
    check(not outside, "chunks", outside[:3], f"numbers below {len(corpus.chunks)}")
    support = embedder if isinstance(embedder, WordSupport) else WordSupport(embedder)
    reading = read(question, corpus, list(dict.fromkeys(chunks)), support)
    certainty = confidence(question, reading)
    if not reading.chunks or certainty < threshold:
        return Answer((), "", certainty)
    sentences = tuple(cite(corpus, number) for number in reading.chunks)
    return Answer(sentences, short_answer(question, corpus, reading.chunks, support), certainty)


def cite(corpus: Corpus, number: int) -> AnswerSentence:
    """A chunk as a sentence of an answer that cites itself."""
    chunk = corpus.chunks[number]
    return AnswerSentence(chunk.text, (Citation(chunk.document, chunk.sentence, number),))


def confidence(question: str, reading: Reading) -> float:
    """How sure it is that the reading answers the question, in [0, 1].

    The least support of a part of a name in the question, times the least support of another word: an answer
    needs all that is named and all that is asked.
    """
    words = question_words(question)
    if not words.words or not reading.chunks:
        return 0.0
    names, others = reading.support[words.names], reading.support[~words.names & ~words.kinds]
    return float((names.min() if names.size else 1.0) * (others.min() if others.size else 1.0))


def best_threshold(confidences: Sequence[float], worth: Sequence[bool]) -> float:
    """The threshold with the best mean of two shares: answers worth giving that are given, others declined.

    Raises ValueError unless there are answers of both kinds.
    """
    values, truth = np.asarray(confidences, np.float64), np.asarray(worth, bool)
    check(values.shape == truth.shape and values.ndim == 1, "worth", truth.shape, f"{values.shape}")
    check(bool(truth.any() and not truth.all()), "worth", "one kind of answer", "both")
    levels = np.unique(values)
    cuts = np.concatenate([levels[:1], (levels[1:] + levels[:-1]) / 2])
    gains = [((values >= cut) & truth).sum() / truth.sum() + ((values < cut) & ~truth).sum() / (~truth).sum()
             for cut in cuts]  # fmt: skip
    return float(cuts[int(np.argmax(gains))])
