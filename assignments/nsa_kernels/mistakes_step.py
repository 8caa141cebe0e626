"""What typical mistakes with an online softmax give: attention with one thing done otherwise."""

import torch

from minisys.grade.assignment import Mistake

# --- two ways to compute what a kernel should: at once in float64, and step by step as kernels do ---------


def finished(highest, total, acc, dtype):
    """``[t, hq, d_v + 1]`` from ``[hk, g, t]``, ``[hk, g, t]`` and ``[hk, g, t, d_v]``."""
    nothing = total == 0
    total = total.masked_fill(nothing, 1.0)
    lse = (highest + total.log()).masked_fill(nothing, torch.inf)
    joined = torch.cat([acc / total[..., None], lse[..., None]], dim=-1)
    return joined.permute(2, 0, 1, 3).flatten(1, 2).to(dtype)


def attend(q, k, v, counts, scale, *, interleaved=False):
    """Output and lse where key s counts ``counts[hk, 1 or g, t, s]`` times."""
    hk = k.shape[1]
    grouped = q.unflatten(1, (-1, hk)).transpose(1, 2) if interleaved else q.unflatten(1, (hk, -1))
    scores = torch.einsum("tkgd,skd->kgts", grouped.double(), k.double()) * scale + counts.double().log()
    highest = scores.amax(dim=-1)
    weights = (scores - highest.masked_fill(highest.isinf(), 0.0)[..., None]).exp()
    acc = torch.einsum("kgts,skd->kgtd", weights, v.double())
    out = finished(highest, weights.sum(dim=-1), acc, q.dtype)
    return out.unflatten(1, (hk, -1)).transpose(1, 2).flatten(1, 2) if interleaved else out


def online(
    q, k, v, steps, scale, *, shrink_acc=True, shrink_sum=True, sign=1.0, base="running", safe=True,
    hidden=-torch.inf, reads=None,
):  # fmt: skip
    """Output and lse by an online softmax over `steps` ``[c, hk, 1, t, s]``, in float32 as a kernel has it.

    `reads` ``[c, hk, 1, t, s]`` are the keys of a step's tile; others take no part, hidden or not.
    """
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("tkgd,skd->kgts", grouped, k) * scale
    highest = torch.full(scores.shape[:-1], -torch.inf)
    total = torch.zeros_like(highest)
    acc = torch.zeros(*highest.shape, v.shape[-1])
    for i, sees in enumerate(steps):
        tile = scores.masked_fill(~sees, hidden)
        tile = tile if reads is None else tile.masked_fill(~reads[i], -torch.inf)
        higher = tile.amax(dim=-1) if base == "tile" else torch.maximum(highest, tile.amax(dim=-1))
        subtracted = torch.zeros_like(higher) if base == "none" else higher
        if safe:
            subtracted = subtracted.masked_fill(higher == -torch.inf, 0.0)
        weights = (tile - subtracted[..., None]).exp()
        if reads is not None:  # others are no keys of this tile; in a tile of nothing but -inf all are NaN
            weights = weights.masked_fill(~reads[i], 0.0)
        shrink = (sign * (highest - subtracted)).exp()
        added = torch.einsum("kgts,skd->kgtd", weights, v), weights.sum(dim=-1)
        happens = torch.ones_like(sees[..., 0]) if reads is None else reads[i].any(dim=-1)  # [hk, 1, t]
        kept = acc * shrink[..., None] if shrink_acc else acc
        acc = torch.where(happens[..., None], kept + added[0], acc)
        total = torch.where(happens, total * (shrink if shrink_sum else 1.0) + added[1], total)
        highest = torch.where(happens, higher, highest)
    return finished(highest, total, acc, q.dtype)


NO_RESCALE = (
    "When a later tile holds a higher score, what was summed up so far must be multiplied by "
    "exp(old maximum - new maximum): acc as well as row_sum."
)
WHERE = {"acc": {"shrink_acc": False}, "sum": {"shrink_sum": False}}
NO_RESCALES = [
    ("no-rescale-acc", f"acc is not rescaled. {NO_RESCALE}", WHERE["acc"]),
    ("no-rescale-sum", f"row_sum is not rescaled. {NO_RESCALE}", WHERE["sum"]),
    ("no-rescale", f"Nothing is rescaled. {NO_RESCALE}", WHERE["acc"] | WHERE["sum"]),
]
NAN = (
    "A row that has seen no key yet has the maximum -infinity, and -inf - (-inf) is NaN. Subtract 0 where "
    "the new maximum is -infinity."
)
NO_MAXIMUM = (
    "The maximum is not subtracted before the exponential: in float32 exp(89) is infinity and exp(-104) is 0."
)
NO_SCALE = "The scores are not multiplied by scale."

# --- part 1 -----------------------------------------------------------------------------------------------

KEY_TILE = 16


def tiled(q, k, v, visible, scale, **changed):
    """Part 1, tile by tile; the last tile is filled up with zeros, which nobody sees."""
    missing = -k.shape[0] % KEY_TILE
    k, v = (torch.nn.functional.pad(x, (0, 0, 0, missing))[:, None] for x in (k, v))
    visible = torch.nn.functional.pad(visible, (0, missing))
    tile = torch.arange(k.shape[0]) // KEY_TILE == torch.arange(k.shape[0] // KEY_TILE)[:, None]
    reads = tile[:, None, None, None, :]  # [c, hk, 1, t, s]
    if changed.pop("see_all", False):
        visible = torch.ones_like(visible)
    return online(q[:, None], k, v, visible & reads, scale, reads=reads, **changed)[:, 0]


def tiled_exactly(q, k, v, visible, scale):
    return attend(q[:, None], k[:, None], v[:, None], visible[None, None], scale)[:, 0]


def unsubtracted(q, k, v, visible, scale):
    """Everything right but for the maximum: nothing is rescaled either, as there is nothing to rescale by."""
    both = WHERE["acc"] | WHERE["sum"]
    return tiled(q, k, v, visible, scale, base="none", **both)


def step(key, says, **changed):
    return Mistake(key, says, lambda **arguments: tiled(**arguments, **changed))


STEP = [
    *[step(key, says, **changed) for key, says, changed in NO_RESCALES],
    step(
        "rescale-inverted",
        "You rescale by exp(new maximum - old maximum); it is the other way round.",
        sign=-1.0,
    ),
    step("nan", NAN, safe=False),
    step("no-maximum", NO_MAXIMUM, base="none"),
    Mistake("no-maximum", NO_MAXIMUM, unsubtracted),
    step(
        "tile-maximum",
        "You carry the maximum of the last tile alone. Take the higher one of it and the one so far; else "
        "exp(old - new) grows past what float32 holds.",
        base="tile",
    ),
    step(
        "hidden-zero",
        "Hidden keys get the score 0, so that each counts exp(0 - m). Their score must be -infinity.",
        hidden=0.0,
    ),
    step("not-masked", "Rows see keys that `visible` hides.", see_all=True),
    Mistake("no-scale", NO_SCALE, lambda scale, **arguments: tiled(scale=1.0, **arguments)),
]
