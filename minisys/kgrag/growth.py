"""Growing a context over the graph, chunk by chunk, until it explains the question.

The paper (arXiv 2502.06864, 3.3) scores each tree against the question as a whole. With a reranker that is
not trained for multi-hop questions this ties with or loses to no organization: a tree's triples are many, and
the few that matter drown; and a chunk of the second hop explains only the end of a question ("… is in which
city?"). So the tree is grown instead, as Prim's algorithm grows a spanning tree, and its text is scored as a
set. The next chunk is the one with the largest

    base(c)  +  0.4 · max over chosen s of rarity of an entity that c and s share
             +  mean over the question's tokens t of  max(0, log p(t | c) - max over chosen s of log p(t | s))

- The first term is what the chunk is worth by itself (`minisys.kgrag.paths`).
- The second is the edge to the tree: rare entities are paths, frequent ones crossroads. `base` counts the
  best seed in the same way, so only what exceeds that is added.
- The third is query likelihood of the set: each token of the question needs one chunk that explains it, and a
  chunk that explains what is explained already adds nothing. (Its sum is facility location, monotone and
  submodular, for which greedy choice is within 1 - 1/e of the best, Nemhauser, Wolsey and Fisher 1978; the
  second term has no such bound.) At the start a token counts as explained as well as its worst candidate
  explains it.

Costs: n² shared entities for n candidates (n is the pool, 40), and k passes over n · tokens numbers.
"""

import numpy as np
from jaxtyping import Float, Int

from minisys.core.checks import check, check_positive_int
from minisys.kgrag.expansion import GraphIndex

EDGE = 0.4


def shared_rarity(
    index: GraphIndex, rarity: Float[np.ndarray, " entities"], chunks: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n n"]:
    """Rarity of the rarest entity two chunks share, 0 for none and on the diagonal, float64 ``[n, n]``."""
    triples = index.triples_of_chunks(chunks)
    place = np.zeros(index.graph.num_chunks, np.int64)
    place[chunks] = np.arange(len(chunks))
    owner = place[index.chunks[triples]]
    ends = np.concatenate([index.heads[triples], index.tails[triples]])
    entities, column = np.unique(ends, return_inverse=True)
    has = np.zeros((len(chunks), len(entities)), bool)
    has[np.concatenate([owner, owner]), column] = True
    shared = np.zeros((len(chunks), len(chunks)))
    if len(entities):
        for row in range(len(chunks)):
            own = has[row]
            shared[row] = (has[:, own] * rarity[entities[own]]).max(axis=1, initial=0)
    np.fill_diagonal(shared, 0)
    return shared


def grow(
    base: Float[np.ndarray, " n"],
    links: Float[np.ndarray, " n"],
    shared: Float[np.ndarray, "n n"],
    k: int,
    log_likelihoods: Float[np.ndarray, "n tokens"] | None = None,
) -> tuple[Int[np.ndarray, " chosen"], Float[np.ndarray, " chosen"]]:
    """Choose at most `k` of n candidates; of equal gains the earlier candidate.

    base: worth by itself, the path from the seeds left out; links: that path's term (as it is added);
    shared: as from `shared_rarity`; log_likelihoods: of each token of the question after each candidate, or
    None where no language model reads: the third term is left out.

    Returns places in the order of choice, and their gains.
    """
    check_positive_int("k", k)
    n = len(base)
    check(links.shape == (n,), "links", f"shape {links.shape}", f"({n},)")
    check(shared.shape == (n, n), "shared", f"shape {shared.shape}", f"({n}, {n})")
    if log_likelihoods is not None:
        shape = log_likelihoods.shape
        check(len(shape) == 2 and shape[0] == n and shape[1] > 0, "log_likelihoods", f"shape {shape}",
              f"[{n}, tokens > 0]")  # fmt: skip
    count = min(k, n)
    chosen, gains = np.zeros(count, np.int64), np.zeros(count)
    path = np.array(links, np.float64)
    left = np.ones(n, bool)
    explained = log_likelihoods.min(axis=0) if log_likelihoods is not None and n else None
    for step in range(count):
        gain = base + path
        if explained is not None:
            gain = gain + np.maximum(log_likelihoods - explained, 0).mean(axis=1)
        gain[~left] = -np.inf
        place = int(np.argmax(gain))
        chosen[step], gains[step], left[place] = place, gain[place], False
        path = np.maximum(path, EDGE * shared[place])
        if explained is not None:
            explained = np.maximum(explained, log_likelihoods[place])
    return chosen, gains
