"""What typical mistakes with the order of a tree and with the budget give, the likeliest first."""

from minisys.grade.assignment import Mistake

from .mistakes_trees import heaviest_first
from .oracle import assembled, forest, lines, told

# --- a tree in words --------------------------------------------------------------------------------------


def far_end(triple, near):
    return triple.tail if triple.head == near else triple.head


def neighbours(order):
    at = {}
    for triple in order:
        at.setdefault(triple.head, []).append(triple)
        at.setdefault(triple.tail, []).append(triple)
    return at


def steps(at, root, *, forward=False, breadth=False, later_first=False, after=False):
    """The walk as (triple, near end) from `root`."""
    waiting, done, walked = [(None, root)], set(), []
    while waiting:
        triple, near = waiting.pop(0 if breadth else -1)
        entity = near if triple is None else far_end(triple, near)
        if triple is not None:
            done.add(triple.number)
            walked.append((triple, near))
        next_ones = [t for t in at.get(entity, ()) if t.number not in done]
        next_ones = [t for t in next_ones if not forward or t.head == entity]
        turned = next_ones if breadth or later_first else next_ones[::-1]
        waiting += [(t, entity) for t in turned]
    return after_all(walked, root) if after else walked


def after_all(walked, root):
    """The same walk, each triple when its subtree is done."""
    below = {}
    for triple, near in walked:
        below.setdefault(near, []).append(triple)
    found, waiting = [], [(None, root, False)]
    while waiting:
        triple, near, done = waiting.pop()
        if done:
            found.append((triple, near))
            continue
        entity = near if triple is None else far_end(triple, near)
        if triple is not None:
            waiting.append((triple, near, True))
        waiting += [(t, entity, False) for t in reversed(below.get(entity, ()))]
    return found


def walked_with(root=lambda order, tree: order[0].head, tie=None, sign=1, **otherwise):
    """The answer with another root, or another way to walk."""

    def answer(tree, weights, limit):
        named = {} if tie is None else {"tie": tie}
        order = heaviest_first(tree, weights, sign=sign, **named)
        walk = steps(neighbours(order), root(heaviest_first(tree, weights, **named), tree), **otherwise)
        return both([triple for triple, _ in walk], limit)

    return answer


def both(walk, limit, shown=told):
    return [list(dict.fromkeys(triple.chunk for triple in walk)), shown(walk[:limit])]


def as_walked(tree, weights, limit):
    order = heaviest_first(tree, weights)
    walk = steps(neighbours(order), order[0].head)
    words = " ".join(f"{near} {triple.relation} {far_end(triple, near)}." for triple, near in walk[:limit])
    return [both([triple for triple, _ in walk], limit)[0], words]


def otherwise(change):
    """The right walk, and then `change(walk, limit)`."""

    def answer(tree, weights, limit):
        (walk,) = forest(tree, weights)
        return change(walk, limit)

    return answer


ORDER = [
    Mistake(
        "breadth-first",
        "You walk breadth first. Depth first, what hangs on a triple comes right behind it.",
        walked_with(breadth=True),
    ),
    Mistake(
        "by-weight",
        "You list the triples by weight, without a walk over the tree. Depth first keeps together what hangs "
        "together.",
        lambda tree, weights, limit: both(heaviest_first(tree, weights), limit),
    ),
    Mistake(
        "as-listed",
        "You list the triples as they came. Walk through the tree depth first.",
        lambda tree, weights, limit: both(list(tree), limit),
    ),
    Mistake(
        "root-tail",
        "You begin at the tail of the heaviest triple. Begin at its head.",
        walked_with(root=lambda order, tree: order[0].tail),
    ),
    Mistake(
        "root-listed",
        "You begin at the head of the triple that is listed first. Begin at that of the heaviest.",
        walked_with(root=lambda order, tree: tree[0].head),
    ),
    Mistake(
        "root-lightest",
        "You begin at the head of the lightest triple. Begin at that of the heaviest.",
        walked_with(root=lambda order, tree: order[-1].head),
    ),
    Mistake(
        "lighter-first",
        "At an entity you take lighter triples first. A stack gives back last what went in first: turn them "
        "round.",
        walked_with(later_first=True),
    ),
    Mistake(
        "directed",
        "You walk from heads to tails only, and lose what a triple joins the other way round. The graph is "
        "undirected.",
        walked_with(forward=True),
    ),
    Mistake(
        "ties-later",
        "Of equal weights you take the triple with the higher number. The lower number goes first.",
        walked_with(tie=lambda place, triple: -triple.number),
    ),
    Mistake(
        "ties-listed",
        "Of equal weights you take the triple that is listed first. The lower number goes first.",
        walked_with(tie=lambda place, triple: place),
    ),
    Mistake(
        "as-walked",
        "You write a triple in the direction in which you walk. Write it as it is stated, head before tail: "
        "turned round it says something else.",
        as_walked,
    ),
    Mistake(
        "chunk-twice",
        "A chunk is there once for each of its triples. List each chunk once, where it is first met.",
        otherwise(lambda walk, limit: [[triple.chunk for triple in walk], told(walk[:limit])]),
    ),
    Mistake(
        "chunks-sorted",
        "The chunks are in ascending order. They come in the order of the walk.",
        otherwise(lambda walk, limit: [sorted({triple.chunk for triple in walk}), told(walk[:limit])]),
    ),
    Mistake(
        "chunks-cut",
        "The chunks of the triples behind the limit are missing. The limit is for the triple string alone.",
        otherwise(lambda walk, limit: both(walk[:limit], limit)),
    ),
    Mistake(
        "no-limit",
        "The triple string has all triples. A reranker reads only so much: write the first `limit`.",
        otherwise(lambda walk, limit: both(walk, len(walk))),
    ),
    Mistake(
        "after",
        "You list a triple when all that hangs on it is done. List it when you walk over it.",
        walked_with(after=True),
    ),
]

# --- the context ------------------------------------------------------------------------------------------


def context_with(
    order=lambda trees, scores: sorted(range(len(trees)), key=lambda i: -scores[i]),
    take=lambda chunks, k: list(dict.fromkeys(chunks))[:k],
    with_loose=lambda chunks, loose: [*chunks, *loose],
):
    """The answer with another order of the trees, or another way to take chunks."""

    def answer(trees, scores, loose, read, k):
        in_order = [chunk for i in order(trees, scores) for chunk in trees[i]]
        return lines(read, take(with_loose(in_order, loose), k))

    return answer


def then(change):
    """The right context, and then `change(lines)`."""
    return lambda **given: change(assembled(**given))


def by_document(trees, scores, loose, read, k):
    order = sorted(range(len(trees)), key=lambda i: -scores[i])
    taken = list(dict.fromkeys([*(chunk for i in order for chunk in trees[i]), *loose]))[:k]
    return lines(read, sorted(taken, key=lambda chunk: (read(chunk).title, chunk)))


def per_tree(trees, scores, loose, read, k):
    order = sorted(range(len(trees)), key=lambda i: -scores[i])
    return lines(read, dict.fromkeys([*(chunk for i in order for chunk in trees[i][:k]), *loose[:k]]))


def whole_trees(trees, scores, loose, read, k):
    order, taken = sorted(range(len(trees)), key=lambda i: -scores[i]), []
    for tree in [*(trees[i] for i in order), *([chunk] for chunk in loose)]:
        more = [*taken, *(chunk for chunk in tree if chunk not in taken)]
        if len(more) > k:
            break
        taken = more
    return lines(read, taken)


BY_TITLE = (
    "You sort the chunks by title. They stay in the order in which they were taken, so that a tree's chunks "
    "stand together."
)
BUDGET = "The budget is k chunks"
CONTEXT = [
    Mistake(
        "duplicates",
        "A chunk that is in several trees is there several times. Each chunk comes once, where it is first "
        "taken.",
        context_with(take=lambda chunks, k: chunks[:k]),
    ),
    Mistake(
        "budget-duplicates",
        "A chunk that was taken before uses up budget again. Leave out what is taken, and then count.",
        context_with(take=lambda chunks, k: dict.fromkeys(chunks[:k])),
    ),
    Mistake("by-title", BY_TITLE, by_document),
    Mistake(
        "by-title",
        BY_TITLE,
        then(lambda found: sorted(found, key=lambda line: line.partition(":")[0])),
    ),
    Mistake("by-title", BY_TITLE, then(sorted)),
    Mistake(
        "by-number",
        "The chunks are in the order of their numbers. They stay in the order in which they were taken.",
        context_with(take=lambda chunks, k: sorted(list(dict.fromkeys(chunks))[:k])),
    ),
    Mistake(
        "no-scores",
        "You take the trees as they are listed. The one with the highest score comes first.",
        context_with(order=lambda trees, scores: range(len(trees))),
    ),
    Mistake(
        "worst-first",
        "You take the tree with the lowest score first. The highest comes first.",
        context_with(order=lambda trees, scores: sorted(range(len(trees)), key=lambda i: scores[i])),
    ),
    Mistake(
        "largest-first",
        "You take the largest tree first. The one with the highest score comes first.",
        context_with(
            order=lambda trees, scores: sorted(range(len(trees)), key=lambda i: len(trees[i]), reverse=True)
        ),
    ),
    Mistake(
        "ties-later",
        "Of trees with equal scores you take the later one first. The earlier comes first.",
        context_with(
            order=lambda trees, scores: sorted(range(len(trees)), key=lambda i: (scores[i], i), reverse=True)
        ),
    ),
    Mistake(
        "one-more",
        f"{BUDGET}; you take one more.",
        context_with(take=lambda chunks, k: list(dict.fromkeys(chunks))[: k + 1]),
    ),
    Mistake(
        "one-less",
        f"{BUDGET}; you stop one before.",
        context_with(take=lambda chunks, k: list(dict.fromkeys(chunks))[: k - 1]),
    ),
    Mistake(
        "no-budget",
        f"{BUDGET}; you take all.",
        context_with(take=lambda chunks, k: dict.fromkeys(chunks)),
    ),
    Mistake("budget-per-tree", f"{BUDGET} in all, not of every tree.", per_tree),
    Mistake(
        "whole-trees",
        "You leave out a tree that does not fit whole. The last tree is cut where the budget ends.",
        whole_trees,
    ),
    Mistake(
        "no-loose",
        "Chunks that are in no tree are missing. They come behind the trees while there is budget: a seed "
        "that states no triple may hold the answer.",
        context_with(with_loose=lambda chunks, loose: chunks),
    ),
    Mistake(
        "loose-first",
        "The loose chunks come before the trees. They come behind them.",
        context_with(with_loose=lambda chunks, loose: [*loose, *chunks]),
    ),
    Mistake(
        "no-title",
        "The titles are missing. A sentence that says “she” needs the title of its document.",
        then(lambda found: [line.partition(": ")[2] for line in found]),
    ),
]
