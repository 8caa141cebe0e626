"""Reference of expansion and organization, in networkx (arXiv 2502.06864, sections 3.2 and 3.3).

The knowledge graph is an undirected multigraph: a node an entity, an edge a triple, which remembers its
chunk.

- Expansion (3.2): from the entities of the seed chunks' triples, breadth first over m hops; all triples
  between reached entities belong to the expanded graph, and so do their chunks.
- Organization (3.3): each edge weighs as much as its chunk is similar to the question; of each connected
  component the *maximum* spanning tree stays, so that of several ways to say the same the most relevant does;
  depth first from the heaviest edge gives each tree its order.

What the paper leaves open is decided here, and the fast path (`expansion`, `organization`) does the same:

- All triples of a chunk weigh the same, so ties are the rule: of equal weights the lower triple number comes
  first. That makes the trees unique. A NaN is refused.
- Depth first starts at the head of the heaviest triple and takes heavier edges first; trees come in the order
  of their heaviest edges.
- A triple from an entity to itself is expanded but is in no tree.

This is the oracle: slow (it builds graphs of Python objects) and easy to check.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from minisys.core.checks import check
from minisys.kgrag.types import Graph

if TYPE_CHECKING:
    import networkx as nx


def knowledge_graph(graph: Graph) -> "nx.MultiGraph":
    """All triples as an undirected multigraph: entity numbers as nodes, triple numbers as keys of edges."""
    import networkx as nx

    knowledge = nx.MultiGraph(of_chunk={})  # entities of each chunk: where expansion starts
    knowledge.add_nodes_from(range(len(graph.entities)))
    ends = zip(graph.heads.tolist(), graph.tails.tolist(), graph.chunks.tolist(), strict=True)
    for triple, (head, tail, chunk) in enumerate(ends):
        knowledge.add_edge(head, tail, key=triple, chunk=chunk)
        knowledge.graph["of_chunk"].setdefault(chunk, set()).update((head, tail))
    return knowledge


def expand_reference(knowledge: "nx.MultiGraph", seeds: Sequence[int], hops: int) -> list[int]:
    """Numbers of the triples between all entities within `hops` of those in the seed chunks, ascending.

    seeds: chunk numbers.
    hops: m of the paper; with 0, triples between the seeds' own entities.
    """
    import networkx as nx

    check(hops >= 0, "hops", hops, "0 or more")
    first = set().union(*(knowledge.graph["of_chunk"].get(chunk, ()) for chunk in seeds))
    reached = set(first)
    for entity in first:
        reached |= set(nx.single_source_shortest_path_length(knowledge, entity, cutoff=hops))
    return sorted(triple for _, _, triple in knowledge.subgraph(reached).edges(keys=True))


def organize_reference(
    graph: Graph, triples: Sequence[int], weights: Sequence[float]
) -> list[tuple[list[int], int]]:
    """The maximum spanning trees of the graph of `triples`, each as its triples in depth-first order.

    triples: different triple numbers; weights: one for each, larger is better.

    Returns a list of ``(triples, root)``, root being the entity where the tree begins.
    """
    import networkx as nx

    check(len(triples) == len(weights), "weights", f"{len(weights)} of them", f"{len(triples)}")
    check(not np.isnan(np.asarray(weights, float)).any(), "weights", "a NaN", "numbers")
    order = sorted(zip((-float(w) for w in weights), (int(t) for t in triples), strict=True))
    rank = {triple: place for place, (_, triple) in enumerate(order)}  # 0 is the heaviest; no ties
    query_graph = nx.MultiGraph()
    for triple, place in rank.items():
        head, tail = int(graph.heads[triple]), int(graph.tails[triple])
        query_graph.add_edge(head, tail, key=triple, weight=-place)
    trees = []
    for component in nx.connected_components(query_graph):
        tree = nx.maximum_spanning_tree(query_graph.subgraph(component))
        kept = sorted((rank[triple] for _, _, triple in tree.edges(keys=True)))
        if not kept:  # an entity with nothing but triples to itself
            continue
        root = int(graph.heads[order[kept[0]][1]])
        trees.append((kept[0], _depth_first(tree, root, rank), root))
    return [(triples_in_order, root) for _, triples_in_order, root in sorted(trees)]


def _depth_first(tree: "nx.MultiGraph", root: int, rank: dict[int, int]) -> list[int]:
    found, visited = [], {root}

    def edges(entity: int) -> Iterator[tuple[int, int, int]]:
        return iter(
            sorted((rank[triple], other, triple) for _, other, triple in tree.edges(entity, keys=True))
        )

    stack = [edges(root)]  # a stack of its own: trees may be deeper than Python's recursion
    while stack:
        _, other, triple = next(stack[-1], (None, None, None))
        if triple is None:
            stack.pop()
        elif other not in visited:
            visited.add(other)
            found.append(triple)
            stack.append(edges(other))
    return found
