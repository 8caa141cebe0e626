"""Parts 1 and 2 in float64, right and with one thing done otherwise: what typical mistakes give."""

import torch

from minisys.grade.assignment import Mistake

# --- part 1: the ring -------------------------------------------------------------------------------------


def own(length, lengths):
    return length


def slot_of(position, place, size):
    return position % size


def write(
    ring, lengths, new, counts, *, start=own, slot=slot_of, place_of=own, padding=False, first_stays=False
):
    """The ring after the new tokens: each row's `place` goes to slot ``slot(position, place, size)``."""
    ring, size, t = ring.clone(), ring.shape[2], new.shape[1]
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        count = t if padding else count
        places = reversed(range(count)) if first_stays else range(count)
        for place in places:
            at = slot(start(length, lengths) + place, place, size)
            ring[row, :, at] = new[row, place_of(place, count)]
    return ring


def shifted(ring, lengths, new, counts):
    """Oldest first: the new tokens push the others to the front."""
    rows = [
        torch.cat([ring[row], new[row, :count].transpose(0, 1)], dim=1)[:, count:]
        for row, count in enumerate(counts)
    ]
    return torch.stack(rows)


def cut_off(ring, lengths, new, counts):
    """What comes behind the last slot is lost."""
    ring, size = ring.clone(), ring.shape[2]
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        for place in range(count):
            if length % size + place < size:
                ring[row, :, length % size + place] = new[row, place]
    return ring


def reshaped(ring, lengths, new, counts):
    """[b, t, hk, head_dim] taken for [b, hk, t, head_dim] as it lies in memory."""
    b, t, hk, head_dim = new.shape
    return write(ring, lengths, new.reshape(b, hk, t, head_dim).transpose(1, 2), counts)


WRAPPED = "The ring is wrapped wrongly: position p lies in slot p mod size, size being the number of slots."
ROWS = "You use one row's length for all rows. Each row ends where its own tokens end."
RING = [
    Mistake(
        "no-length",
        "You write from slot 0 on. The first new token of a row stands at position lengths[row].",
        lambda **case: write(**case, start=lambda length, lengths: 0),
    ),
    Mistake(
        "one-early",
        "You write one position early, over the row's last token. A row of n tokens ends at position n - 1.",
        lambda **case: write(**case, start=lambda length, lengths: length - 1),
    ),
    Mistake(
        "one-late",
        "You write one position late. The first new token of a row stands at position lengths[row].",
        lambda **case: write(**case, start=lambda length, lengths: length + 1),
    ),
    Mistake("rows", ROWS, lambda **case: write(**case, start=lambda length, lengths: lengths[0])),
    Mistake("rows", ROWS, lambda **case: write(**case, start=lambda length, lengths: max(lengths))),
    Mistake(
        "wrapped",
        WRAPPED,
        lambda **case: write(**case, slot=lambda position, place, size: position % (size - 1)),
    ),
    Mistake(
        "clamped",
        "Tokens behind the last slot all go into the last slot. They go on at slot 0.",
        lambda **case: write(**case, slot=lambda position, place, size: min(position, size - 1)),
    ),
    Mistake(
        "cut-off",
        "Tokens that come behind the last slot are lost. They go on at slot 0.",
        cut_off,
    ),
    Mistake(
        "padding",
        "You write all t tokens of every row. Row r gets the first counts[r]; what is behind is padding.",
        lambda **case: write(**case, padding=True),
    ),
    Mistake(
        "last-of-new",
        "You take the last counts[r] tokens of a row. Its padding is at the end: take the first.",
        lambda new, **case: write(
            new=new, **case, place_of=lambda place, count: new.shape[1] - count + place
        ),
    ),
    Mistake(
        "shifted",
        "You push the old tokens forward. In a ring nothing moves: position p lies in slot p mod size.",
        shifted,
    ),
    Mistake(
        "first-stays",
        "Where more tokens come than there are slots, the older one of a slot stays. The last ones stay.",
        lambda **case: write(**case, first_stays=True),
    ),
    Mistake(
        "reshaped",
        "Tokens and heads are mixed up: [b, t, hk, head_dim] becomes [b, hk, t, head_dim] by a transpose, "
        "not by "
        "a reshape.",
        reshaped,
    ),
]

# --- part 2: incremental compression ----------------------------------------------------------------------


def whole(length, config):
    return config.num_compressed(length)


def token_end(first, block, config):
    return first + config.compress_block - 1


def of_block(length, first, config):
    return first + torch.arange(config.compress_block)


def each_new(held, now, count):
    return range(count(held), count(now))


def compress(
    raw, compressed, before, after, phi, rotate, config, *, count=whole, blocks=each_new, tokens=of_block,
    turned_to=token_end, stride=None, keep=True, filled=False, summary=None, turn_first=False, order=None,
    length_of=None,
):  # fmt: skip
    """Part 2 with one thing done otherwise; `blocks` are computed from the `count` of them before and
    after."""
    old, compressed = compressed, compressed.clone() if keep else torch.zeros_like(compressed)
    stride = config.compress_stride if stride is None else stride(config)
    pairs = list(zip(before, after, strict=True))
    for row, (held, now) in enumerate(pairs):
        held, now = (held, now) if length_of is None else length_of(pairs)
        for block in blocks(held, now, lambda length: count(length, config)):
            if block < 0 or block >= old.shape[2] or (filled and bool(old[row, :, block].any())):
                continue
            first = block * stride
            slots = tokens(now, first, config) % raw.shape[2]
            slots = slots if order is None else order(slots)
            keys = raw[row, :, slots]
            end = turned_to(first, block, config)
            if turn_first:
                keys = torch.stack([rotate(keys[:, i], first + i) for i in range(keys.shape[1])], dim=1)
                end = 0
            key = phi(keys) if summary is None else summary(keys)
            compressed[row, :, block] = key if end is None else rotate(key, end)
    return compressed


def at_every_stride(length, config):
    """A block for each whole stride."""
    return length // config.compress_stride


def as_soon_as(missing):
    """Blocks counted when they still miss so many tokens, or so many tokens late."""
    return lambda length, config: config.num_compressed(length + missing)


def unwrapped(raw, config, **case):
    """l slots in a row, moved back where they would pass the end."""
    size, block = raw.shape[2], config.compress_block
    tokens = lambda now, first, config: min(first % size, size - block) + torch.arange(block)
    return compress(raw=raw, config=config, tokens=tokens, **case)


def only_last(held, now, count):
    return [count(now) - 1] if count(now) > count(held) else []


ROTARY = "The compressed key is turned to {}. Turn it to the position of its block's last token, i·d + l - 1."
CUT = "You compress a block before its last token is there. Block i is whole when the row has i·d + l tokens."
TOO_OFTEN = Mistake(
    "phi-too-often",
    "The result is right, but φ worked on more blocks than the new tokens completed. Each block goes "
    "through φ once, "
    "when its last token comes: that is what makes compression cheap.",
)
COMPRESSION = [
    Mistake("cut-block", CUT, lambda **case: compress(**case, count=at_every_stride)),
    Mistake("cut-block", CUT, lambda **case: compress(**case, count=as_soon_as(1))),
    Mistake(
        "one-late",
        "You compress a block one token late. It is whole as soon as the row has i·d + l tokens.",
        lambda **case: compress(**case, count=as_soon_as(-1)),
    ),
    Mistake(
        "block-start",
        ROTARY.format("the start of its block"),
        lambda **case: compress(**case, turned_to=lambda first, block, config: first),
    ),
    Mistake(
        "block-middle",
        ROTARY.format("the middle of its block"),
        lambda **case: compress(
            **case, turned_to=lambda first, block, config: first + config.compress_block // 2
        ),
    ),
    Mistake(
        "block-after",
        ROTARY.format("the position after its block"),
        lambda **case: compress(**case, turned_to=lambda first, block, config: first + config.compress_block),
    ),
    Mistake(
        "block-number",
        ROTARY.format("its block's number"),
        lambda **case: compress(**case, turned_to=lambda first, block, config: block),
    ),
    Mistake(
        "not-rotated",
        "The compressed key is not turned. Turn it to the position of its block's last token.",
        lambda **case: compress(**case, turned_to=lambda first, block, config: None),
    ),
    Mistake(
        "rotated-before",
        "You turn the keys before φ. φ gets them as they are; its result is turned.",
        lambda **case: compress(**case, turn_first=True),
    ),
    Mistake(
        "last-only",
        "Several tokens at once may complete several blocks. You compute the last one only.",
        lambda **case: compress(**case, blocks=only_last),
    ),
    Mistake(
        "newest-tokens",
        "You compress the last compress_block tokens of the row. With several new tokens the block may end "
        "before "
        "the last of them.",
        lambda **case: compress(
            **case,
            tokens=lambda now, first, config: (
                now - config.compress_block + torch.arange(config.compress_block)
            ),
        ),
    ),
    Mistake(
        "no-overlap",
        "Your blocks start compress_block tokens apart. One starts every compress_stride tokens.",
        lambda **case: compress(**case, stride=lambda config: config.compress_block),
    ),
    Mistake(
        "unwrapped",
        "You read compress_block neighbouring slots. A block may begin at the end of the ring and go on at "
        "slot 0.",
        unwrapped,
    ),
    Mistake(
        "slot-order",
        "φ gets the tokens in the order of their slots. It wants them in the order of their positions.",
        lambda **case: compress(**case, order=lambda slots: slots.sort().values),
    ),
    Mistake(
        "reversed",
        "The tokens of a block reach φ in reverse order.",
        lambda **case: compress(**case, order=lambda slots: slots.flip(0)),
    ),
    Mistake(
        "mean",
        "You average the tokens of a block. Call phi on the block instead.",
        lambda **case: compress(**case, summary=lambda keys: keys.mean(dim=-2)),
    ),
    Mistake(
        "filled",
        "You skip a block whose place is not empty. After a draft was refused, another block's key stands "
        "there; "
        "which blocks are new follows from `before` and `after` alone.",
        lambda **case: compress(**case, filled=True),
    ),
    Mistake(
        "others-lost",
        "Only the new blocks are in the result. The other places of `compressed` stay as they are.",
        lambda **case: compress(**case, keep=False),
    ),
    Mistake("rows", ROWS, lambda **case: compress(**case, length_of=lambda pairs: pairs[0])),
    Mistake(
        "rows", ROWS, lambda **case: compress(**case, length_of=lambda pairs: (min(pairs)[0], max(pairs)[1]))
    ),
]
