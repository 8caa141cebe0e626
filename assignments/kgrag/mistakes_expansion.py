"""What typical mistakes with expansion give, the likeliest first."""

from minisys.grade.assignment import Mistake

from .oracle import expanded

READY_MADE = Mistake(
    "ready-made",
    "The result is right, but a library computed it. Write the algorithm yourself, in plain Python, and "
    "compare with the library afterwards, as the grader does.",
)


def ends_of(triples):
    return {end for triple in triples for end in (triple.head, triple.tail)}


def walk(
    seeds,
    in_chunk,
    at_entity,
    hops,
    *,
    follow=lambda triple, entity: True,
    stays=lambda triple, reached: triple.head in reached and triple.tail in reached,
    walked_only=False,
    from_seeds=True,
):
    """Expansion with one thing done otherwise: which triples are followed, and which of those found stay."""
    walked = [triple for chunk in seeds for triple in in_chunk(chunk)]
    reached, frontier = set(), ends_of(walked)
    for _ in range(hops):
        reached |= frontier
        found = [t for entity in frontier for t in at_entity(entity) if follow(t, entity)]
        walked += found
        frontier = ends_of(found) - reached
    reached |= frontier
    around = walked if walked_only else [triple for entity in reached for triple in at_entity(entity)]
    kept = {triple.number: triple.chunk for triple in around if stays(triple, reached)}
    return [sorted(kept), sorted({*kept.values(), *(seeds if from_seeds else ())})]


def no_loops(triple, reached):
    return triple.head != triple.tail and {triple.head, triple.tail} <= reached


def other_hops(change):
    return lambda seeds, in_chunk, at_entity, hops: expanded(seeds, in_chunk, at_entity, max(0, change(hops)))


def whole_chunks(seeds, in_chunk, at_entity, hops):
    _, chunks = expanded(seeds, in_chunk, at_entity, hops)
    return [sorted(triple.number for chunk in chunks for triple in in_chunk(chunk)), chunks]


def chunk_twice(seeds, in_chunk, at_entity, hops):
    numbers, chunks = expanded(seeds, in_chunk, at_entity, hops)
    of = {triple.number: triple.chunk for found in in_chunk.everything.values() for triple in found}
    stated = [of[number] for number in numbers]
    return [numbers, sorted(stated + [chunk for chunk in chunks if chunk not in stated])]


def seeds_again(seeds, in_chunk, at_entity, hops):
    numbers, _ = expanded(seeds, in_chunk, at_entity, hops)
    of = {triple.number: triple.chunk for found in in_chunk.everything.values() for triple in found}
    return [numbers, sorted([*seeds, *{of[number] for number in numbers}])]


DIRECTED_WALK = (
    "You follow triples in one direction only. The graph is undirected: from an entity you reach the tails "
    "of the triples that it heads, and the heads of those that it ends."
)
EXPANSION = [
    Mistake(
        "directed",
        DIRECTED_WALK,
        lambda *given, **named: walk(*given, **named, follow=lambda triple, entity: triple.head == entity),
    ),
    Mistake(
        "directed",
        DIRECTED_WALK,
        lambda *given, **named: walk(*given, **named, follow=lambda triple, entity: triple.tail == entity),
    ),
    Mistake(
        "only-walked",
        "You keep the triples that the search walked over. All triples between reached entities belong to "
        "the expanded graph, those between two entities of the last hop as well.",
        lambda *given, **named: walk(*given, **named, walked_only=True),
    ),
    Mistake(
        "one-end",
        "You keep triples with one end outside of what was reached. Both ends must be reached.",
        lambda *given, **named: walk(*given, **named, stays=lambda triple, reached: True),
    ),
    Mistake(
        "one-hop-more",
        "You go one hop too far. The entities of the seeds' triples are reached with 0 hops.",
        other_hops(lambda hops: hops + 1),
    ),
    Mistake(
        "one-hop-less",
        "You go one hop too few. The entities of the seeds' triples are reached with 0 hops, and each of the "
        "hops goes one further.",
        other_hops(lambda hops: hops - 1),
    ),
    Mistake(
        "no-hops",
        "You do not count the hops: all that hangs together with the seeds is there.",
        other_hops(lambda hops: 1000),
    ),
    Mistake(
        "whole-chunks",
        "You add all triples of the chunks that were found. Of a found chunk only the triples belong to the "
        "graph whose ends were both reached.",
        whole_chunks,
    ),
    Mistake(
        "no-seeds",
        "Seeds that state no triple are lost. The seeds belong to the expanded chunks in any case.",
        lambda *given, **named: walk(*given, **named, from_seeds=False),
    ),
    Mistake(
        "loops",
        "Triples from an entity to itself are missing. They are left out of the trees, but belong to the "
        "expanded graph.",
        lambda *given, **named: walk(*given, **named, stays=no_loops),
    ),
    Mistake("chunk-twice", "A chunk is there once a triple. List each chunk once.", chunk_twice),
    Mistake("chunk-twice", "Seeds are there twice. List each chunk once.", seeds_again),
]
