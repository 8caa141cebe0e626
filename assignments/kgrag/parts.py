"""The assignment on retrieval guided by a knowledge graph: its parts, and what they are asked.

Graphs are drawn anew from the seed. The first cases are small enough to be shown whole in a message.
"""

from collections import Counter

from minisys.grade.assignment import Case, Part
from minisys.grade.wire import Given

from .costs import context_cost, expansion_cost, growth_of
from .mistakes_expansion import EXPANSION, READY_MADE
from .mistakes_text import CONTEXT, ORDER
from .mistakes_trees import TREES
from .oracle import (
    RELATIONS,
    TITLES,
    assembled,
    drawn,
    expanded,
    name_of,
    random_from,
    some_rows,
    some_tree,
    trees,
    written,
)

TITLE = "Retrieval guided by a knowledge graph"
PACKAGE = "minisys.kgrag"
ALLOWED: dict[str, str] = {}
FILE = "kgrag_assignment.py"
MOST_DRAWN = 14  # triples in a message


def given_triples(rows):
    return Given("triples", (rows,))


def weights_of(random, rows, levels):
    """A weight for each triple: its chunk's, one of `levels`, so that ties are many."""
    of_chunk = {row[4]: round(random.choice(levels), 2) for row in rows}
    return [of_chunk[row[4]] for row in rows]


TIES = (0.2, 0.5, 0.8)


def all_different(random):
    return [place / 100 for place in random.sample(range(5, 100), 90)]


# --- expansion --------------------------------------------------------------------------------------------


def expansion_case(rows, seeds, hops):
    arguments = {
        "seeds": seeds,
        "in_chunk": Given("in_chunk", (rows,)),
        "at_entity": Given("at_entity", (rows,)),
        "hops": hops,
    }
    label = f"{len(rows)} triples, seeds {seeds}, hops={hops}"
    silent = sorted({*seeds} - {row[4] for row in rows})
    label += f"; chunk {silent[0]} states no triple" if silent else ""
    if len(rows) <= MOST_DRAWN:
        label += f"; number:head-tail/chunk {drawn(rows)}"
    return Case(label, arguments)


def expansion_cases(generator):
    random = random_from(generator)
    # from the first chunk's a, b and c one hop leads to d and e, two to f and g; each time these are joined
    a, b, c, d, e, f, g, h = random.sample([name_of(i) for i in range(26)], 8)
    pairs = [(a, b), (c, b), (c, d), (b, e), (d, e), (e, f), (g, d), (f, g), (g, h), (a, a)]
    path = [[n, head, random.choice(RELATIONS), tail, n // 2] for n, (head, tail) in enumerate(pairs)]
    parallel = [[0, a, "knows", b, 0], [1, b, "taught", a, 1], [2, b, "made", c, 1], [3, d, "knows", e, 2]]
    sizes = [  # entities, triples, chunks, seeds, hops
        (10, 13, 7, 1, 1),
        (9, 12, 6, 2, 2),
        (40, 60, 30, 3, 1),
        (60, 70, 40, 2, 2),
        (50, 60, 30, 2, 3),
    ]
    cases = [
        expansion_case(path, [0], 1),
        expansion_case(path, [1], 2),
        expansion_case(parallel, [0], 0),
        expansion_case(parallel, [7, 2], 1),
    ]
    for entities, count, chunks, seeds, hops in sizes:
        rows = some_rows(random, entities, count, chunks)
        stated = sorted({row[4] for row in rows})
        cases.append(expansion_case(rows, random.sample(stated, seeds), hops))
    return cases


# --- spanning trees ---------------------------------------------------------------------------------------


def trees_case(rows, weights, edge=""):
    label = f"{len(rows)} triples"
    if len(rows) <= MOST_DRAWN:
        label += f"; number:head-tail/chunk=weight {drawn(rows, weights)}"
    return Case(label, {"triples": given_triples(rows), "weights": weights}, edge)


def trees_cases(generator):
    random = random_from(generator)
    sizes = [  # entities, triples, chunks, ties, shuffled, whether the small region has the heaviest triple
        (6, 11, 8, False, False, True),
        (9, 11, 6, True, False, False),
        (8, 13, 9, False, True, False),
        (20, 40, 25, True, True, True),
        (40, 45, 30, False, False, False),
        (30, 40, 20, True, False, True),
    ]
    cases = []
    for entities, count, chunks, ties, shuffled, small_first in sizes:
        # two regions that no triple joins, and an entity with nothing but a triple to itself
        rows = some_rows(random, entities, count - 4, chunks)
        region = [[n, f"{head}'", relation, f"{tail}'", chunks + n]
                  for n, head, relation, tail, _ in some_rows(random, 3, 3, 3, loops=0.0)]  # fmt: skip
        alone = [0, "Q''", "is", "Q''", chunks + 3]
        rows = [[3 * n + 2, *row[1:]] for n, row in enumerate([*rows, *region, alone])]
        weights = weights_of(random, rows, TIES if ties else all_different(random))
        if small_first:
            weights[-2] = 1.0
        if shuffled:
            both = list(zip(rows, weights, strict=True))
            random.shuffle(both)
            rows, weights = [list(column) for column in zip(*both, strict=True)]
        cases.append(trees_case(rows, weights))
    ring = [[9, "A", "knows", "B", 0], [4, "B", "knows", "C", 1], [7, "C", "knows", "A", 2]]
    cases.append(trees_case(ring, [0.5, 0.5, 0.5]))
    loop = [[5, "A", "knows", "A", 0]]
    cases.append(trees_case(loop, [0.5], "A graph of nothing but triples to themselves has no tree."))
    cases.append(trees_case([], [], "A question may find no triple at all: there are no trees then."))
    return cases


def large_graph(random, size):
    rows = some_rows(random, size // 2, size, size)
    return trees_case(rows, weights_of(random, rows, all_different(random))).arguments


def ready_made(measured, arguments):
    return READY_MADE if measured.get("ready_made") else None


# --- a tree in words --------------------------------------------------------------------------------------


def tree_case(rows, weights, limit, what="a tree"):
    label = f"{what} of {len(rows)} triples, limit={limit}"
    if len(rows) <= MOST_DRAWN:
        label += f"; number:head-tail/chunk=weight {drawn(rows, weights)}"
    return Case(label, {"tree": given_triples(rows), "weights": weights, "limit": limit})


def order_cases(generator):
    random = random_from(generator)
    sizes = [  # triples, chunks, limit, ties
        (6, 4, 6, False), (9, 5, 4, True), (8, 20, 8, False), (25, 12, 5, True), (40, 30, 6, True),
    ]  # fmt: skip
    cases = []
    for count, chunks, limit, ties in sizes:
        rows = some_tree(random, count, chunks)
        random.shuffle(rows)
        weights = weights_of(random, rows, TIES if ties else all_different(random))
        ends = Counter(end for row in rows for end in (row[1], row[3]))
        inner = [i for i, row in enumerate(rows) if min(ends[row[1]], ends[row[3]]) > 1]
        if inner and count != 9:  # so that it makes a difference at which end the walk begins
            weights[inner[0]] = 1.0
        cases.append(tree_case(rows, weights, limit))
    ends = [(9, "A", "B"), (4, "A", "C"), (7, "A", "D"), (5, "E", "B")]
    star = [[number, head, "knows", tail, place] for place, (number, head, tail) in enumerate(ends)]
    cases.append(tree_case(star, [0.5, 0.5, 0.5, 0.2], 3))
    path = [[3, "A", "knows", "B", 0], [8, "C", "made", "D", 2], [6, "C", "taught", "B", 1]]
    cases.append(tree_case(path, [0.2, 0.5, 0.9], 2))
    one = [[4, "A", "taught", "B", 3]]
    cases.append(tree_case(one, [0.5], 3))
    deep = [[n, *random.choice([(f"E{n}", "knows", f"E{n + 1}"), (f"E{n + 1}", "is in", f"E{n}")]), n // 200]
            for n in range(1600)]  # fmt: skip
    cases.append(tree_case(deep, [1 - n / 2000 for n in range(1600)], 3, "a chain"))
    return cases


def large_tree(random, size):
    rows = some_tree(random, size, size)
    return tree_case(rows, weights_of(random, rows, all_different(random)), 8).arguments


# --- the context ------------------------------------------------------------------------------------------


def context_case(random, sizes, chunks, loose, k, scores=None, edge=""):
    """Trees of these sizes over the chunks; a chunk is in several of them now and then."""
    numbers = random.sample(range(chunks), chunks)
    inside, outside = numbers[loose:], numbers[:loose]
    forest = [random.sample(inside, size) for size in sizes]
    if scores is None:
        scores = [score / 100 for score in random.sample(range(-300, 900), len(sizes))]
    pages = [[random.choice(TITLES), f"sentence {number}."] for number in range(chunks)]
    arguments = {"trees": forest, "scores": scores, "loose": outside, "read": Given("read", (pages,)), "k": k}
    return Case(f"k={k}, trees {forest}, scores {scores}, loose {outside}", arguments, edge)


def context_cases(generator):
    random = random_from(generator)
    return [
        context_case(random, (2, 4, 3), 12, 2, 6, scores=[4.0, 1.0, 7.5]),
        context_case(random, (4, 3, 2), 14, 2, 6, scores=[5.5, 5.5, 2.0]),
        context_case(random, (2, 5, 1, 3, 2), 14, 4, 7),
        context_case(random, (2, 2, 3), 12, 4, 9, scores=[-1.5, -0.5, -0.5]),
        context_case(random, (1, 2), 9, 3, 9),
        context_case(random, (), 6, 6, 4, edge="Where no seed states a triple there is no tree."),
        context_case(random, (7, 2), 12, 2, 4),
        context_case(random, (3, 6, 4), 12, 2, 1),
    ]


MEASURED = {"file": FILE, "needs": ("networkx",), "measure": "work"}
PARTS = [
    Part(
        name="expansion",
        title="1. Expansion over the graph",
        points=25,
        minutes=45,
        function="expand",
        cases=expansion_cases,
        expected=expanded,
        mistakes=EXPANSION,
        inspect=ready_made,
        cost=expansion_cost,
        **MEASURED,
    ),
    Part(
        name="trees",
        title="2. Maximum spanning trees",
        points=30,
        minutes=60,
        function="spanning_trees",
        cases=trees_cases,
        expected=trees,
        mistakes=TREES,
        inspect=ready_made,
        cost=growth_of("a graph", large_graph, (150, 600)),
        **MEASURED,
    ),
    Part(
        name="order",
        title="3. A tree in words",
        points=25,
        minutes=45,
        function="write_tree",
        cases=order_cases,
        expected=written,
        mistakes=ORDER,
        inspect=ready_made,
        cost=growth_of("a tree", large_tree, (150, 600)),
        **MEASURED,
    ),
    Part(
        name="context",
        title="4. A context within its budget",
        points=20,
        minutes=30,
        function="assemble",
        cases=context_cases,
        expected=assembled,
        mistakes=CONTEXT,
        cost=context_cost,
        **MEASURED,
    ),
]
