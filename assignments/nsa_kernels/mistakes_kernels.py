"""What typical mistakes with the kernels of parts 2 and 4 give, the likeliest first."""

import math

import torch

from minisys.grade.assignment import Mistake

from .mistakes_step import NAN, NO_RESCALES, NO_SCALE, attend, online
from .selections import causal, code_steps, list_steps

OWN_SCALE = "You use 1/√d_qk although another scale is given: take the argument."
NOT_CAUSAL = "Inside its own block a token sees tokens after itself. Hide them before the softmax."
NOT_ITSELF = "A token does not see itself. It sees the tokens up to and including itself."
HEADS = "Query heads go with the wrong key/value heads: heads j·g … j·g + g - 1 use head j."

# What loads and products tell of a right result.
NO_KERNEL = Mistake(
    "no-kernel",
    "The result is right, but the kernel did not load every key and value it needs from k and v themselves, "
    "or did not store the result. The part asks for a kernel that does.",
)
NO_DOT = Mistake("no-dot", "The result is right, but not by tl.dot: no tensor core would work for it.")
LOADS_AGAIN = Mistake(
    "loads-again",
    "The result is right, but the kernel loads keys or values more than once: one load of a block is for all "
    "rows of the tile.",
)

# --- parts 2 and 4 ----------------------------------------------------------------------------------------


def once(steps):
    """How often a key counts where a repeated name counts once."""
    return steps.any(dim=0)


def selected(q, k, v, block_indices, select_block, scale, *, sees=causal, counts=once, **changed):
    """Part 2 in float64, with one thing done otherwise."""
    t = q.shape[0]
    return attend(q, k, v, counts(list_steps(block_indices, select_block, t)) * sees(t), scale, **changed)


def packed(q, k, v, codes, tokens, select_block, scale, *, sees=causal, steps=code_steps, **changed):
    """Part 4 in float64, with one thing done otherwise."""
    t = q.shape[0]
    return attend(q, k, v, once(steps(codes, tokens, select_block, t)) * sees(t), scale, **changed)


def everything(t):
    return torch.ones(t, t, dtype=torch.bool)


def before(t):
    return causal(t) & ~torch.eye(t, dtype=torch.bool)


def clamped(counts):
    """Every -1 read as block 0."""
    return lambda block_indices, **rest: selected(
        block_indices=block_indices.clamp(min=0), counts=counts, **rest
    )


def block_0_once_more(q, k, v, block_indices, select_block, scale):
    """The first -1 of a list read as block 0, which may be in it."""
    t = q.shape[0]
    more = (block_indices < 0).any(dim=-1, keepdim=True).long() - 1  # 0, or -1 for none
    counts = once(list_steps(block_indices, select_block, t)).long()
    return attend(q, k, v, (counts + once(list_steps(more, select_block, t))) * causal(t), scale)


def with_padding(q, k, v, block_indices, select_block, scale):
    """Blocks as long as their padded tiles."""
    t, tile = q.shape[0], max(16, 1 << (select_block - 1).bit_length())
    start = block_indices[..., None] * select_block
    key = torch.arange(t)
    names = (block_indices[..., None] >= 0) & (key >= start) & (key < start + tile)
    repeated = torch.nn.functional.pad(block_indices[..., 1:] == block_indices[..., :-1], (1, 0))
    counts = (names & ~repeated[..., None]).sum(dim=2).transpose(0, 1)[:, None]
    return attend(q, k, v, counts * causal(t), scale)


def with_lse(change):
    """Part 2 with the right output, and `change(lse)` for lse."""

    def answer(**arguments):
        right = selected(**arguments)
        return torch.cat([right[..., :-1], change(right[..., -1:], **arguments)], dim=-1)

    return answer


def without_maximum(lse, q, k, v, block_indices, select_block, scale):
    """log Σ exp(score - m), where m was to be added."""
    counts = once(list_steps(block_indices, select_block, q.shape[0])) & causal(q.shape[0])
    scores = torch.einsum("tkgd,skd->tkgs", q.unflatten(1, (k.shape[1], -1)), k) * scale
    highest = scores.masked_fill(~counts.permute(2, 0, 1, 3), -torch.inf).amax(dim=-1).flatten(1)[..., None]
    return torch.where(highest.isinf(), lse, lse - highest)


def nothing_as(value):
    return with_lse(lambda lse, **arguments: lse.masked_fill(lse == torch.inf, value))


def nan_output(value):
    """NaN for the output of rows that see nothing, and `value` for their lse."""

    def answer(**arguments):
        right = selected(**arguments)
        empty = right[..., -1:] == torch.inf
        lse = right[..., -1:].masked_fill(empty, value)
        return torch.cat([right[..., :-1].masked_fill(empty, torch.nan), lse], dim=-1)

    return answer


def undivided(**arguments):
    """acc as it is: the output times Σ exp(score - m)."""
    right = selected(**arguments)
    total = without_maximum(right[..., -1:], **arguments).exp()
    out = torch.where(right[..., -1:] == torch.inf, 0.0, right[..., :-1] * total)
    return torch.cat([out, right[..., -1:]], dim=-1)


def last_unread(block_indices, **arguments):
    return selected(block_indices=block_indices[..., :-1], **arguments)


def list_online(q, k, v, block_indices, select_block, scale, **changed):
    t = q.shape[0]
    repeated = torch.nn.functional.pad(block_indices[..., 1:] == block_indices[..., :-1], (1, 0))
    steps = list_steps(block_indices.masked_fill(repeated, -1), select_block, t)
    return online(q, k, v, steps & causal(t), scale, **changed)


INFINITE_OR_NAN = (torch.inf, -torch.inf, torch.nan)
EMPTY_LSE = "lse of a row that sees no key is +infinity, so that exp(score - lse) is 0 in a backward pass."
EMPTY_OUTPUT = "A row that sees no key gives 0 / 0, which is NaN. Its output is 0."
TWICE = "A block that stands in the list twice counts twice. It counts once."
MINUS_ONE = "You read the number -1 as block 0. It stands for no block."


def own_scale(q):
    return q.shape[-1] ** -0.5


def each_kernel(answer, walked):
    """Mistakes that parts 2 and 4 share: `answer` at once, `walked` step by step."""
    return [
        Mistake("not-causal", NOT_CAUSAL, lambda **arguments: answer(**arguments, sees=everything)),
        Mistake("not-itself", NOT_ITSELF, lambda **arguments: answer(**arguments, sees=before)),
        Mistake("no-scale", NO_SCALE, lambda scale, **arguments: answer(scale=1.0, **arguments)),
        Mistake("own-scale", OWN_SCALE, lambda q, scale, **rest: answer(q=q, scale=own_scale(q), **rest)),
        Mistake("heads", HEADS, lambda **arguments: answer(**arguments, interleaved=True)),
        *[
            Mistake(key, says, lambda changed=changed, **arguments: walked(**arguments, **changed))
            for key, says, changed in NO_RESCALES
        ],
    ]


SELECTED = [
    *each_kernel(selected, list_online),
    Mistake("twice", TWICE, lambda **arguments: selected(**arguments, counts=lambda steps: steps.sum(dim=0))),
    Mistake("minus-one", MINUS_ONE, clamped(lambda steps: steps.sum(dim=0))),
    Mistake("minus-one", MINUS_ONE, clamped(once)),
    Mistake("minus-one", MINUS_ONE, block_0_once_more),
    Mistake(
        "block-end",
        "A tile may be longer than a block: what lies behind the block's end is not in it.",
        with_padding,
    ),
    Mistake("last-unread", "The last number of a list is not read.", last_unread),
    *[Mistake("empty-lse", EMPTY_LSE, nothing_as(value)) for value in (-torch.inf, torch.nan, 0.0)],
    *[Mistake("empty-output", EMPTY_OUTPUT, nan_output(value)) for value in INFINITE_OR_NAN],
    Mistake(
        "lse-base",
        "lse is in powers of 2. It is the natural logarithm.",
        with_lse(lambda lse, **arguments: lse / math.log(2)),
    ),
    Mistake(
        "lse-maximum",
        "The maximum that was subtracted is missing from lse: lse = m + log Σ exp(score - m).",
        with_lse(without_maximum),
    ),
    Mistake("undivided", "acc is not divided by row_sum.", undivided),
]


def all_bits(codes, tokens, block, t):
    """Every token of a tile reads every block of its list."""
    return code_steps(torch.where(codes >= 0, codes | (1 << tokens) - 1, codes), tokens, block, t)


def reversed_bits(codes, tokens, block, t):
    return code_steps(codes, tokens, block, t, bit=lambda place: tokens - 1 - place)


def next_bits(codes, tokens, block, t):
    return code_steps(codes, tokens, block, t, bit=lambda place: place + 1)


def bits_by_row(of_row):
    """Each row reads the bit ``of_row(row, tokens, g)`` instead of its token's."""

    def answer(q, k, v, codes, tokens, select_block, scale):
        t, hk = q.shape[0], k.shape[1]
        g = q.shape[1] // hk
        steps = [
            once(code_steps(codes, tokens, select_block, t, bit=lambda p, i=i: of_row(p * g + i, tokens, g)))
            for i in range(g)
        ]
        return attend(q, k, v, torch.cat(steps, dim=1) * causal(t), scale)

    return answer


def tile_causal(edge):
    """Every token of a tile sees what the tile's first or last one sees."""

    def answer(tokens, **arguments):
        def sees(t):
            token = torch.arange(t)
            first = token // tokens * tokens
            seen_to = first if edge == "first" else (first + tokens).clamp(max=t) - 1
            return token <= seen_to[:, None]

        return packed(tokens=tokens, sees=sees, **arguments)

    return answer


def code_online(q, k, v, codes, tokens, select_block, scale, **changed):
    """Part 4 code by code; a tile's keys are those of its block up to the tile's last token."""
    t = q.shape[0]
    steps = code_steps(codes, tokens, select_block, t)
    reads = all_bits(codes, tokens, select_block, t)
    return online(q, k, v, steps & causal(t), scale, reads=reads, **changed)


BITS = "Bit p, worth 2^p, is that of token p of the tile, for all query heads of the token."
EDGE = "Every token sees as far as the tile's {} token. Each has its own end."
PACKED = [
    *each_kernel(packed, code_online),
    Mistake(
        "bits",
        "Every token of a tile reads every block of its list. Look at the token's bit.",
        lambda **arguments: packed(**arguments, steps=all_bits),
    ),
    Mistake("bit-order", BITS, lambda **arguments: packed(**arguments, steps=reversed_bits)),
    Mistake("bit-order", BITS, lambda **arguments: packed(**arguments, steps=next_bits)),
    Mistake("bit-of-row", BITS, bits_by_row(lambda row, tokens, g: row)),
    Mistake("bit-of-row", BITS, bits_by_row(lambda row, tokens, g: row % g)),
    Mistake("bit-of-row", BITS, bits_by_row(lambda row, tokens, g: row % tokens)),
    *[Mistake("tile-causal", EDGE.format(edge), tile_causal(edge)) for edge in ("first", "last")],
    Mistake("nan", NAN, lambda **arguments: code_online(**arguments, safe=False)),
]
