"""Organization: maximum spanning trees of the expanded graph, depth first (arXiv 2502.06864, section 3.3).

`organize` equals `minisys.kgrag.graph.organize_reference`, which states the rules for ties and order.
Everything is arrays: parallel edges are dropped after one sort, scipy's compiled routines find the forest and
walk it. The weights given to scipy are ranks, which are all different, so that the result does not depend on
its sort. A further node that is joined to the root of each tree makes one walk out of many.

Costs: O(n log n) for n triples, about 60 bytes each while it runs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from minisys.core.checks import check
from minisys.kgrag.expansion import GraphIndex


@dataclass(frozen=True, eq=False)
class Forest:
    """Spanning trees, one behind the other, the tree with the heaviest edge first.

    Attributes:
        triples: triple numbers in depth-first order, int64 ``[edges]``.
        starts: where each tree begins, int64 ``[trees + 1]``; tree i is ``triples[starts[i]:starts[i + 1]]``.
        roots: the entity where each tree begins, int64 ``[trees]``.
    """

    triples: Int[np.ndarray, " edges"]
    starts: Int[np.ndarray, " trees_and_one"]
    roots: Int[np.ndarray, " trees"]

    def __len__(self) -> int:
        return len(self.roots)

    def tree(self, number: int) -> Int[np.ndarray, " edges"]:
        return self.triples[self.starts[number] : self.starts[number + 1]]


def organize(index: GraphIndex, triples: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> Forest:
    """The maximum spanning forest of the graph of `triples`, and each tree's depth-first order.

    triples: different triple numbers; weights: one for each, larger is better, no NaN.
    """
    triples = np.asarray(triples, np.int64)
    return spanning_forest(triples, index.heads[triples], index.tails[triples], weights, index.num_entities)


def spanning_forest(
    triples: Int[np.ndarray, " n"],
    heads: Int[np.ndarray, " n"],
    tails: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    num_entities: int,
) -> Forest:
    """The same for edges that need not be in an index; `triples` are any different numbers that name them."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    weights = np.asarray(weights)
    check(triples.shape == weights.shape, "weights", f"shape {weights.shape}", f"{triples.shape}")
    check(not np.isnan(weights).any(), "weights", "a NaN", "numbers")
    order = np.lexsort((triples, -weights))  # heaviest first; ties by number
    triples, heads, tails = triples[order], heads[order].astype(np.int64), tails[order].astype(np.int64)
    proper = heads != tails
    triples, heads, tails = triples[proper], heads[proper], tails[proper]
    if not len(triples):
        nothing = np.zeros(0, np.int64)
        return Forest(nothing, np.zeros(1, np.int64), nothing)

    # Of parallel edges the heaviest stays: np.unique gives the first place of each pair.
    pairs = np.minimum(heads, tails) * num_entities + np.maximum(heads, tails)
    first = np.sort(np.unique(pairs, return_index=True)[1])
    triples, heads, tails = triples[first], heads[first], tails[first]
    number = np.zeros(num_entities, np.int32)  # entities of this graph, numbered from 0
    entities = np.flatnonzero(_marked(num_entities, heads, tails))
    number[entities] = np.arange(len(entities))
    nodes = len(entities)
    ranks = np.arange(1, len(triples) + 1, dtype=np.float64)  # scipy takes 0 for no edge
    graph = csr_array((ranks, (number[heads], number[tails])), shape=(nodes, nodes))
    kept = np.sort(minimum_spanning_tree(graph).data.astype(np.int64)) - 1  # lowest ranks: heaviest edges
    triples, heads, tails = triples[kept], number[heads[kept]], number[tails[kept]]
    return _walk(triples, heads, tails, entities)


def _marked(size: int, *places: np.ndarray) -> np.ndarray:
    marks = np.zeros(size, bool)
    for place in places:
        marks[place] = True
    return marks


def _walk(triples: np.ndarray, heads: np.ndarray, tails: np.ndarray, entities: np.ndarray) -> Forest:
    """Order a forest's edges depth first, heavier first; they come heaviest first, ends numbered from 0."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, depth_first_order

    nodes, edges = len(entities), len(triples)
    forest = csr_array((np.ones(edges, np.int8), (heads, tails)), shape=(nodes, nodes))
    trees, component = connected_components(forest, directed=False)
    first_edge = np.full(trees, edges)
    np.minimum.at(first_edge, component[heads], np.arange(edges))
    roots = heads[np.sort(first_edge)]

    # Each edge in both directions; a row's entries are heaviest first, and the walk takes them as stored.
    rows, columns = np.stack([heads, tails], 1).ravel(), np.stack([tails, heads], 1).ravel()
    order = np.argsort(rows, kind="stable")
    starts = np.zeros(nodes + 2, np.int32)
    np.cumsum(np.bincount(rows, minlength=nodes), out=starts[1 : nodes + 1])
    starts[nodes + 1] = starts[nodes] + trees  # the further node: from it to each root
    columns = np.concatenate([columns[order], roots]).astype(np.int32)
    both = csr_array((np.ones(len(columns)), columns, starts), shape=(nodes + 1, nodes + 1))
    visited, before = depth_first_order(both, nodes, directed=True, return_predecessors=True)

    edge_to = np.full(nodes + 1, -1)
    edge_to[np.where(before[heads] == tails, heads, tails)] = np.arange(edges)
    walked = edge_to[visited[1:]]  # -1 at the roots
    is_root = walked < 0
    sizes = np.diff(np.append(np.flatnonzero(is_root), nodes)) - 1
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return Forest(triples[walked[~is_root]], ends.astype(np.int64), entities[roots].astype(np.int64))
