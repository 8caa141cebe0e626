"""The right answers: the course's reference, which uses networkx; and graphs to ask about."""

from collections.abc import Sequence
from random import Random

import numpy as np
import torch

from minisys.kgrag.graph import expand_reference, knowledge_graph, organize_reference
from minisys.kgrag.types import Graph

Row = list  # [number, head, relation, tail, chunk], as a triple is sent
RELATIONS = ("knows", "made", "is in", "taught", "wrote to")
TITLES = ("Oak", "Fen", "Ash", "Mill", "Inn", "Bay", "Elm", "Zoo")


def as_graph(triples: Sequence) -> Graph:
    """The triples as the course's graph; triple i of it is the one with the i-th lowest number."""
    triples = sorted(triples, key=lambda triple: triple.number)
    names = list(dict.fromkeys(end for triple in triples for end in (triple.head, triple.tail)))
    place = {name: i for i, name in enumerate(names)}
    column = lambda values: np.fromiter(values, np.int32, len(triples))
    return Graph(
        entities=names,
        relations=[triple.relation for triple in triples],
        heads=column(place[triple.head] for triple in triples),
        tails=column(place[triple.tail] for triple in triples),
        chunks=column(triple.chunk for triple in triples),
        num_chunks=1 + max((triple.chunk for triple in triples), default=0),
    )


def expanded(seeds, in_chunk, at_entity, hops):
    triples = [triple for found in in_chunk.everything.values() for triple in found]
    triples.sort(key=lambda triple: triple.number)
    numbers = expand_reference(knowledge_graph(as_graph(triples)), seeds, hops)
    inside = [triples[i] for i in numbers]
    chunks = sorted({*seeds, *(triple.chunk for triple in inside)})
    return [[triple.number for triple in inside], chunks]


def forest(triples, weights):
    """The trees of networkx, each as triples in depth-first order."""
    by_number = sorted(zip(triples, weights, strict=True), key=lambda pair: pair[0].number)
    graph = as_graph(triples)
    trees = organize_reference(graph, range(len(by_number)), [weight for _, weight in by_number])
    return [[by_number[i][0] for i in tree] for tree, _ in trees]


def trees(triples, weights):
    return [sorted(triple.number for triple in tree) for tree in forest(triples, weights)]


def written(tree, weights, limit):
    (walk,) = forest(tree, weights)
    chunks = list(dict.fromkeys(triple.chunk for triple in walk))
    return [chunks, told(walk[:limit])]


def told(triples):
    return " ".join(f"{triple.head} {triple.relation} {triple.tail}." for triple in triples)


def assembled(trees, scores, loose, read, k):
    taken: list[int] = []
    for _, tree in sorted(zip(scores, trees, strict=True), key=lambda pair: pair[0], reverse=True):
        taken += [chunk for chunk in dict.fromkeys(tree) if chunk not in taken]
    taken += [chunk for chunk in dict.fromkeys(loose) if chunk not in taken]
    return lines(read, taken[:k])


def lines(read, chunks):
    return [f"{page.title}: {page.text}" for page in map(read, chunks)]


# --- graphs to ask about ----------------------------------------------------------------------------------


def random_from(generator: torch.Generator) -> Random:
    return Random(int(torch.randint(2**62, (), generator=generator)))


def name_of(entity: int) -> str:
    """A, B, … Z, A1, B1, …"""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[entity % 26] + (str(entity // 26) if entity >= 26 else "")


def some_rows(random: Random, entities: int, count: int, chunks: int, loops: float = 0.05) -> list[Row]:
    """Triples over random names; a chunk states triples that follow one another."""
    names = random.sample([name_of(i) for i in range(entities)], entities)
    of_number = sorted(random.randrange(chunks) for _ in range(count))
    rows = []
    for number, chunk in enumerate(of_number):
        head, tail = random.sample(names, 2)
        tail = head if random.random() < loops else tail
        rows.append([number, head, random.choice(RELATIONS), tail, chunk])
    return rows


def some_tree(random: Random, count: int, chunks: int, near: int = 3) -> list[Row]:
    """A tree: each new entity hangs on one of the `near` before it, or now and then on any."""
    names = random.sample([name_of(i) for i in range(count + 1)], count + 1)
    numbers = random.sample(range(3 * count), count)
    rows = []
    for new in range(1, count + 1):
        other = random.randrange(max(0, new - near) if random.random() < 0.7 else 0, new)
        ends = [names[other], names[new]]
        random.shuffle(ends)
        rows.append([numbers[new - 1], ends[0], random.choice(RELATIONS), ends[1], random.randrange(chunks)])
    return rows


def drawn(rows: list[Row], weights: Sequence[float] | None = None) -> str:
    """Triples for a label: number:head-tail/chunk, and where there are weights =weight."""
    shown = [f"{number}:{head}-{tail}/{chunk}" for number, head, _, tail, chunk in rows]
    if weights is not None:
        shown = [f"{text}={weight:g}" for text, weight in zip(shown, weights, strict=True)]
    return " ".join(shown)
