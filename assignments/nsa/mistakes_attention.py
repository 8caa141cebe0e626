"""What typical mistakes with the branches give: the reference with one change each, the likeliest first."""

import torch

from minisys.grade.assignment import Mistake
from minisys.nsa.reference import masked_softmax, weighted_values

# --- gating -----------------------------------------------------------------------------------------------


def attend(q, k, v, mask, scale, *, hidden="zero", interleaved=False):
    """One branch; `mask` is ``[t, s]`` or ``[b, hk, 1, t, s]``."""
    hk = k.shape[2]
    grouped = q.unflatten(2, (-1, hk)).transpose(2, 3) if interleaved else q.unflatten(2, (hk, -1))
    scores = torch.einsum("btkgd,bskd->bkgts", grouped, k) * scale
    if hidden == "zero":
        weights = masked_softmax(scores, mask)
    else:
        weights = scores.masked_fill(~mask, -torch.inf if hidden == "nan" else -1e300).softmax(dim=-1)
    out = weighted_values(weights, v)
    return out.unflatten(2, (hk, -1)).transpose(2, 3).flatten(2, 3) if interleaved else out


def masks(t, block_indices, config, *, block_end=0, causal=True, own=0, window=0, none=None):
    """The three masks, each with one thing that can be done otherwise."""
    query, token = torch.arange(t)[:, None], torch.arange(t)
    starts = torch.arange(config.num_compressed(t)) * config.compress_stride
    compressed = starts + config.compress_block - 1 + block_end <= query
    if none is not None:
        last = config.num_selectable(t) - 1
        block_indices = block_indices.masked_fill(block_indices < 0, last if none == "last" else 0)
    chosen = (block_indices[..., None] == token // config.select_block).any(dim=3)
    visible = token <= query - own if causal else torch.ones(t, t, dtype=torch.bool)
    selected = chosen.transpose(1, 2)[:, :, None] & visible
    near = (token <= query) & (token > query - config.window - window)
    return compressed, selected, near


def gate(
    q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates, block_indices, config, scale, *, order=(0, 1, 2),
    scales=(1, 1, 1), hidden="zero", interleaved=False, **changed,
):  # fmt: skip
    """The whole output, with one thing done otherwise."""
    branches = [
        attend(q, k, v, mask, scale * factor, hidden=hidden, interleaved=interleaved)
        for k, v, mask, factor in zip(
            (k_cmp, k_slc, k_win), (v_cmp, v_slc, v_win), masks(q.shape[1], block_indices, config, **changed),
            scales, strict=True,
        )
    ]  # fmt: skip
    return sum(gates[..., c : c + 1] * branch for c, branch in zip(order, branches, strict=True))


def gating(key, says, **changed):
    """A mistake that is `gate` with something changed."""
    return Mistake(key, says, lambda **arguments: gate(**arguments, **changed))


def fixed_scale(scale_of):
    """A mistake's answer with a scale of its own."""
    return lambda q, scale, **arguments: gate(q=q, scale=scale_of(q.shape[-1]), **arguments)


GATE_ORDER = (
    "Your gates are in the wrong order: gate 0 is the compressed branch's, 1 the selected, 2 the window's."
)
COMPRESSED_LATE = (
    "A compressed block that ends at the query itself is hidden from it. A block is visible when it ends at "
    "or before the query."
)
COMPRESSED_EARLY = (
    "A query sees compressed blocks that end after it, and with them its future. A block is visible when it "
    "ends at or before the query: its last token counts, not its first."
)
GATING = [
    gating(
        "nan",
        "Where a query sees nothing in a branch, softmax over a hidden row gives NaN. Such a branch "
        "contributes exactly zero.",
        hidden="nan",
    ),
    gating(
        "hidden-average",
        "Where a query sees nothing in a branch, your softmax spreads over the hidden keys. Such a branch "
        "contributes exactly zero.",
        hidden="average",
    ),
    *[
        gating("gate-order", GATE_ORDER, order=order)
        for order in ((1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1))
    ],
    Mistake(
        "no-gates",
        "The branches are added up without their gates.",
        lambda gates, **arguments: gate(gates=torch.ones_like(gates), **arguments),
    ),
    gating("compressed-late", COMPRESSED_LATE, block_end=1),
    *[
        Mistake(
            "compressed-early",
            COMPRESSED_EARLY,
            lambda config, early=early, **arguments: gate(
                config=config, block_end=early(config), **arguments
            ),
        )
        for early in (lambda config: 1 - config.compress_block, lambda config: -1)
    ],
    gating(
        "selected-not-causal",
        "Inside its own block a query sees tokens after itself. The selected branch is causal within blocks "
        "too.",
        causal=False,
    ),
    gating(
        "selected-not-itself",
        "In the selected branch a query does not see itself. It sees the tokens up to and including itself.",
        own=1,
    ),
    gating(
        "window-long", "Your window is one token too long: the query itself is one of its tokens.", window=1
    ),
    gating(
        "window-short", "Your window is one token too short: it is `window` tokens with the query.", window=-1
    ),
    gating(
        "minus-one",
        "You read the block number -1 as the last block. It stands for no block.",
        none="last",
    ),
    gating("minus-one", "You read the block number -1 as block 0. It stands for no block.", none="first"),
    gating(
        "heads",
        "Query heads go with the wrong key/value heads: heads j·g … j·g + g - 1 use head j "
        "(repeat_interleave, not repeat).",
        interleaved=True,
    ),
    Mistake("no-scale", "The scores are not multiplied by scale.", fixed_scale(lambda d_qk: 1.0)),
    Mistake(
        "own-scale",
        "You use 1/√d_qk although another scale is given: take the argument.",
        fixed_scale(lambda d_qk: d_qk**-0.5),
    ),
    Mistake(
        "window-scale",
        "The window branch ignores scale. All three branches use it.",
        lambda scale, **arguments: gate(scale=scale, scales=(1, 1, 1 / scale), **arguments),
    ),
]

# --- the kernel -------------------------------------------------------------------------------------------


def selected(
    q, k_slc, v_slc, block_indices, config, scale, *, interleaved=False, dtype=torch.float64, **changed
):
    """The selected branch in float64, rounded to the dtype of `q`, with one thing done otherwise."""
    _, mask, _ = masks(q.shape[1], block_indices, config, **changed)
    out = attend(q.to(dtype), k_slc.to(dtype), v_slc.to(dtype), mask, scale, interleaved=interleaved)
    return out.to(q.dtype)


def repeated(q, k_slc, v_slc, block_indices, config, scale):
    """Every -1 read as block 0 once more: a token counts as often as its block is read."""
    hk, t = k_slc.shape[2], q.shape[1]
    token = torch.arange(t)
    times = (block_indices.clamp(min=0)[..., None] == token // config.select_block).sum(dim=3)
    times = (times.transpose(1, 2)[:, :, None] * (token <= token[:, None])).double()  # [b, hk, 1, t, t]
    scores = torch.einsum("btkgd,bskd->bkgts", q.double().unflatten(2, (hk, -1)), k_slc.double()) * scale
    return weighted_values((scores + times.log()).softmax(dim=-1), v_slc.double()).to(q.dtype)


def not_rescaled(q, k_slc, v_slc, block_indices, config, scale, *, rescale_sum=True):
    """Block after block, as an online softmax whose accumulator is not rescaled when the maximum rises."""
    hk, t = k_slc.shape[2], q.shape[1]
    scores = torch.einsum("btkgd,bskd->bkgts", q.double().unflatten(2, (hk, -1)), k_slc.double()) * scale
    highest = torch.full(scores.shape[:-1], -torch.inf, dtype=scores.dtype)
    total = torch.zeros_like(highest)
    acc = torch.zeros(*highest.shape, v_slc.shape[-1], dtype=scores.dtype)
    for i in range(block_indices.shape[-1]):
        _, mask, _ = masks(t, block_indices[..., i : i + 1], config)
        seen = scores.masked_fill(~mask, -torch.inf)
        higher = torch.maximum(highest, seen.amax(dim=-1))
        safe = higher.masked_fill(higher.isinf(), 0.0)  # nothing seen yet: every weight is exp(-inf)
        weights = (seen - safe[..., None]).exp()
        acc = acc + torch.einsum("bkgts,bskd->bkgtd", weights, v_slc.double())
        total = total * ((highest - safe).exp() if rescale_sum else 1.0) + weights.sum(dim=-1)
        highest = higher
    out = acc / total.masked_fill(total == 0, 1.0)[..., None]
    return out.permute(0, 3, 1, 2, 4).flatten(2, 3).to(q.dtype)


NOT_RESCALED = (
    "When a later block holds a higher score, what was summed up so far must be multiplied by "
    "exp(old maximum - new maximum): the accumulator as well as the sum of the weights."
)
MINUS_ONE = "You read the block number -1 as block 0. It stands for no block."
NO_KERNEL = Mistake(
    "no-kernel",
    "The result is right, but no Triton kernel loaded the keys and values and stored the output. The part "
    "asks for one.",
)
KERNEL = [
    Mistake(
        "selected-not-causal",
        "Inside its own block a query sees tokens after itself. Mask them before the softmax.",
        lambda **arguments: selected(**arguments, causal=False),
    ),
    Mistake("minus-one", MINUS_ONE, lambda **arguments: repeated(**arguments)),
    Mistake("minus-one", MINUS_ONE, lambda **arguments: selected(**arguments, none="first")),
    Mistake(
        "no-scale",
        "The scores are not multiplied by scale.",
        lambda scale, **arguments: selected(scale=1.0, **arguments),
    ),
    Mistake("no-rescale", NOT_RESCALED, not_rescaled),
    Mistake("no-rescale", NOT_RESCALED, lambda **arguments: not_rescaled(**arguments, rescale_sum=False)),
    Mistake(
        "heads",
        "Query heads go with the wrong key/value heads: heads j·g … j·g + g - 1 use head j.",
        lambda **arguments: selected(**arguments, interleaved=True),
    ),
]
