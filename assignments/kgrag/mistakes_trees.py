"""What typical mistakes with spanning trees give, the likeliest first."""

import heapq

from minisys.grade.assignment import Mistake

from .mistakes_expansion import ends_of


class Components:
    """Which entities hang together."""

    def __init__(self):
        self.parent = {}

    def of(self, entity):
        self.parent.setdefault(entity, entity)
        while self.parent[entity] != entity:
            entity = self.parent[entity]
        return entity

    def join(self, triple):
        """Join the triple's ends; says whether they were apart."""
        one, other = self.of(triple.head), self.of(triple.tail)
        self.parent[other] = one
        return one != other


def heaviest_first(triples, weights, *, sign=1, tie=lambda place, triple: triple.number):
    order = range(len(triples))
    order = sorted(order, key=lambda i: (-sign * weights[i], tie(i, triples[i])))
    return [triples[i] for i in order]


def kept_of(order, also=lambda triple, kept: False, unless=lambda triple, kept: False):
    """Kruskal's algorithm, which keeps some triples `also`, and some not that it should keep."""
    components, kept = Components(), []
    for triple in order:
        apart = components.of(triple.head) != components.of(triple.tail)
        if (apart and not unless(triple, kept)) or also(triple, kept):
            components.join(triple)
            kept.append(triple)
    return kept


def grouped(kept, order):
    """`kept` by component, in the order of each component's first."""
    components = Components()
    for triple in kept:
        components.join(triple)
    groups = {}
    for triple in order:
        if triple in kept:
            groups.setdefault(components.of(triple.head), []).append(triple.number)
    return [sorted(group) for group in groups.values()]


def trees_with(also=lambda triple, kept: False, unless=lambda triple, kept: False, **ordered):
    """The answer with some triples kept also, or not kept, or in another order."""

    def answer(triples, weights):
        order = heaviest_first(triples, weights, **ordered)
        return grouped(kept_of(order, also, unless), order)

    return answer


RIGHT = trees_with()


def minimum(triples, weights):
    """Minimum trees, in the order of their heaviest triples."""
    return grouped(kept_of(heaviest_first(triples, weights, sign=-1)), heaviest_first(triples, weights))


def joins_the_same(triple, kept):
    return any({triple.head, triple.tail} == {one.head, one.tail} for one in kept)


def turns_round(triple, kept):
    ways = [(one.head, one.tail) for one in kept]
    return (triple.tail, triple.head) in ways and (triple.head, triple.tail) not in ways


def along_arrows(triples, weights):
    """Prim's algorithm, which only ever goes from head to tail; from each entity not reached so far."""
    order = heaviest_first(triples, weights)
    reached, groups = set(), []
    for start in order:
        if start.head in reached:
            continue
        reached.add(start.head)
        group, entity, heap = [], start.head, []
        while True:
            for rank, triple in enumerate(order):
                if triple.head == entity:
                    heapq.heappush(heap, (rank, triple))
            while heap and heap[0][1].tail in reached:
                heapq.heappop(heap)
            if not heap:
                break
            triple = heapq.heappop(heap)[1]
            entity = triple.tail
            reached.add(entity)
            group.append(triple)
        if group:
            groups.append((order.index(min(group, key=order.index)), group))
    return [sorted(triple.number for triple in group) for _, group in sorted(groups)]


def last_of_each_pair(triples, weights):
    """As in a graph that is no multigraph: of several triples between two entities the last overwrites."""
    last = {frozenset((t.head, t.tail)): (t, weight) for t, weight in zip(triples, weights, strict=True)}
    return RIGHT([triple for triple, _ in last.values()], [weight for _, weight in last.values()])


def heaviest_of_each(triples, weights):
    order = [triple for triple in heaviest_first(triples, weights) if triple.head != triple.tail]
    chosen = [next(t for t in order if entity in (t.head, t.tail)) for entity in ends_of(order)]
    return grouped(chosen, order)


def with_empty(triples, weights):
    order = heaviest_first(triples, weights)
    kept = kept_of(order)
    components = Components()
    for triple in kept:
        components.join(triple)
    groups = {}
    for triple in order:
        groups.setdefault(components.of(triple.head), []).extend([triple.number] if triple in kept else [])
    return [sorted(group) for group in groups.values()]


DIRECTED = (
    "You treat triples as directed edges. The graph is undirected: a triple joins its head and its tail, "
    "whichever of them comes first."
)
TREES = [
    Mistake(
        "minimum",
        "These are minimum spanning trees: they keep the triples that are least like the question. Keep the "
        "heaviest.",
        minimum,
    ),
    Mistake("minimum", "These are minimum spanning trees: keep the heaviest triples.", trees_with(sign=-1)),
    Mistake(
        "directed",
        f"{DIRECTED} Here each entity is the tail of one kept triple at most.",
        trees_with(unless=lambda triple, kept: any(triple.tail == one.tail for one in kept)),
    ),
    Mistake(
        "directed",
        f"{DIRECTED} Here two triples stay that join the same entities in opposite directions.",
        trees_with(also=turns_round),
    ),
    Mistake("directed", f"{DIRECTED} Here trees grow from heads to tails only.", along_arrows),
    Mistake(
        "loops-kept",
        "Triples from an entity to itself are in your trees. They are cycles: leave them out.",
        trees_with(also=lambda triple, kept: triple.head == triple.tail),
    ),
    Mistake(
        "parallel-kept",
        "Several triples between the same two entities stay. Two of them are a cycle: the heaviest stays.",
        trees_with(also=lambda triple, kept: triple.head != triple.tail and joins_the_same(triple, kept)),
    ),
    Mistake(
        "no-tree",
        "These are the components with all their triples. A tree has no cycle: a triple whose ends hang "
        "together already is left out.",
        trees_with(also=lambda triple, kept: triple.head != triple.tail),
    ),
    Mistake(
        "no-tree",
        "These are the components with all their triples. A tree has no cycle, not even of one triple.",
        trees_with(also=lambda triple, kept: True),
    ),
    Mistake(
        "one-component",
        "Only the component with the heaviest triple is there. Every connected component has a tree, however "
        "small.",
        lambda triples, weights: RIGHT(triples, weights)[:1],
    ),
    Mistake(
        "empty-tree",
        "An entity with nothing but triples to itself gives an empty tree in your list. Leave it out.",
        with_empty,
    ),
    Mistake(
        "joined",
        "All trees are in one list. Each component has a list of its own.",
        lambda triples, weights: sorted(number for tree in RIGHT(triples, weights) for number in tree),
    ),
    Mistake(
        "ties-later",
        "Of equal weights you take the triple with the higher number. The lower number goes first.",
        trees_with(tie=lambda place, triple: -triple.number),
    ),
    Mistake(
        "ties-listed",
        "Of equal weights you take the triple that is listed first. The lower number goes first.",
        trees_with(tie=lambda place, triple: place),
    ),
    Mistake(
        "order-of-trees",
        "The trees are right, but come in the order of their numbers. The tree with the heaviest triple "
        "comes first.",
        lambda triples, weights: sorted(RIGHT(triples, weights)),
    ),
    Mistake(
        "order-of-trees",
        "The trees are right, but the largest comes first. The one with the heaviest triple does.",
        lambda triples, weights: sorted(RIGHT(triples, weights), key=len, reverse=True),
    ),
    Mistake(
        "overwritten",
        "Of several triples between the same two entities the last one overwrites the others, as in a graph "
        "that is no multigraph. The heaviest stays.",
        last_of_each_pair,
    ),
    Mistake(
        "heaviest-each",
        "You keep the heaviest triple of each entity. That leaves a component in several pieces: go on until "
        "it hangs together.",
        heaviest_of_each,
    ),
]
