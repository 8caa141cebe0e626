"""What the code published with KG²RAG (nju-websoft/KG2RAG) does where it differs from the paper (2502.06864).

- entities: all, by graph search (paper); only titles of documents (released code)
- expansion: triples within m hops, their chunks (paper); all chunks of the documents reached (released code)
- weight: the chunk's similarity (paper); of added chunks: mean of the seeds that led to the document
  (released code)
- graph: triples (paper); and edges of weight 0 between entities named in the question (released code)
- reranker reads: a tree's triple string (paper); its chunks' text (released code)
- budget: trees until k chunks (paper); whole trees that fit; fewer than k/2 chunks: filled up by single ones
  (released code)
- order: depth first (paper); by document, as the seeds came, then by sentence (released code)

Documents are reached through titles, two steps deep. Of those that hold a seed only the strongest are
completed: the two most similar ones, and those with two seeds of which one is in the first half. The released
prompts also carry four questions of HotpotQA's development set with their answers; that concerns answering
and is left out.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from minisys.kgrag.assembly import Tree, fill, scored
from minisys.kgrag.chunking import title_of
from minisys.kgrag.expansion import GraphIndex
from minisys.kgrag.organization import Forest, spanning_forest
from minisys.kgrag.types import Corpus

_NAME = re.compile(r"\w+")
_SAME = 0.9  # share of letter trigrams that makes two names one


class ReleasedIndex:
    """Which entity is the title of which document, and the chunks of each document."""

    def __init__(self, corpus: Corpus) -> None:
        names: dict[str, int] = {}
        self.document_of_chunk = np.array(
            [names.setdefault(chunk.document, len(names)) for chunk in corpus.chunks], np.int64
        )
        self.chunks_of_document: list[list[int]] = [[] for _ in names]
        for chunk, document in enumerate(self.document_of_chunk.tolist()):
            self.chunks_of_document[document].append(chunk)
        by_title = {_plain(title_of(name)): number for name, number in names.items()}
        titles = [by_title.get(_plain(entity), -1) for entity in corpus.graph.entities]
        self.document_of_entity = np.array(titles, np.int64)


def released_expansion(
    index: GraphIndex,
    titles: ReleasedIndex,
    seeds: Int[np.ndarray, " seeds"],
    similarities: Float[np.ndarray, " seeds"],
) -> tuple[Int[np.ndarray, " found"], Float[np.ndarray, " found"]]:
    """Chunk numbers, seeds first, and their weights."""
    total: dict[int, float] = {}
    count: dict[int, int] = {}

    def credit(document: int, value: float) -> None:
        total[document] = total.get(document, 0.0) + value
        count[document] = count.get(document, 0) + 1

    met: set[int] = set()
    strong: set[int] = set()
    for place, (chunk, similarity) in enumerate(zip(seeds.tolist(), similarities.tolist(), strict=True)):
        document = int(titles.document_of_chunk[chunk])
        if place < len(seeds) // 2 and document in met:
            strong.add(document)
        met.add(document)
        credit(document, similarity)
    strong |= set(sorted(total, key=lambda d: -total[d] / count[d])[:2])
    first: dict[int, None] = dict.fromkeys(sorted(met))
    for chunk, similarity in zip(seeds.tolist(), similarities.tolist(), strict=True):
        for document in _mentioned(index, titles, [chunk]):
            if document not in met:
                first[document] = None
                credit(document, similarity)
    related, seed_set = dict(first), set(seeds.tolist())
    for document in first:
        rest = [chunk for chunk in titles.chunks_of_document[document] if chunk not in seed_set]
        for other in _mentioned(index, titles, rest):
            if other not in first:
                related[other] = None
                credit(other, total[document] / count[document])
    average = float(np.mean(similarities))
    added: list[tuple[float, int]] = []
    for document in related:
        if document in met - strong:
            continue
        weight = (total[document] + average) / (count[document] + 1)
        added += [(-weight, c) for c in titles.chunks_of_document[document] if c not in seed_set]
    added.sort()
    chunks = np.array([*seeds.tolist(), *(chunk for _, chunk in added)], np.int64)
    return chunks, np.array([*similarities.tolist(), *(-weight for weight, _ in added)])


def released_forest(
    corpus: Corpus,
    index: GraphIndex,
    question: str,
    found: Int[np.ndarray, " found"],
    weights: Float[np.ndarray, " found"],
) -> Forest:
    """The spanning forest over the triples of `found` and edges of weight 0 between the question's entities.

    Those edges join trees and are left out of the result.
    """
    triples = index.triples_of_chunks(found)
    weight = np.zeros(index.graph.num_chunks)
    weight[found] = weights
    heads, tails = index.heads[triples].astype(np.int64), index.tails[triples].astype(np.int64)
    entities = np.unique(np.concatenate([heads, tails]))
    named = entities_in_question(corpus, entities.tolist(), question)
    joined = set(zip(heads.tolist(), tails.tolist(), strict=True))
    extra = [(a, b) for i, a in enumerate(named) for b in named[i + 1 :] if not {(a, b), (b, a)} & joined]
    added = np.array(extra, np.int64).reshape(-1, 2)
    count = len(index.heads)
    forest = spanning_forest(
        np.concatenate([triples.astype(np.int64), count + np.arange(len(added))]),
        np.concatenate([heads, added[:, 0]]),
        np.concatenate([tails, added[:, 1]]),
        np.concatenate([weight[index.chunks[triples]], np.zeros(len(added))]),
        index.num_entities,
    )
    real = forest.triples < count
    before = np.concatenate([[0], np.cumsum(real)])
    return Forest(forest.triples[real], before[forest.starts], forest.roots)


def entities_in_question(corpus: Corpus, entities: Sequence[int], question: str) -> list[int]:
    """Those of `entities` nearly all of whose letter trigrams stand in the question."""
    inside = _trigrams(question)
    found = []
    for entity in entities:
        own = _trigrams(corpus.graph.entities[entity])
        if own and len(own & inside) >= _SAME * len(own):
            found.append(entity)
    return found


def released_context(
    trees: Sequence[Tree],
    found: Int[np.ndarray, " found"],
    k: int,
    score: Callable[[list[str]], np.ndarray],
    text: Callable[[int], str],
) -> tuple[list[Tree], list[int]]:
    """Trees by the score of their chunks' text, whole trees that fit, filled up where they are few."""
    ranked = scored(trees, score(["".join(text(c) for c in tree.chunks) for tree in trees]))
    chosen = fill(ranked, k, whole=True)
    if len(chosen) < max(k // 2, 1):
        rest = [int(chunk) for chunk in found if int(chunk) not in set(chosen)]
        order = np.argsort(-score([text(chunk) for chunk in rest]), kind="stable")
        chosen += [rest[i] for i in order[: k - len(chosen)]]
    return ranked, chosen


def by_document(titles: ReleasedIndex, found: Int[np.ndarray, " found"], chosen: Sequence[int]) -> list[int]:
    """`chosen` by document, documents as they come in `found`, chunks of one in their own order."""
    place: dict[int, int] = {}
    for chunk in found.tolist():
        if chunk in set(chosen):
            place.setdefault(int(titles.document_of_chunk[chunk]), len(place))
    return sorted(chosen, key=lambda chunk: (place[int(titles.document_of_chunk[chunk])], chunk))


def _mentioned(index: GraphIndex, titles: ReleasedIndex, chunks: Sequence[int]) -> list[int]:
    """Documents whose title is an entity of the chunks' triples, one for each mention, in triple order."""
    triples = index.triples_of_chunks(chunks)
    ends = np.stack([index.heads[triples], index.tails[triples]], 1).ravel()
    documents = titles.document_of_entity[ends]
    return documents[documents >= 0].tolist()


def _plain(name: str) -> str:
    return " ".join(_NAME.findall(re.sub(r" \(.*\)$", "", name).lower()))


def _trigrams(text: str) -> set[str]:
    joined = "".join(_NAME.findall(text.lower()))
    return {joined[i : i + 3] for i in range(len(joined) - 2)}
