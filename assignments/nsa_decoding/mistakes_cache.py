"""Parts 4 and 5: what the events of a script come to, by keeping everything, and what typical mistakes
give."""

import torch

from minisys.grade.assignment import Mistake
from minisys.nsa.costs import query_bytes

# --- part 4: append and truncate --------------------------------------------------------------------------


class Rows:
    """Rows that forget nothing; `most` is how far a row's ring has been written since it was last empty."""

    def __init__(self, batch, capacity, window, max_append):
        self.batch, self.capacity, self.window, self.max_append = batch, capacity, window, max_append
        self.rows, self.most = [[] for _ in range(batch)], [0] * batch

    @property
    def lengths(self):
        return [len(row) for row in self.rows]

    def append(self, tokens, counts, start):
        """Whether the tokens fit; where they do they are there."""
        t, n = len(tokens[0]), self.batch
        fits = t <= self.max_append and len(counts) == n and all(0 <= count <= t for count in counts)
        fits = fits and start == self.lengths
        fits = fits and all(len(row) + n <= self.capacity for row, n in zip(self.rows, counts, strict=True))
        if fits:
            for row, new, count in zip(self.rows, tokens, counts, strict=True):
                row += new[:count]
            self.most = [max(pair) for pair in zip(self.most, self.lengths, strict=True)]
        return fits

    def truncate(self, kept):
        """Whether the rows can be that short; where they can they are."""
        fits = len(kept) == self.batch and all(
            keep == 0 or max(1, most - self.max_append) <= keep <= held
            for keep, most, held in zip(kept, self.most, self.lengths, strict=True)
        )
        if fits:
            self.rows = [row[:keep] for row, keep in zip(self.rows, kept, strict=True)]
            self.most = [most if keep else 0 for most, keep in zip(self.most, kept, strict=True)]
        return fits


def played(cache, events):
    """The right result, from rows that forget nothing."""
    rows = Rows(cache.batch, cache.capacity, cache.window, cache.max_append)
    slots, result = cache.window + cache.max_append - 1, []
    for what, *arguments in events:
        fits = getattr(rows, what)(*arguments)
        counts = arguments[1] if fits and what == "append" else [0] * cache.batch
        state = []
        for row, count in zip(rows.rows, counts, strict=True):
            read = row[max(0, len(row) - count - cache.window + 1) :]
            state.append([int(not fits), len(row), slots, *[-1] * (slots - len(read)), *read])
        result.append(state)
    return torch.tensor(result)


def behave(
    *, slots=lambda window, max_append: window + max_append - 1, checks=("t", "counts", "start", "room"),
    first_write=False, first_grow=False, most_room=0, least_of=None, order=("keep", "least"), emptied=True,
    reset=True, one_by_one=False, least_shift=0, slot_start=0, counted=True, trim=True,
):  # fmt: skip
    """The three functions of part 4, with one thing done otherwise."""

    def write(cache, new, counts):
        for row in range(cache.batch):
            for place in range(counts[row]):
                slot = (cache.lengths[row] + slot_start + place) % cache.ring.shape[1]
                cache.ring[row, slot] = new[row, place]

    def append(cache, new, counts, start):
        t = new.shape[1]
        counts = counts if counted else [t] * cache.batch
        ends = [length + count for length, count in zip(cache.lengths, counts, strict=False)]
        found = {
            "t": t <= cache.max_append,
            "counts": len(counts) == cache.batch and all(0 <= count <= t for count in counts),
            "start": start == cache.lengths,
            "room": max(ends) <= cache.capacity + most_room,
        }
        usable = len(counts) == cache.batch and all(count <= t for count in counts)
        if first_write and usable:
            write(cache, new, counts)
        if first_grow and usable:
            cache.lengths = ends
        if not all(found[name] for name in checks):
            raise ValueError
        if first_grow:
            cache.lengths = [end - count for end, count in zip(ends, counts, strict=True)]
        write(cache, new, counts)
        cache.least = [
            max(least, end - cache.max_append) for least, end in zip(cache.least, ends, strict=False)
        ]
        cache.lengths = ends

    def truncate(cache, lengths):
        if len(lengths) != cache.batch:
            raise ValueError
        for row, keep in enumerate(lengths):
            held, least = cache.lengths[row], cache.least[row]
            least = (least if least_of is None else least_of(cache, row)) + least_shift
            if "keep" in order and not 0 <= keep <= held:
                raise ValueError
            if "least" in order and keep < least and not (emptied and keep == 0):
                raise ValueError
            if one_by_one:
                cache.lengths[row] = keep
        cache.lengths = list(lengths)
        if reset:
            cache.least = [least if keep else 0 for keep, least in zip(lengths, cache.least, strict=True)]

    return slots, append, truncate


def played_with(**changes):
    return lambda cache, events: cache.play(events, *behave(**changes))


def unchecked(name):
    return played_with(checks=tuple(each for each in ("t", "counts", "start", "room") if each != name))


CHANGED = "An append that raised has changed {}. Check everything first, and write only then."
LEAST = (
    "You work out from the present length how short a row may get. What the ring still holds depends on "
    "how far it "
    "has been written, and taking tokens back does not bring older ones back."
)
CACHE = [
    Mistake(
        "ring-too-small",
        "With window slots, tokens that come together overwrite what the first of them still reads.",
        played_with(slots=lambda window, max_append: window),
    ),
    Mistake(
        "ring-too-small",
        "The ring is one slot too small: the first of max_append new tokens reads window - 1 before itself.",
        played_with(slots=lambda window, max_append: window + max_append - 2),
    ),
    Mistake(
        "ring-too-large",
        "The ring has a slot more than anybody asks for: the window holds the query's own token too.",
        played_with(slots=lambda window, max_append: window + max_append),
    ),
    Mistake("failed-append-wrote", CHANGED.format("the ring"), played_with(first_write=True)),
    Mistake("failed-append-grew", CHANGED.format("the lengths"), played_with(first_grow=True)),
    Mistake("max-append", "You take more than max_append tokens at once.", unchecked("t")),
    Mistake(
        "out-of-order",
        "You take tokens whose start is not where the row ends: one is missing, or comes again.",
        unchecked("start"),
    ),
    Mistake("no-room", "You take more tokens than the capacity.", unchecked("room")),
    Mistake(
        "last-place",
        "You refuse a token for which there is room: a row may hold capacity tokens.",
        played_with(most_room=-1),
    ),
    Mistake(
        "counts",
        "You give every row all t tokens. Row r gets the first counts[r].",
        played_with(counted=False, checks=("t", "start", "room")),
    ),
    Mistake(
        "one-late",
        "You write one slot late. The first new token of a row stands at position lengths[row].",
        played_with(slot_start=1),
    ),
    Mistake(
        "grows",
        "truncate makes a row longer than it is. It keeps at most what the row holds.",
        played_with(order=("least",)),
    ),
    Mistake(
        "too-short",
        "You shorten a row until its window is no longer in the ring.",
        played_with(order=("keep",)),
    ),
    Mistake(
        "least-from-length",
        LEAST,
        played_with(least_of=lambda cache, row: cache.lengths[row] - cache.max_append),
    ),
    Mistake(
        "least-one-more",
        "You refuse to take back all of the max_append tokens that came last.",
        played_with(least_shift=1),
    ),
    Mistake(
        "least-one-less",
        "You take back one token more than the ring allows: the window of the next one has a hole.",
        played_with(least_shift=-1),
    ),
    Mistake(
        "not-emptied",
        "You refuse to empty a row. With no token left there is no window to miss.",
        played_with(emptied=False),
    ),
    Mistake(
        "least-not-reset",
        "After a row was emptied you still ask for its old length. It begins anew.",
        played_with(reset=False),
    ),
    Mistake(
        "partly-truncated",
        "A truncate that raised has shortened the rows before the bad one. Check all rows first.",
        played_with(one_by_one=True),
    ),
]

# --- part 5: bytes ----------------------------------------------------------------------------------------


def bytes_moved(
    lengths,
    config,
    d_qk,
    d_v,
    hk,
    element_bytes,
    *, keys_only=False, compressed=None, selected=None, window=None, writes=3, completes=None, block=None,
    dense=1, rows=None, number=None, heads=None,
):  # fmt: skip
    """Part 5, with one thing done otherwise."""
    element_bytes = element_bytes if number is None else number
    hk, lengths = hk if heads is None else heads, list(lengths) if rows is None else rows(lengths)
    token = (d_qk + (0 if keys_only else d_v)) * hk * element_bytes
    sizes = {"d_qk": d_qk, "d_v": 0 if keys_only else d_v, "hk": hk, "element_bytes": element_bytes}
    found = dict.fromkeys(("compressed", "selected", "window", "append", "compression"), 0)
    for length in lengths:
        read = query_bytes(length - 1, config, **sizes)
        found["compressed"] += (
            read["compressed"] if compressed is None else token * compressed(length, config)
        )
        found["selected"] += read["selected"] if selected is None else token * selected(length, config)
        found["window"] += read["window"] if window is None else token * window(length, config)
        found["append"] += writes * token
        new = config.num_compressed(length) - config.num_compressed(length - 1)
        new = new if completes is None else completes(length, config)
        found["compression"] += new * token * (config.compress_block + 1 if block is None else block(config))
    return found | {"nsa": sum(found.values()), "dense": token * sum(n + dense for n in lengths)}


def step_bytes(lengths, config, d_qk, d_v, hk, element_bytes):
    return bytes_moved(lengths, config, d_qk, d_v, hk, element_bytes)


def bytes_with(**changes):
    return lambda **case: bytes_moved(**case, **changes)


def own_block(length, config):
    return (length - 1) % config.select_block + 1


def first_rows(lengths):
    return [lengths[0]] * len(lengths)


def longest_rows(lengths):
    return [max(lengths)] * len(lengths)


BYTES = [
    Mistake("keys-only", "You count keys and forget the values.", bytes_with(keys_only=True)),
    Mistake("one-head", "You count one key/value head. All hk heads are read.", bytes_with(heads=1)),
    Mistake("numbers", "You count numbers, not bytes: one has element_bytes.", bytes_with(number=1)),
    Mistake(
        "rows", ROWS := "You count all rows alike. Each row has its own length.", bytes_with(rows=first_rows)
    ),
    Mistake("rows", ROWS, bytes_with(rows=longest_rows)),
    Mistake("one-row", "You count one row only.", bytes_with(rows=lambda lengths: lengths[:1])),
    Mistake(
        "every-stride",
        "You count a compressed block for every stride. Only whole blocks are there: the first takes "
        "compress_block "
        "tokens.",
        bytes_with(compressed=lambda length, config: length // config.compress_stride),
    ),
    Mistake(
        "whole-blocks",
        "You count top_n whole selection blocks. The query's own block ends at the query.",
        bytes_with(
            selected=lambda length, config: (
                min(config.top_n, config.num_selectable(length)) * config.select_block
            )
        ),
    ),
    Mistake(
        "always-top-n",
        "You count top_n selection blocks where there are fewer.",
        bytes_with(
            selected=lambda length, config: (
                (config.top_n - 1) * config.select_block + own_block(length, config)
            )
        ),
    ),
    Mistake(
        "always-window",
        "You count the whole window where there are fewer tokens.",
        bytes_with(window=lambda length, config: config.window),
    ),
    Mistake("one-write", "The new token is written three times, once for each branch.", bytes_with(writes=1)),
    Mistake(
        "every-step",
        "You count a compressed block in every step. One is completed every compress_stride tokens.",
        bytes_with(completes=lambda length, config: length >= config.compress_block),
    ),
    Mistake(
        "stride-from-0",
        "You take a block to be complete at every multiple of the stride. The first one is at "
        "compress_block tokens; "
        "before it there is none.",
        bytes_with(completes=lambda length, config: length % config.compress_stride == 0),
    ),
    Mistake(
        "not-written",
        "The compressed key and value have to be written as well.",
        bytes_with(block=lambda config: config.compress_block),
    ),
    Mistake("dense-writes", "Dense attention writes the new token as well.", bytes_with(dense=0)),
]
