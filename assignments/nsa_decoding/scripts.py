"""Scripts for part 4: what a cache is asked to do, one event after the other."""

import torch

from minisys.grade.assignment import Case
from minisys.grade.wire import Given

from .mistakes_cache import Rows


def between(generator, low, high):
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


class Script:
    """Events for a cache, and the rows as they come to be; every token is 100·event + 10·row + place."""

    def __init__(self, batch, capacity, window, max_append):
        self.sizes = {"batch": batch, "capacity": capacity, "window": window, "max_append": max_append}
        self.events, self.rows = [], Rows(**self.sizes)

    def append(self, t, counts, *, start=None):
        number, batch = len(self.events) + 1, self.sizes["batch"]
        tokens = [[100 * number + 10 * row + place for place in range(t)] for row in range(batch)]
        start = self.rows.lengths if start is None else start
        self.events.append(["append", tokens, counts, start])
        self.rows.append(tokens, counts, start)
        return self

    def truncate(self, kept):
        self.events.append(["truncate", kept])
        self.rows.truncate(kept)
        return self

    def case(self, what):
        sizes = ", ".join(f"{name}={value}" for name, value in self.sizes.items())
        arguments = {"cache": Given("journal", fields=self.sizes), "events": self.events}
        return Case(f"{what}, {sizes}: {'; '.join(map(said, self.events))}", arguments)


def said(event):
    """An event in words."""
    what, *rest = event
    return (
        f"append {rest[1]} of {len(rest[0][0])} at {rest[2]}" if what == "append" else f"truncate {rest[0]}"
    )


def event_named(arguments, index):
    """What the event was at which a result differs."""
    return f"event {index[0]} is {said(arguments['events'][index[0]])}"


def cache_cases(generator):
    """Scripts that between them come to everything that part 4 says, and two that are drawn."""
    together = Script(2, 20, 4, 3).append(3, [3, 3]).append(3, [3, 2]).append(3, [3, 3]).append(3, [3, 0])

    refused = Script(2, 12, 3, 3).append(3, [3, 1]).append(3, [3, 3]).append(2, [2, 0])
    refused.append(4, [4, 4])  # more than max_append
    refused.append(2, [2, 1], start=[8, 3]).append(2, [1, 1], start=[9, 4])  # come again, and too far on
    refused.append(2, [3, 1]).append(2, [1])  # counts that are none
    refused.append(1, [1, 1]).append(3, [3, 3])  # row 0 is full now
    refused.append(1, [1, 0])

    drafts = Script(2, 30, 4, 3).append(3, [3, 3]).append(3, [3, 3]).append(3, [3, 2])
    drafts.truncate([2, 8])  # too short
    drafts.truncate([6, 7]).append(1, [1, 1])
    drafts.truncate([4, 8]).truncate([5, 8])  # long enough for a row of 7, but row 0 once had 9
    drafts.truncate([6, 5]).append(2, [2, 1])
    drafts.truncate([8, 7])  # longer than row 1
    drafts.truncate([7, 4])  # row 0 would fit, row 1 is too short
    drafts.truncate([0, 6]).append(3, [3, 3]).truncate([1, 8])  # row 0 has begun anew

    full = Script(2, 8, 3, 3).append(3, [3, 3]).append(3, [3, 3]).append(1, [0, 1])
    full.append(3, [2, 3])  # there is room in row 0, but not in row 1
    full.truncate([4, 4]).append(2, [2, 2])  # row 0 reads what a failed append would have overwritten
    full.append(3, [3, 1], start=[6, 5]).append(2, [2, 2]).append(1, [0, 1])
    full.truncate([5, 9]).truncate([6, 5]).truncate([7, 5]).truncate([5])
    full.append(1, [1, 1]).truncate([-1, 3])
    scripts = {
        "several tokens at once": together,
        "appends that do not fit": refused,
        "drafts taken back": drafts,
        "a full cache": full,
        "drawn": drawn_script(generator),
        "drawn again": drawn_script(generator),
    }
    return [script.case(what) for what, script in scripts.items()]


def drawn_script(generator):
    """Appends and truncates, of which most fit."""
    max_append = between(generator, 2, 4)
    script = Script(2, between(generator, 18, 24), between(generator, 2, 5), max_append)
    for _ in range(14):
        if between(generator, 0, 2):
            t = between(generator, 1, max_append)
            script.append(t, [between(generator, 0, t) for _ in range(2)])
        else:
            script.truncate([max(0, n - between(generator, 0, max_append)) for n in script.rows.lengths])
    return script
