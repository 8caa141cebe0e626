"""What a right answer costs: look-ups in the index, lines that run, chunks that are read.

Look-ups and chunks are counted over the course's generated world, for one of its questions.
"""

import re
from collections import Counter

from minisys.grade.assignment import Cost
from minisys.grade.wire import Given
from minisys.kgrag.world import make_world

from .oracle import expanded, forest, random_from

SEEDS, BUDGET = 5, 10
DOCUMENTS = 100


def world_and_question(generator):
    """Rows of triples, pages, and how similar each chunk is to a question: the rarity of shared words."""
    world = make_world(0, DOCUMENTS).questions
    chunks = world.chunks()
    rows = [[n, t.head, t.relation, t.tail, t.chunk] for n, t in enumerate(world.triples)]
    pages = [[chunk.document, chunk.text] for chunk in chunks]
    question = random_from(generator).choice([q for q in world.questions if len(q.facts) > 1])
    words = lambda text: set(re.findall(r"\w+", text.lower()))
    seen = [words(f"{title} {text}") for title, text in pages]
    count = Counter(word for chunk in seen for word in chunk)
    asked = words(question.text)
    return rows, pages, [sum(1 / count[word] for word in sorted(asked & chunk)) for chunk in seen]


def best_chunks(similarities, number):
    return sorted(range(len(similarities)), key=lambda chunk: -similarities[chunk])[:number]


def expansion_cost(ask, generator, given):
    """Triples that the look-ups hand out, and how many chunks each hop brings."""
    rows, pages, similarities = world_and_question(generator)
    seeds = best_chunks(similarities, SEEDS)
    read, found = {}, {}
    for hops in (0, 1, 2):
        arguments = {
            "seeds": seeds,
            "in_chunk": Given("in_chunk", (rows,)),
            "at_entity": Given("at_entity", (rows,)),
            "hops": hops,
        }
        (_, chunks), measured = ask(arguments, measure="work")
        read[hops], found[hops] = measured.get("handed_out", 0), len(chunks)
    once = looked_up_once(rows, seeds, hops=1)
    what = f"triples that your look-ups give with hops=1 from {SEEDS} seeds:"
    beside = {"each seed and reached entity once": once, "triples in the graph": len(rows)}
    more = {"with hops=0": found[0], "with hops=2": found[2], "in the corpus": len(pages)}
    return [
        Cost(what, read[1], "triples", beside),
        Cost("chunks found with hops=1:", found[1], "chunks", more),
    ]


def looked_up_once(rows, seeds, hops):
    """Triples handed out when each seed and each reached entity is looked up once."""
    first = [row for row in rows if row[4] in seeds]
    reached = {end for row in first for end in (row[1], row[3])}
    for _ in range(hops):
        reached |= {end for row in rows if {row[1], row[3]} & reached for end in (row[1], row[3])}
    return len(first) + sum(len({row[1], row[3]} & reached) for row in rows)


def growth_of(what, make, sizes):
    """A cost function: how many times as many lines run for ``sizes[1]`` triples as for ``sizes[0]``.

    `make(random, size)` gives the arguments.
    """

    def cost(ask, generator, given):
        random = random_from(generator)
        lines = [ask(make(random, size), measure="work")[1].get("lines", 0) for size in sizes]
        ratio = sizes[1] / sizes[0]
        beside = {"work that grows with the triples": ratio, "with their square": ratio**2}
        said = f"lines of Python that run for {what} of {sizes[1]} triples, against one of {sizes[0]}:"
        return [Cost(said, lines[1] / lines[0], "times as many", beside)]

    return cost


def context_cost(ask, generator, given):
    """Chunks that are read for a context, and the words that a language model then reads."""
    rows, pages, similarities = world_and_question(generator)
    triples = given.triples(rows)
    seeds = best_chunks(similarities, SEEDS)
    numbers, chunks = expanded(seeds, given.in_chunk(rows), given.at_entity(rows), 1)
    inside = [triples[number] for number in numbers]
    walks = forest(inside, [similarities[triple.chunk] for triple in inside])
    trees = [list(dict.fromkeys(triple.chunk for triple in walk)) for walk in walks]
    in_trees = {chunk for tree in trees for chunk in tree}
    arguments = {
        "trees": trees,
        "scores": [max(similarities[chunk] for chunk in tree) for tree in trees],
        "loose": [chunk for chunk in seeds if chunk not in in_trees],
        "read": Given("read", (pages,)),
        "k": BUDGET,
    }
    lines, measured = ask(arguments, measure="work")
    words = lambda texts: sum(len(text.split()) for text in texts)
    everything = words(f"{title}: {text}" for title, text in (pages[chunk] for chunk in chunks))
    beside = {"the budget": BUDGET, "all chunks found": len(chunks)}
    return [
        Cost("chunks read:", measured.get("handed_out", 0), "chunks", beside),
        Cost("in the context:", words(lines), "words", {"in all chunks found": everything}),
    ]
