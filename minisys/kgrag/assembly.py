"""From a forest to a context: triple strings, trees in order, the budget (arXiv 2502.06864, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from minisys.core.checks import check
from minisys.kgrag.expansion import GraphIndex
from minisys.kgrag.organization import Forest
from minisys.kgrag.types import Graph


@dataclass(frozen=True)
class Tree:
    """A spanning tree as it is offered to the context.

    Attributes:
        triples: triple numbers, depth first from the heaviest; none for a chunk that no triple joins to
        others.
        chunks: their chunks in the order of first mention.
        score: what the reranker gave.
    """

    triples: tuple[int, ...]
    chunks: tuple[int, ...]
    score: float = 0.0


def trees_of(
    index: GraphIndex, forest: Forest, alone: Sequence[int] | Int[np.ndarray, " n"] = ()
) -> list[Tree]:
    """The trees of `forest` in order, and behind them a tree without triples for each chunk of `alone`."""
    trees = []
    for number in range(len(forest)):
        triples = forest.tree(number)
        chunks, first = np.unique(index.chunks[triples], return_index=True)
        trees.append(Tree(tuple(triples.tolist()), tuple(chunks[np.argsort(first)].tolist())))
    return trees + [Tree((), (int(chunk),)) for chunk in alone]


def triple_string(graph: Graph, triples: Sequence[int], limit: int = 64) -> str:
    """“head relation tail. …” for the first `limit` triples: what the paper's reranker reads of a tree."""
    facts = (
        f"{graph.entities[graph.heads[t]]} {graph.relations[t]} {graph.entities[graph.tails[t]]}."
        for t in triples[:limit]
    )
    return " ".join(facts)


def fill(trees: Sequence[Tree], k: int, *, whole: bool = False) -> list[int]:
    """Chunks of `trees` in order, each once, at most `k`.

    whole: stop before the first tree that does not fit whole, as the released code does; otherwise that tree
        is cut in depth-first order.
    """
    taken: dict[int, None] = {}
    for tree in trees:
        if whole and len(set(taken) | set(tree.chunks)) > k:
            break
        for chunk in tree.chunks:
            if len(taken) == k:
                return list(taken)
            taken[chunk] = None
    return list(taken)


def scored(trees: Sequence[Tree], scores: Float[np.ndarray, " trees"]) -> list[Tree]:
    """The trees with their scores, the best first; of equal ones the earlier."""
    check(len(trees) == len(scores), "scores", f"{len(scores)} of them", f"{len(trees)}, one a tree")
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    return [Tree(trees[i].triples, trees[i].chunks, float(scores[i])) for i in order]
