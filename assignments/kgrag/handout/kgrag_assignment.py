"""Retrieval guided by a knowledge graph, in four parts. Fill in the four functions; README.md says how they
are graded.

A corpus is cut into chunks, here sentences, which are numbered. A triple (head, relation, tail) is a fact
that a chunk states; it has a number and remembers its chunk. Heads and tails are entities, told apart by
their names. The graph is undirected: a triple is an edge between its head and its tail, whichever of them
comes first. Two entities may be joined by several triples, and a triple may join an entity to itself.

Use plain Python and its standard library.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Triple(NamedTuple):
    """A fact: `head` `relation` `tail`, stated by the chunk of number `chunk`."""

    number: int
    head: str
    relation: str
    tail: str
    chunk: int


class Page(NamedTuple):
    """What there is to read of a chunk: its text, and the title of the document that it is from."""

    title: str
    text: str


def expand(
    seeds: Sequence[int],
    in_chunk: Callable[[int], list[Triple]],
    at_entity: Callable[[str], list[Triple]],
    hops: int,
) -> tuple[list[int], list[int]]:
    """Part 1: from seed chunks over the graph to what is `hops` away (section 3.2 of the paper).

    `seeds` are numbers of chunks, in any order. ``in_chunk(chunk)`` looks up the triples that a chunk states;
    there may be none. ``at_entity(name)`` looks up the triples that have an entity as head or as tail.

    Begin with the entities of the seeds' triples, and go on breadth first over `hops` hops; with 0 hops those
    are all that is reached. To the expanded graph belong all triples between reached entities, from whatever
    chunk and by whatever way their ends were reached, those from an entity to itself included. A triple with
    one end outside does not belong to it.

    Return two lists, both ascending: the numbers of these triples, and the numbers of the expanded chunks,
    which are the seeds and the chunks of these triples, each once.
    """
    raise NotImplementedError


def spanning_trees(triples: Sequence[Triple], weights: Sequence[float]) -> list[list[int]]:
    """Part 2: the maximum spanning tree of every connected component (section 3.3).

    ``weights[i]`` says how similar the chunk of ``triples[i]`` is to the question. The heaviest triples stay:
    of all ways to keep a component together without a cycle, a maximum spanning tree has the largest sum of
    weights. Of equal weights the triple with the lower number goes first, which makes the trees unique.

    Return the numbers of each tree's triples, ascending, in a list of its own. Trees come in the order of
    their heaviest triples. A triple from an entity to itself is in no tree, and a tree without a triple is
    left out.
    """
    raise NotImplementedError


def write_tree(tree: Sequence[Triple], weights: Sequence[float], limit: int) -> tuple[list[int], str]:
    """Part 3: the order in which a tree is read (section 3.3).

    `tree` is one tree of part 2 with its weights, its triples in no order that means anything. Walk through
    it depth first: begin at the head of the heaviest triple, and at every entity take heavier triples first,
    of equal ones the lower number. Triples are walked in both directions, and are written as they are stated.
    A tree may have more levels than Python allows calls within calls.

    Return the numbers of all chunks in the order in which the walk meets them, each once, and the triple
    string of the first `limit` triples of the walk: ``"head relation tail. head relation tail."``
    """
    raise NotImplementedError


def assemble(
    trees: Sequence[Sequence[int]],
    scores: Sequence[float],
    loose: Sequence[int],
    read: Callable[[int], Page],
    k: int,
) -> list[str]:
    """Part 4: the context that the question is answered from (section 3.3).

    ``trees[i]`` holds the numbers of a tree's chunks in the order of part 3, and ``scores[i]`` what a
    reranker gave for its triple string. `loose` are the expanded chunks that are in no tree, best first. A
    chunk may be in several trees. ``read(chunk)`` reads a chunk; reading is what costs, so read what you
    return, once.

    Take the trees by score, the highest first, of equal ones the earlier, and behind them the loose chunks.
    Take chunks in this order, each once, until there are `k`; the last tree is cut where the budget ends.

    Return a line ``"title: text"`` for each of these chunks, in the order in which they were taken.
    """
    raise NotImplementedError
