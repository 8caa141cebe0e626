"""Wrong answers, planted: edits of the solution that must fail, each with the mistake that must be named.

Capitals are pieces of the solution's text; what stands beside them takes their place.
"""

from minisys.grade.assignment import Wrong


def expansion(mistake, *edits):
    return Wrong("expansion", mistake, edits)


LOOK = "{entity: at_entity(entity) for entity in frontier}"
ROUNDS = "range(hops + 1)"
KEPT = "        if triple.head in reached and triple.tail in reached\n"
BETWEEN = "    between = {\n"
EXPANDED = "return sorted(between), sorted({*seeds, *between.values()})"
REACHED = "    reached: dict[str, list[Triple]] = {}"
WALKED = """    chosen = {triple.number: triple for chunk in seeds for triple in in_chunk(chunk)}
    near, seen = {end for triple in chosen.values() for end in (triple.head, triple.tail)}, set()
    for _ in range(hops):
        seen |= near
        steps = {triple.number: triple for entity in near for triple in at_entity(entity)}
        chosen.update(steps)
        near = {end for triple in steps.values() for end in (triple.head, triple.tail)} - seen
    return sorted(chosen), sorted({*seeds, *(triple.chunk for triple in chosen.values())})
"""
WHOLE = """    numbers = {t.number for chunk in {*seeds, *between.values()} for t in in_chunk(chunk)}
    return sorted(numbers), sorted({*seeds, *between.values()})"""
LIBRARY_WALK = """    import networkx

    graph = networkx.MultiGraph()
    found = [triple for chunk in seeds for triple in in_chunk(chunk)]
    while found:
        new = {end for triple in found for end in (triple.head, triple.tail)} - set(graph.graph)
        graph.graph.update(dict.fromkeys(new))
        found = [triple for entity in new for triple in at_entity(entity)]
        graph.add_edges_from((t.head, t.tail, t.number, {"chunk": t.chunk}) for t in found)
    near = {end for chunk in seeds for triple in in_chunk(chunk) for end in (triple.head, triple.tail)}
    if near:
        near = networkx.multi_source_dijkstra_path_length(graph, near, cutoff=hops)
    inside = list(graph.subgraph(near).edges(keys=True, data="chunk"))
    return sorted(edge[2] for edge in inside), sorted({*seeds, *(edge[3] for edge in inside)})
"""

EXPANSION = [
    expansion("directed", (LOOK, "{e: [t for t in at_entity(e) if t.head == e] for e in frontier}")),
    expansion(
        "directed",
        (LOOK, "{e: [t for t in at_entity(e) if t.tail == e] for e in frontier}"),
    ),
    expansion("only-walked", (REACHED, WALKED + REACHED)),
    expansion("one-end", (KEPT, "")),
    expansion("one-end", (KEPT, KEPT.replace(" and ", " or "))),
    expansion("one-hop-more", (ROUNDS, "range(hops + 2)")),
    expansion("one-hop-less", (ROUNDS, "range(max(1, hops))")),
    expansion("no-hops", (ROUNDS, "range(99)")),
    expansion("whole-chunks", (f"    {EXPANDED}", WHOLE)),
    expansion("no-seeds", (EXPANDED, "return sorted(between), sorted({*between.values()})")),
    expansion("loops", (KEPT, KEPT.replace("\n", " and triple.head != triple.tail\n"))),
    expansion(
        "chunk-twice",
        (EXPANDED, "return sorted(between), sorted([*between.values(), *({*seeds} - {*between.values()})])"),
    ),
    expansion("chunk-twice", (EXPANDED, "return sorted(between), sorted([*seeds, *{*between.values()}])")),
    expansion("ready-made", (REACHED, LIBRARY_WALK + REACHED)),
]


def trees(mistake, *edits):
    return Wrong("trees", mistake, edits)


SORTED = "(-weights[i], triples[i].number)"
APART = "        if one != other:\n"
KEEP = "            kept.append(triple)\n"
START = "    kept = []\n"
GROUPED = "        trees.setdefault(component(triple.head), []).append(triple.number)\n"
GROUPING = "    for triple in kept:\n" + GROUPED
RESULT = "return [sorted(tree) for tree in trees.values()]"
IN_ORDER = """    order.sort(key=lambda i: (-weights[i], triples[i].number))
    kept.sort(key=[triples[i] for i in order].index)
"""
PAIRS = f"{START}    pairs, others = set(), set()\n"
NOTED = f"            pairs.add((triple.head, triple.tail))\n{KEEP}"
ROUND = "(triple.tail, triple.head) in pairs and (triple.head, triple.tail) not in pairs"
SAME = "{(triple.tail, triple.head), (triple.head, triple.tail)} & pairs"
ONE_PARENT = "        if one != other and triple.tail not in others:\n"
OVERWRITTEN = """    last = {frozenset((t.head, t.tail)): (t, w) for t, w in zip(triples, weights)}
    triples, weights = [t for t, _ in last.values()], [w for _, w in last.values()]
"""
HEAVIEST_EACH = """    triples_by_weight = [triples[i] for i in order]
    best = {}
    for triple in triples_by_weight:
        if triple.head != triple.tail:
            best.setdefault(triple.head, triple)
            best.setdefault(triple.tail, triple)
    order = [i for i in order if triples[i] in best.values()]
"""
ORDER_LINE = f"    order = sorted(range(len(triples)), key=lambda i: {SORTED})\n"
ARROWS = """    import heapq

    ranked = sorted(range(len(triples)), key=lambda i: (-weights[i], triples[i].number))
    out = {}
    for rank, i in enumerate(ranked):
        out.setdefault(triples[i].head, []).append((rank, triples[i]))
    reached, found = set(), []
    for i in ranked:
        if triples[i].head in reached:
            continue
        reached.add(triples[i].head)
        heap, tree = list(out[triples[i].head]), []
        heapq.heapify(heap)
        while heap:
            rank, triple = heapq.heappop(heap)
            if triple.tail not in reached:
                reached.add(triple.tail)
                tree.append((rank, triple.number))
                for edge in out.get(triple.tail, ()):
                    heapq.heappush(heap, edge)
        if tree:
            found.append((min(tree), sorted(number for _, number in tree)))
    return [tree for _, tree in sorted(found)]
"""
LIBRARY = """    import networkx

    ranks = sorted(range(len(triples)), key=lambda i: (-weights[i], triples[i].number))
    graph = networkx.MultiGraph()
    for rank, i in enumerate(ranks):
        if triples[i].head != triples[i].tail:
            graph.add_edge(triples[i].head, triples[i].tail, triples[i].number, weight=-rank)
    whole = networkx.maximum_spanning_tree(graph)
    parts = networkx.connected_components(whole)
    found = [whole.subgraph(part).edges(keys=True, data="weight") for part in parts]
    found = sorted(found, key=lambda edges: -max(weight for *_, weight in edges))
    return [sorted(number for _, _, number, _ in edges) for edges in found]
"""

TREES = [
    trees("minimum", (SORTED, "(weights[i], triples[i].number)"), (GROUPING, IN_ORDER + GROUPING)),
    trees("minimum", (SORTED, "(weights[i], triples[i].number)")),
    trees(
        "directed",
        (START, PAIRS),
        (APART, f"{ONE_PARENT}            others.add(triple.tail)\n"),
    ),
    trees(
        "directed",
        (START, PAIRS),
        (APART, f"        if one != other or ({ROUND}):\n"),
        (KEEP, NOTED),
    ),
    trees("directed", (ORDER_LINE, ARROWS + ORDER_LINE)),
    trees("loops-kept", (APART, "        if one != other or triple.head == triple.tail:\n")),
    trees("parallel-kept", (START, PAIRS), (APART, f"        if one != other or {SAME}:\n"), (KEEP, NOTED)),
    trees("no-tree", (APART, "        if triple.head != triple.tail:\n")),
    trees("no-tree", (APART, "        if True:\n")),
    trees("one-component", (RESULT, "return [sorted(tree) for tree in trees.values()][:1]")),
    trees(
        "empty-tree",
        (
            GROUPING,
            "    for triple in (triples[i] for i in order):\n"
            "        tree = trees.setdefault(component(triple.head), [])\n"
            "        if triple in kept:\n"
            "            tree.append(triple.number)\n",
        ),
    ),
    trees("joined", (RESULT, "return sorted(triple.number for triple in kept)")),
    trees("ties-later", (SORTED, "(-weights[i], -triples[i].number)")),
    trees("ties-listed", (SORTED, "-weights[i]")),
    trees("order-of-trees", (RESULT, "return sorted(sorted(tree) for tree in trees.values())")),
    trees(
        "order-of-trees",
        (RESULT, "return sorted((sorted(tree) for tree in trees.values()), key=len, reverse=True)"),
    ),
    trees("overwritten", (ORDER_LINE, OVERWRITTEN + ORDER_LINE)),
    trees("heaviest-each", (ORDER_LINE, ORDER_LINE + HEAVIEST_EACH)),
    trees("ready-made", (ORDER_LINE, LIBRARY + ORDER_LINE)),
]


def order(mistake, *edits):
    return Wrong("order", mistake, edits)


TREE_SORTED = "(-weights[i], tree[i].number)"
TREE_ORDER = f"    order = sorted(range(len(tree)), key=lambda i: {TREE_SORTED})\n"
ROOT = "root = tree[order[0]].head"
FIRST = "for triple in reversed(at[root])]"
POP = "stack.pop()"
NEXT = "for other in reversed(at[far]) if"
WALK = "    walk = []\n"
TO_TAIL = "        at.setdefault(triple.tail, []).append(triple)\n"
CHUNKS = "list(dict.fromkeys(triple.chunk for triple in walk))"
WRITTEN = '" ".join(f"{triple.head} {triple.relation} {triple.tail}." for triple in walk[:limit])'
APPENDED = "        walk.append(triple)\n"
FAR = "        far = triple.tail if near == triple.head else triple.head\n"
TURNED = "        turned.append(f'{near} {triple.relation} {far}.')\n"
RECURSIVE = """    def visit(entity, before):
        for triple in at[entity]:
            if triple.number != before:
                walk.append(triple)
                visit(triple.tail if triple.head == entity else triple.head, triple.number)

    visit(root, -1)
"""
AFTER = """    below = {}
    for triple in walk:
        below.setdefault(triple.number, triple)
    chain, done = [(root, -1, iter(at[root]))], []
    while chain:
        entity, number, rest = chain[-1]
        triple = next((triple for triple in rest if triple.number != number), None)
        if triple is None:
            chain.pop()
            done += [below[number]] if chain else []
        else:
            far = triple.tail if triple.head == entity else triple.head
            chain.append((far, triple.number, iter(at[far])))
    walk = done
"""
NO_STACK = "    stack = []\n"
STACK = "    stack = [(triple, root) for triple in reversed(at[root])]  # with the entity that we come from\n"
CHUNKS_LINE = f"    chunks = {CHUNKS}\n"

ORDER = [
    order(
        "breadth-first",
        (POP, "stack.pop(0)"),
        (FIRST, "for triple in at[root]]"),
        (NEXT, "for other in at[far] if"),
    ),
    order("by-weight", (CHUNKS_LINE, f"    walk = [tree[i] for i in order]\n{CHUNKS_LINE}")),
    order("as-listed", (CHUNKS_LINE, f"    walk = list(tree)\n{CHUNKS_LINE}")),
    order("root-tail", (ROOT, "root = tree[order[0]].tail")),
    order("root-listed", (ROOT, "root = tree[0].head")),
    order("root-lightest", (ROOT, "root = tree[order[-1]].head")),
    order("lighter-first", (FIRST, "for triple in at[root]]"), (NEXT, "for other in at[far] if")),
    order("directed", (TO_TAIL, "        at.setdefault(triple.tail, [])\n")),
    order("ties-later", (TREE_SORTED, "(-weights[i], -tree[i].number)")),
    order("ties-listed", (TREE_SORTED, "-weights[i]")),
    order(
        "as-walked",
        (WALK, WALK + "    turned = []\n"),
        (FAR, FAR + TURNED),
        (WRITTEN, '" ".join(turned[:limit])'),
    ),
    order("chunk-twice", (CHUNKS, "[triple.chunk for triple in walk]")),
    order("chunks-sorted", (CHUNKS, "sorted({triple.chunk for triple in walk})")),
    order("chunks-cut", (CHUNKS, "list(dict.fromkeys(triple.chunk for triple in walk[:limit]))")),
    order("no-limit", ("walk[:limit]", "walk")),
    order("after", (CHUNKS_LINE, AFTER + CHUNKS_LINE)),
    order("a chain of 1600 triples", (STACK, RECURSIVE + NO_STACK)),
]


def context(mistake, *edits):
    return Wrong("context", mistake, edits)


BEST_FIRST = "sorted(range(len(trees)), key=lambda i: -scores[i])"
IN_SEQUENCE = "[*(chunk for i in best_first for chunk in trees[i]), *loose]"
K_OF_EACH = "[*(chunk for i in best_first for chunk in trees[i][:k]), *loose[:k]]"
TAKEN = "list(dict.fromkeys(in_order))[:k]"
TAKEN_LINE = f"    taken = {TAKEN}\n"
LINES = 'return [f"{page.title}: {page.text}" for page in map(read, taken)]'
WHOLE_TREES = """    taken = []
    for chunks in [*(trees[i] for i in best_first), *([chunk] for chunk in loose)]:
        if len({*taken, *chunks}) > k:
            break
        taken += [chunk for chunk in dict.fromkeys(chunks) if chunk not in taken]
"""

CONTEXT = [
    context("duplicates", (TAKEN, "in_order[:k]")),
    context("budget-duplicates", (TAKEN, "list(dict.fromkeys(in_order[:k]))")),
    context("by-title", (LINES, LINES.replace("taken)", "sorted(taken, key=lambda c: (read(c).title, c)))"))),
    context("by-title", (LINES, LINES.replace("taken)", "sorted(taken, key=lambda c: read(c).title))"))),
    context("by-title", (LINES, LINES.replace("return [", "return sorted([").replace("taken)]", "taken)])"))),
    context("by-number", (TAKEN, f"sorted({TAKEN})")),
    context("no-scores", (BEST_FIRST, "range(len(trees))")),
    context("worst-first", (BEST_FIRST, BEST_FIRST.replace("-scores", "scores"))),
    context("largest-first", (BEST_FIRST, BEST_FIRST.replace("-scores[i]", "-len(trees[i])"))),
    context(
        "ties-later",
        (BEST_FIRST, "sorted(range(len(trees)), key=lambda i: (scores[i], i), reverse=True)"),
    ),
    context("one-more", (TAKEN, TAKEN.replace("[:k]", "[: k + 1]"))),
    context("one-less", (TAKEN, TAKEN.replace("[:k]", "[: k - 1]"))),
    context("no-budget", (TAKEN, TAKEN.replace("[:k]", ""))),
    context("budget-per-tree", (IN_SEQUENCE, K_OF_EACH), (TAKEN, TAKEN.replace("[:k]", ""))),
    context("whole-trees", (TAKEN_LINE, WHOLE_TREES)),
    context("no-loose", (IN_SEQUENCE, "[chunk for i in best_first for chunk in trees[i]]")),
    context("loose-first", (IN_SEQUENCE, "[*loose, *(chunk for i in best_first for chunk in trees[i])]")),
    context("no-title", (LINES, "return [page.text for page in map(read, taken)]")),
]

WRONG = [*EXPANSION, *TREES, *ORDER, *CONTEXT]
