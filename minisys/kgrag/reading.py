"""Which sentences of a context answer a question together, by how well their words cover its words.

A word of the question is supported by a sentence as far as the nearest word there: 1 for the same word, 0.9
for the same stem, else a share of the cosine between the two words' embeddings, so that “author” is supported
by “written”. Where a year is asked for, a year is one more thing to support. A set of sentences supports a
word as its best sentence does. A sentence joins a set only where an entity or a document links it to the set,
or where it names what the question names: the way from the question to its answer is a walk on the graph.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from minisys.kgrag.chunking import text_to_search
from minisys.kgrag.types import Corpus, Embedder

STOP_WORDS = frozenset(
    """
    a an the of in on at to by for with from and or nor but not if is was were are be been being am
    do does did have has had having can could will would shall should may might must which what who
    whom whose when where why how that this these those there here it its he she his her him they
    their them we you your i my me as than then so such other also into onto out up down about after
    before between during s t person people thing one first last earlier later same both
    """.split()  # noqa: SIM905
)
YEAR = "#year"  # stands among a question's words where it asks for a year
NAME_WEIGHT, KIND_WEIGHT = 2.0, 0.3  # of the word of a name, and of the kind of thing asked for; others 1
SENTENCE_COST = 0.02  # support that a further sentence must add
DOCUMENT_COST = 0.001  # and if no entity links it: of two that add the same, the linked one is taken
BEAM, MOST = 8, 4  # sets kept at each step, and sentences of a set
_ASKS_YEAR = re.compile(
    r"^when\b|\b(what|which) year\b|\b(first|earlier|older|later|younger)\b.*\bor\b", re.IGNORECASE
)
_KIND = re.compile(r"\b(?:which|what|same) (\w+)", re.IGNORECASE)
_A_YEAR = re.compile(r"\b[12]\d{3}\b")
_WORD = re.compile(r"\w+(?:[’']\w+)?")


@dataclass(frozen=True)
class Words:
    """The words of a question that support is asked for.

    Attributes:
        words: in lower case, each once.
        names: which of them are parts of names or numbers.
        kinds: which say what is asked for: “town” in “in which town”. Few sentences say it again.
    """

    words: tuple[str, ...]
    names: Bool[np.ndarray, " words"]
    kinds: Bool[np.ndarray, " words"]

    @property
    def weights(self) -> Float[np.ndarray, " words"]:
        weights = np.where(self.names, NAME_WEIGHT, np.where(self.kinds, KIND_WEIGHT, 1.0))
        return weights / weights.sum()

    def without_names(self) -> "Words":
        """The words that say what is asked, without those of names."""
        others = ~self.names
        held = tuple(word for word, other in zip(self.words, others, strict=True) if other)
        return Words(held, self.names[others], self.kinds[others])


@dataclass(frozen=True)
class Reading:
    """The sentences that were chosen.

    Attributes:
        chunks: their numbers, in the order of the walk.
        support: of each word of the question by them, in [0, 1].
        score: the weighted mean of it, less the cost of the sentences.
    """

    chunks: tuple[int, ...]
    support: Float[np.ndarray, " words"]
    score: float


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, without those that every text has."""
    found = (re.sub(r"[’']s?$|[’']s(?=\b)", "", match[0].lower()) for match in _WORD.finditer(text))
    return [word for word in found if word and word not in STOP_WORDS]


def question_words(question: str) -> Words:
    """The words of a question; a capital that does not only open the sentence makes a name."""
    kinds = {word for match in _KIND.finditer(question) for word in words_of(match[1])}
    names: dict[str, bool] = {}
    for match in _WORD.finditer(question):
        for word in words_of(match[0]):
            capital = match[0][0].isupper() and (match.start() > 0 or match[0].isupper())
            names[word] = names.get(word, False) or capital or match[0][0].isdigit()
    if _ASKS_YEAR.search(question):
        names = {word: name for word, name in names.items() if word != "year"} | {YEAR: False}
    held = tuple(names)
    return Words(held, np.array(list(names.values()), bool), np.array([word in kinds for word in held], bool))


class WordSupport:
    """How near words are to each other; remembers the vectors of the words that it has seen."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, np.ndarray] = {}

    def __call__(self, words: Words, texts: Sequence[str]) -> Float[np.ndarray, "texts words"]:
        """Support of each word by each text. Names and numbers must stand there themselves."""
        support = np.zeros((len(texts), len(words.words)), np.float32)
        of_text = [list(dict.fromkeys(words_of(text))) for text in texts]
        for row, own in enumerate(of_text):
            for column, word in enumerate(words.words):
                if word in own:
                    support[row, column] = 1
                elif not words.names[column] and any(same_stem(word, other) for other in own):
                    support[row, column] = 0.9
        asked = [place for place in np.flatnonzero(~words.names).tolist() if words.words[place] != YEAR]
        self._embed([*(words.words[place] for place in asked), *(word for own in of_text for word in own)])
        for row, own in enumerate(of_text):
            if own and asked:
                cosines = self._stack([words.words[place] for place in asked]) @ self._stack(own).T
                near = 0.8 * np.clip((cosines.max(1) - 0.3) / 0.7, 0, 1)
                support[row, asked] = np.maximum(support[row, asked], near)
        if YEAR in words.words:
            support[:, words.words.index(YEAR)] = [_A_YEAR.search(text) is not None for text in texts]
        return support

    def _embed(self, words: Sequence[str]) -> None:
        new = [word for word in dict.fromkeys(words) if word not in self._vectors]
        if new:
            self._vectors |= dict(zip(new, self._embedder(new), strict=True))

    def _stack(self, words: Sequence[str]) -> np.ndarray:
        return np.stack([self._vectors[word] for word in words])


def same_stem(first: str, second: str) -> bool:
    """Whether two words differ in their endings only: studied and study, belong and belongs."""
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return shared >= 4 and max(len(first), len(second)) - shared <= 3


def entities_of(corpus: Corpus, chunks: Sequence[int]) -> dict[int, set[int]]:
    """The entities that each of `chunks` states something about."""
    graph = corpus.graph
    found: dict[int, set[int]] = {chunk: set() for chunk in chunks}
    wanted = np.asarray(list(chunks), dtype=graph.chunks.dtype)
    for triple in np.flatnonzero(np.isin(graph.chunks, wanted)).tolist():
        found[int(graph.chunks[triple])] |= {int(graph.heads[triple]), int(graph.tails[triple])}
    return found


def read(question: str, corpus: Corpus, chunks: Sequence[int], support: WordSupport) -> Reading:
    """Choose the sentences among `chunks` that together support the words of the question best."""
    words = question_words(question)
    if not words.words or not chunks:
        return Reading((), np.zeros(len(words.words), np.float32), 0.0)
    by_chunk = support(words, [text_to_search(corpus.chunks[number]) for number in chunks])
    named = by_chunk[:, words.names].max(1, initial=0) > 0.99
    link_costs = _link_costs(corpus, chunks)
    best, kept = Reading((), np.zeros(len(words.words), np.float32), 0.0), [((), 0.0)]
    for _ in range(MOST):
        made: dict[frozenset, tuple[Reading, float]] = {}
        for walk, spent in kept:
            for place in range(len(chunks)):
                link = link_costs[place, list(walk)].min(initial=np.inf)
                if named[place] or not (walk or words.names.any()):  # without a name any sentence may open
                    link = min(link, DOCUMENT_COST if walk else 0.0)
                longer, cost = (*walk, place), spent + SENTENCE_COST + link
                known = made.get(frozenset(longer))
                if place in walk or not np.isfinite(link) or (known is not None and known[1] <= cost):
                    continue
                held = by_chunk[list(longer)].max(0)
                made[frozenset(longer)] = Reading(longer, held, float(held @ words.weights - cost)), cost
        ranked = sorted(made.values(), key=lambda each: -each[0].score)[:BEAM]
        if ranked and ranked[0][0].score > best.score:
            best = ranked[0][0]
        kept = [(reading.chunks, cost) for reading, cost in ranked]
    return Reading(tuple(chunks[place] for place in best.chunks), best.support, best.score)


def _link_costs(corpus: Corpus, chunks: Sequence[int]) -> Float[np.ndarray, "n n"]:
    """0 where two sentences share an entity, `DOCUMENT_COST` where only a document, infinity elsewhere."""
    entities = entities_of(corpus, chunks)
    costs = np.full((len(chunks), len(chunks)), np.inf)
    for row, first in enumerate(chunks):
        for column, second in enumerate(chunks):
            if not entities[first].isdisjoint(entities[second]):
                costs[row, column] = 0
            elif corpus.chunks[first].document == corpus.chunks[second].document:
                costs[row, column] = DOCUMENT_COST
    return costs
