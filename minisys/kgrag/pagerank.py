"""Personalised PageRank over chunks and entities, as HippoRAG retrieves (arXiv 2405.14831), from seed chunks.

A walk starts at a seed chunk, drawn by similarity, goes to an entity of the chunk, from there to a chunk with
that entity, and starts again with probability `restart` after each such step; a chunk scores how often it is
visited. HippoRAG starts at entities that a language model finds in the question; here the start needs no
model.

Costs: 2·iterations passes over the pairs (chunk, entity) of the corpus.
"""

import numpy as np
from jaxtyping import Float, Int

from minisys.core.checks import check
from minisys.kgrag.expansion import GraphIndex


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
        self.stuck = per_chunk == 0  # a chunk without entities: the walk can only start again

    def scores(
        self,
        seeds: Int[np.ndarray, " seeds"],
        weights: Float[np.ndarray, " seeds"],
        *,
        restart: float = 0.5,
        iterations: int = 15,
    ) -> Float[np.ndarray, " chunks"]:
        """Visits of each chunk, float64 ``[chunks]``, summing to 1.

        weights: of the seeds, negative ones count as 0; all zero: the same for each.
        iterations: after i of them the error is below (1 - restart)^i.
        """
        check(len(seeds) > 0, "seeds", "none", "at least one")
        check(0 < restart < 1, "restart", restart, "a probability between 0 and 1")
        weights = np.maximum(np.asarray(weights, np.float64), 0)
        if not weights.any():
            weights = np.ones(len(seeds))
        start = np.zeros(len(self.stuck))
        np.add.at(start, seeds, weights / weights.sum())
        visits = start
        for _ in range(iterations):
            moved = self.to_chunk @ (self.to_entity @ visits)
            lost = float(visits[self.stuck].sum())
            visits = (restart + (1 - restart) * lost) * start + (1 - restart) * moved
        return visits
