"""The short answer that sentences hold: a name, a number, yes or no. Rules, no model.

Names come from the triples of the chosen sentences: what the question does not name, and what is no mere step
between two sentences. Years are read from the words. Questions that compare two things are answered by
comparing what the sentences say of each.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from minisys.kgrag.reading import Words, WordSupport, entities_of, question_words, words_of
from minisys.kgrag.types import Corpus

_NUMBER = re.compile(r"\b\d{4}\b|\b\d[\d,.]*\d\b|\b\d\b")
_YES_NO = re.compile(r"^(is|are|was|were|do|does|did|has|have|had|can|could)\b", re.IGNORECASE)
_EARLIER = re.compile(r"\b(first|earlier|older|oldest|before)\b", re.IGNORECASE)
_LATER = re.compile(r"\b(last|later|younger|youngest|newer|more recently)\b", re.IGNORECASE)
_ASKS_NUMBER = re.compile(
    r"\b(when|(what|which) (year|date)|how (many|much|old|long|far|tall|high|large|big|often))\b",
    re.IGNORECASE,
)


def short_answer(question: str, corpus: Corpus, chunks: Sequence[int], support: WordSupport) -> str:
    """The short answer in `chunks`, the chosen sentences in the order of the walk; empty if there is none."""
    words = question_words(question)
    if _YES_NO.match(question.strip()):
        return _yes_or_no(corpus, chunks, words)
    earlier = bool(_EARLIER.search(question))
    if (earlier or _LATER.search(question)) and re.search(r"\bor\b", question):
        return _first_or_last(corpus, chunks, words, earlier=earlier)
    if _ASKS_NUMBER.search(question):
        return _number(corpus, chunks, words)
    return _name(corpus, chunks, words, support)


def _name(corpus: Corpus, chunks: Sequence[int], words: Words, support: WordSupport) -> str:
    """The name whose relation is nearest to the question's words, rather in a late sentence."""
    graph = corpus.graph
    entities = entities_of(corpus, chunks)
    shared = Counter(entity for own in entities.values() for entity in own)
    step = {chunk: place for place, chunk in enumerate(chunks)}
    found, relations = [], []
    for triple in np.flatnonzero(np.isin(graph.chunks, np.asarray(chunks, graph.chunks.dtype))).tolist():
        chunk = int(graph.chunks[triple])
        for end, other in ((graph.tails, graph.heads), (graph.heads, graph.tails)):
            name, known = int(end[triple]), int(other[triple])
            if _asked(graph.entities[name], words) or (shared[name] > 1 and len(chunks) > 1):
                continue
            anchored = shared[known] > 1 or _asked(graph.entities[known], words)
            title = graph.entities[name][:1].isupper()
            found.append((graph.entities[name], step[chunk] / len(chunks) + 0.5 * anchored + title))
            relations.append(f"{graph.relations[triple]}")
    if not found:
        return ""
    common = words.without_names()
    near = support(common, relations).max(1) if common.words else np.zeros(len(found))
    return max(zip(found, near, strict=True), key=lambda one: one[0][1] + one[1])[0][0]


def _number(corpus: Corpus, chunks: Sequence[int], words: Words) -> str:
    """The last number that the question does not hold; a year rather than another number."""
    held = [number for chunk in reversed(chunks) for number in _NUMBER.findall(corpus.chunks[chunk].text)]
    new = [number for number in held if number not in words.words]
    return next((number for number in new if len(number) == 4), new[0] if new else "")


def _yes_or_no(corpus: Corpus, chunks: Sequence[int], words: Words) -> str:
    """Yes where two sentences meet in something that the question does not name."""
    shared = Counter(entity for own in entities_of(corpus, chunks).values() for entity in own)
    names = corpus.graph.entities
    return "yes" if any(n > 1 and not _asked(names[e], words) for e, n in shared.items()) else "no"


def _first_or_last(corpus: Corpus, chunks: Sequence[int], words: Words, *, earlier: bool) -> str:
    """The document whose sentence holds the smallest year, or the largest."""
    dated = [
        (int(number), corpus.chunks[chunk].document)
        for chunk in chunks
        for number in _NUMBER.findall(corpus.chunks[chunk].text)
        if len(number) == 4 and number.isdigit()
    ]
    return (min(dated) if earlier else max(dated))[1] if dated else ""


def _asked(name: str, words: Words) -> bool:
    own = words_of(name)
    return bool(own) and set(own) <= set(words.words)
