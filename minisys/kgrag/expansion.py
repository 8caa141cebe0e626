"""Expansion: from seed chunks over the knowledge graph to what is m hops away (arXiv 2502.06864, 3.2).

`GraphIndex` sorts the triples by chunk and by entity once, as compressed rows (CSR): the triples of an entity
are a slice of one array. A hop then is a gather of slices, no loop over entities. `expand` equals
`minisys.kgrag.graph.expand_reference`.

Costs: the index takes 12 bytes a triple beside the graph; a query reads each triple of a reached entity once.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from minisys.core.checks import check
from minisys.kgrag.types import Graph


class GraphIndex:
    """The triples of a graph by chunk, and by entity in either role.

    Raises ValueError where a triple points outside entities or chunks, or lengths differ.
    """

    def __init__(self, graph: Graph) -> None:
        _check_graph(graph)
        self.graph = graph
        self.heads = np.asarray(graph.heads, np.int32)
        self.tails = np.asarray(graph.tails, np.int32)
        self.chunks = np.asarray(graph.chunks, np.int32)
        self.num_entities = len(graph.entities)
        self._of_chunk = _rows(self.chunks, graph.num_chunks)
        self._of_head = _rows(self.heads, self.num_entities)
        self._of_tail = _rows(self.tails, self.num_entities)

    def triples_of_chunks(self, chunks: Sequence[int] | Int[np.ndarray, " n"]) -> Int[np.ndarray, " triples"]:
        """Numbers of the triples that `chunks` state; in the order of `chunks`, ascending within one."""
        return _gather(self._of_chunk, np.asarray(chunks, np.int64))

    def triples_of_entities(self, entities: Int[np.ndarray, " n"]) -> Int[np.ndarray, " triples"]:
        """Numbers of the triples with one of `entities` as head or as tail; with both, it comes twice."""
        return np.concatenate([_gather(self._of_head, entities), _gather(self._of_tail, entities)])

    def degrees(self) -> Int[np.ndarray, " entities"]:
        """How many triples each entity is in; a triple to itself counts twice."""
        return np.diff(self._of_head[0]) + np.diff(self._of_tail[0])


def expand(
    index: GraphIndex, seeds: Sequence[int] | Int[np.ndarray, " n"], hops: int
) -> Int[np.ndarray, " triples"]:
    """Numbers of the triples between all entities within `hops` of those in the seed chunks, ascending.

    seeds: chunk numbers; one without triples adds nothing.
    hops: m of the paper; with 0, triples between the seeds' own entities, from any chunk.

    Raises ValueError for a chunk number outside the corpus and for negative hops.
    """
    whole = isinstance(hops, (int, np.integer)) and not isinstance(hops, bool)
    check(whole and hops >= 0, "hops", repr(hops), "a whole number of at least 0")
    seeds = np.unique(np.asarray(seeds, np.int64))
    num_chunks = index.graph.num_chunks
    inside = seeds.size == 0 or (seeds[0] >= 0 and seeds[-1] < num_chunks)
    check(bool(inside), "seeds", f"{seeds[:1]} … {seeds[-1:]}", f"chunk numbers from 0 to {num_chunks - 1}")
    reached = reached_entities(index, index.triples_of_chunks(seeds), hops)
    from_heads = _gather(index._of_head, np.flatnonzero(reached))
    return np.sort(from_heads[reached[index.tails[from_heads]]])


def reached_entities(
    index: GraphIndex, triples: Int[np.ndarray, " n"], hops: int
) -> Bool[np.ndarray, " entities"]:
    """Which entities are within `hops` of an end of `triples`."""
    reached = np.zeros(index.num_entities, bool)
    reached[index.heads[triples]] = True
    reached[index.tails[triples]] = True
    frontier = np.flatnonzero(reached)
    for _ in range(hops):
        touched = index.triples_of_entities(frontier)
        near = np.zeros(index.num_entities, bool)
        near[index.heads[touched]] = True
        near[index.tails[touched]] = True
        frontier = np.flatnonzero(near & ~reached)
        if not frontier.size:
            break
        reached[frontier] = True
    return reached


def _rows(keys: Int[np.ndarray, " n"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Compressed rows: positions of ``keys == r`` are ``positions[starts[r]:starts[r + 1]]``, ascending."""
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=starts[1:])
    return starts, np.argsort(keys, kind="stable").astype(np.int32)


def _gather(rows: tuple[np.ndarray, np.ndarray], wanted: Int[np.ndarray, " n"]) -> Int[np.ndarray, " found"]:
    """Concatenate the rows `wanted`, without a loop: a running count, shifted to each row's start."""
    starts, positions = rows
    lengths = starts[wanted + 1] - starts[wanted]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    shift = np.repeat(starts[wanted] - (ends - lengths), lengths)
    return positions[np.arange(total) + shift]


def _check_graph(graph: Graph) -> None:
    count = len(graph.relations)
    for name in ("heads", "tails", "chunks"):
        array = getattr(graph, name)
        check(array.shape == (count,), f"graph.{name}", f"shape {array.shape}", f"({count},), as relations")
        limit = graph.num_chunks if name == "chunks" else len(graph.entities)
        inside = count == 0 or (int(array.min()) >= 0 and int(array.max()) < limit)
        bounds = f"{array.min()} … {array.max()}" if count else "nothing"
        check(inside, f"graph.{name}", bounds, f"numbers from 0 to {limit - 1}")
