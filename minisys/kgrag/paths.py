"""How relevant an expanded chunk is: its own words, its similarity, and the path that led to it.

The paper (arXiv 2502.06864, equation 4) weighs an edge with the similarity of the question and the edge's
chunk. That is small for just the chunk that expansion is for: the second hop shares few words with the
question, else flat retrieval would have had it. What is known beside it is the path: a seed that answers the
first half of the question names the entity that the chunk is about. So

    score(c) = cos(q, c) + 0.2 · bm25(q, c) / max bm25 + 0.3 · link(c)
    link(c)  = max over seeds s ≠ c and entities e of both, of cos(q, s) · rarity(e)
    rarity(e) = log(chunks / chunks with e) / log(chunks)

A rare entity is a path, a frequent one ("United States") is a crossroads. The two factors were chosen on
samples of MuSiQue and HotpotQA, where the score is flat around them.

Costs: one pass over the triples of the seeds and of the candidates, no model.
"""

import numpy as np
from jaxtyping import Float, Int

from minisys.kgrag.expansion import GraphIndex

WORDS, LINK = 0.2, 0.3


def entity_rarity(index: GraphIndex) -> Float[np.ndarray, " entities"]:
    """1 for an entity of one chunk, 0 for one of all chunks, float64 ``[entities]``."""
    num_chunks = max(index.graph.num_chunks, 2)
    pairs = np.concatenate([index.heads, index.tails]).astype(np.int64) * num_chunks
    pairs += np.concatenate([index.chunks, index.chunks])
    entities = np.unique(pairs) // num_chunks
    count = np.maximum(np.bincount(entities, minlength=index.num_entities), 1)
    return 1 - np.log(count) / np.log(num_chunks)


def link_scores(
    index: GraphIndex,
    rarity: Float[np.ndarray, " entities"],
    seeds: Int[np.ndarray, " seeds"],
    seed_similarities: Float[np.ndarray, " seeds"],
    chunks: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """link(c) of the module's formula for each of `chunks` (different numbers), float64 ``[n]``.

    seeds: different chunk numbers; seed_similarities: cosine with the question; below 0 it counts as 0.
    """
    scores = np.zeros(len(chunks))
    if not len(seeds) or not len(chunks):
        return scores
    triples = index.triples_of_chunks(chunks)  # those of a chunk stand together, in the order of `chunks`
    # A chunk is no seed of its own: for each entity the best seed, and the best but for that one.
    best = np.zeros(index.num_entities)
    best_seed = np.full(index.num_entities, -1)
    second = np.zeros(index.num_entities)
    for number in np.argsort(-seed_similarities, kind="stable"):
        seed, similarity = int(seeds[number]), max(float(seed_similarities[number]), 0.0)
        own = index.triples_of_chunks([seed])
        entities = np.unique(np.concatenate([index.heads[own], index.tails[own]]))
        fresh = entities[best_seed[entities] < 0]
        again = np.setdiff1d(entities, fresh, assume_unique=True)
        second[again] = np.maximum(second[again], similarity)
        best[fresh], best_seed[fresh] = similarity, seed
    owners, values = index.chunks[triples], np.zeros(len(triples))
    for ends in (index.heads[triples], index.tails[triples]):
        value = np.where(best_seed[ends] == owners, second[ends], best[ends]) * rarity[ends]
        values = np.maximum(values, value)
    if len(triples):
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        of_chunk = np.zeros(index.graph.num_chunks)
        of_chunk[owners[starts]] = np.maximum.reduceat(values, starts)
        scores = of_chunk[chunks]
    return scores


def path_scores(
    similarities: Float[np.ndarray, " n"],
    words: Float[np.ndarray, " n"],
    links: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """The module's score. words: BM25 of the chunks divided by the best of the corpus, in [0, 1]."""
    return similarities + WORDS * words + LINK * links
