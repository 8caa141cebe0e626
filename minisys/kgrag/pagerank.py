"""Personalised PageRank over chunks and entities, as HippoRAG retrieves (arXiv 2405.14831).

A walk starts at a chunk or an entity, goes from a chunk to one of its entities and from an entity to one of
its chunks, and after each step starts again with probability `restart`; a chunk scores how often it is
visited. The start is that of HippoRAG 2 (arXiv 2502.14802), passages by their similarity to the question and
entities, but for the model that chooses the entities there: here they are those of the seeds, by similarity
and rarity. How much of the start lies on passages, and how steeply it follows similarity, was chosen on
samples of MuSiQue and HotpotQA, where scores are flat around it.

Costs: 2·iterations passes over the pairs (chunk, entity) of the corpus.
"""

import numpy as np
from jaxtyping import Float, Int

from minisys.core.checks import check
from minisys.kgrag.expansion import GraphIndex

PASSAGES = 1000  # chunks at which a walk may start
ON_PASSAGES = 0.3  # share of the start on chunks; the rest is on entities
STEEPNESS = 8  # weights follow this power of the cosine


class PageRankIndex:
    """The pairs (chunk, entity), each once, as two sparse matrices of transition probabilities."""

    def __init__(self, index: GraphIndex) -> None:
        from scipy.sparse import csr_array

        chunks = np.concatenate([index.chunks, index.chunks])
        entities = np.concatenate([index.heads, index.tails])
        shape = (index.graph.num_chunks, index.num_entities)
        pairs = csr_array((np.ones(len(chunks)), (chunks, entities)), shape=shape)
        pairs.sum_duplicates()
        pairs.data[:] = 1
        per_chunk = np.asarray(pairs.sum(axis=1)).ravel()
        per_entity = np.asarray(pairs.sum(axis=0)).ravel()
        from_chunk = pairs.multiply(1 / np.maximum(per_chunk, 1)[:, None])
        from_entity = pairs.multiply(1 / np.maximum(per_entity, 1)[None, :])
        # Transposed, so that a step is a product of a matrix in rows and a vector.
        self.to_entity, self.to_chunk = csr_array(from_chunk.T), csr_array(from_entity)
        # From a chunk without entities, or an entity without chunks, a walk can only start again.
        self.stuck_chunks, self.stuck_entities = per_chunk == 0, per_entity == 0

    def scores(
        self,
        chunks: Float[np.ndarray, " chunks"],
        entities: Float[np.ndarray, " entities"],
        *,
        restart: float = 0.5,
        iterations: int = 30,
    ) -> Float[np.ndarray, " chunks"]:
        """Visits of each chunk, float64 ``[chunks]``; with those of the entities they sum to 1.

        chunks, entities: weights of the start, of any sum above 0.
        iterations: after i of them the error is below (1 - restart)^i.
        """
        for name, weights, stuck in (
            ("chunks", chunks, self.stuck_chunks),
            ("entities", entities, self.stuck_entities),
        ):
            fits = weights.shape == stuck.shape and bool((weights >= 0).all())
            check(fits, name, f"shape {weights.shape}", f"{stuck.shape}, weights of 0 or more")
        total = float(chunks.sum() + entities.sum())
        check(total > 0, "chunks", "no weight on them nor on entities", "a start")
        check(0 < restart < 1, "restart", restart, "a probability between 0 and 1")
        at_chunks, at_entities = chunks / total, entities / total
        start_chunks, start_entities = at_chunks, at_entities
        for _ in range(iterations):
            lost = at_chunks[self.stuck_chunks].sum() + at_entities[self.stuck_entities].sum()
            again = restart + (1 - restart) * float(lost)
            moved = self.to_chunk @ at_entities, self.to_entity @ at_chunks
            at_chunks = again * start_chunks + (1 - restart) * moved[0]
            at_entities = again * start_entities + (1 - restart) * moved[1]
        return at_chunks


def start_weights(
    index: GraphIndex,
    rarity: Float[np.ndarray, " entities"],
    chunks: Int[np.ndarray, " n"],
    similarities: Float[np.ndarray, " n"],
    num_seeds: int,
) -> tuple[Float[np.ndarray, " chunks"], Float[np.ndarray, " entities"]]:
    """Where the walk starts: weights of all chunks and of all entities, float64.

    chunks: numbers, the most similar to the question first; the first `num_seeds` of them name the entities.
    similarities: their cosines; one below 0 counts as 0, and all of them as equal where none is above it.
    """
    check(len(chunks) > 0, "chunks", "none", "at least one")
    cosines = np.maximum(np.asarray(similarities, np.float64), 0)
    if not cosines.any():
        cosines = np.ones(len(chunks))
    passages = np.zeros(index.graph.num_chunks)
    passages[chunks] = cosines**STEEPNESS
    entities = np.zeros(index.num_entities)
    for seed, cosine in zip(chunks[:num_seeds].tolist(), cosines, strict=False):
        own = index.triples_of_chunks([seed])
        named = np.unique(np.concatenate([index.heads[own], index.tails[own]]))
        entities[named] += cosine**STEEPNESS * rarity[named]
    if entities.any():
        passages *= ON_PASSAGES / passages.sum()
        entities *= (1 - ON_PASSAGES) / entities.sum()
    return passages, entities
