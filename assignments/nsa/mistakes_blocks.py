"""What typical mistakes with blocks give: the reference with one change each, the likeliest first."""

import torch

from minisys.grade.assignment import Mistake
from minisys.nsa import compress
from minisys.nsa.reference import block_overlap

# --- compression ------------------------------------------------------------------------------------------


def cut(x, phi, length, stride, start=0, pad=0):
    """Blocks of `length` tokens, `stride` apart, through φ."""
    x = torch.nn.functional.pad(x[:, start:], (0, 0, 0, 0, 0, pad))
    if x.shape[1] < length:
        return x.new_zeros(x.shape[0], 0, *x.shape[2:])
    return phi(x.unfold(1, length, stride).transpose(-1, -2))


def padded(x, phi, config):
    """As if the tokens after the last whole block made one more, filled up with zeros."""
    length, stride = config.compress_block, config.compress_stride
    count = -(-max(0, x.shape[1] - length) // stride) + 1
    return cut(x, phi, length, stride, pad=max(0, (count - 1) * stride + length - x.shape[1]))


COMPRESSION = [
    Mistake(
        "stride",
        "Your blocks start compress_block tokens apart. Equation 7 starts one every compress_stride tokens, "
        "so that neighbouring blocks overlap.",
        lambda x, phi, config: cut(x, phi, config.compress_block, config.compress_block),
    ),
    Mistake(
        "one-short",
        "The last whole block is missing: mind the + 1 in tc = (t - l) // d + 1.",
        lambda x, phi, config: compress(x, phi, config=config)[:, :-1],
    ),
    Mistake(
        "incomplete",
        "You count a last block that is not whole, filled up with zeros. Tokens after the last whole block "
        "belong to no block.",
        padded,
    ),
    Mistake(
        "shifted",
        "Your blocks start one token late. The paper counts tokens from 1, the code from 0: block i starts "
        "at token i·d.",
        lambda x, phi, config: cut(x, phi, config.compress_block, config.compress_stride, start=1),
    ),
    Mistake(
        "mean",
        "You average the tokens of a block. Call phi on the block instead.",
        lambda x, phi, config: compress(x, lambda blocks: blocks.mean(-2), config=config),
    ),
    Mistake(
        "reversed",
        "The tokens of a block reach phi in reverse order; phi knows positions, so the order counts.",
        lambda x, phi, config: compress(x, lambda blocks: phi(blocks.flip(-2)), config=config),
    ),
]

# --- block importance -------------------------------------------------------------------------------------


def credited(p_cmp, overlap):
    """Importance when compressed block i credits selection block j ``overlap[i, j]`` times."""
    return (p_cmp @ overlap.to(p_cmp.dtype)).sum(dim=2).transpose(1, 2)


def starts_only(p_cmp, config):
    overlap = torch.zeros_like(block_overlap(p_cmp.shape[-2], config))
    for i in range(overlap.shape[0]):
        overlap[i, i * config.compress_stride // config.select_block] = 1
    return credited(p_cmp, overlap)


def signs(p_cmp, config):
    """Equation 9 as it is printed: index (l'/d)·j - m - n."""
    overlap = torch.zeros_like(block_overlap(p_cmp.shape[-2], config))
    pieces = config.select_block // config.compress_stride
    for j in range(overlap.shape[1]):
        for m in range(pieces):
            for n in range(config.compress_block // config.compress_stride):
                if 0 <= pieces * j - m - n < overlap.shape[0]:
                    overlap[pieces * j - m - n, j] += 1
    return credited(p_cmp, overlap)


def by_head(p_cmp, config):
    overlap = block_overlap(p_cmp.shape[-2], config).to(p_cmp.dtype)
    return (p_cmp @ overlap).flatten(1, 2).transpose(1, 2)


IMPORTANCE = [
    Mistake(
        "no-group-sum",
        "You give an importance for every query head. Equation 10 adds up the heads of a group, so that they "
        "share their blocks: the result has hk heads.",
        by_head,
    ),
    Mistake(
        "group-mean",
        "You average over the query heads of a group. Equation 10 adds them up.",
        lambda p_cmp, config: credited(p_cmp, block_overlap(p_cmp.shape[-2], config)) / p_cmp.shape[2],
    ),
    Mistake(
        "one-head",
        "You use the first query head of each group only. Equation 10 adds up all of them.",
        lambda p_cmp, config: credited(p_cmp[:, :, :1], block_overlap(p_cmp.shape[-2], config)),
    ),
    Mistake(
        "sign",
        "You took equation 9 literally, with the index (l'/d)·j - m - n. Its signs shift it to the blocks "
        "before; by overlap the index is (l'/d)·j + m - n.",
        signs,
    ),
    Mistake(
        "start-only",
        "You credit a compressed block once, to the selection block in which it starts. Each of its l/d "
        "pieces credits the block in which that piece lies.",
        starts_only,
    ),
    Mistake(
        "once-a-block",
        "You credit a compressed block once to each selection block it touches. It credits a selection block "
        "as many times as pieces of it lie there.",
        lambda p_cmp, config: credited(p_cmp, block_overlap(p_cmp.shape[-2], config) > 0),
    ),
    Mistake(
        "share",
        "You split the probability among the pieces of a compressed block. Every piece credits all of it.",
        lambda p_cmp, config: (
            credited(p_cmp, block_overlap(p_cmp.shape[-2], config))
            / (config.compress_block // config.compress_stride)
        ),
    ),
    Mistake(
        "cut-block",
        "The last selection block is missing where it is cut short: there are ceil(t / select_block).",
        lambda p_cmp, config: credited(p_cmp, block_overlap(p_cmp.shape[-2], config))[
            ..., : p_cmp.shape[-2] // config.select_block
        ],
    ),
]

# --- selection --------------------------------------------------------------------------------------------


def pick(
    importance, config, *, initial=None, local=None, local_shift=0, own_shift=0, later=False, future=False,
    top_n=None, none=-1, by_rank=False, ahead=False,
):  # fmt: skip
    """The reference's selection, with one thing done otherwise."""
    t, blocks = importance.shape[1], importance.shape[3]
    initial = config.initial_blocks if initial is None else initial
    local = config.local_blocks if local is None else local
    top_n = config.top_n if top_n is None else top_n
    number = torch.arange(blocks)
    own = ((torch.arange(t) + own_shift) // config.select_block)[:, None, None]
    nearest = own - local_shift
    forced = (number < initial) | ((number > nearest - local) & ((number <= nearest) | ahead))
    hidden = (number > own) & (not future)
    score = importance.masked_fill(forced, torch.inf).masked_fill(hidden, -torch.inf)
    if later:
        order = blocks - 1 - score.flip(-1).argsort(dim=-1, descending=True, stable=True)
    else:
        order = score.argsort(dim=-1, descending=True, stable=True)
    order = order[..., :top_n]
    order = order.masked_fill(hidden.expand_as(score).gather(-1, order), blocks)
    order = torch.nn.functional.pad(order, (0, max(0, top_n - blocks)), value=blocks)
    order = order if by_rank else order.sort(dim=-1).values
    return order.masked_fill(order == blocks, none)


def forced_apart(importance, config):
    """top_n blocks beside the forced ones."""
    return pick(importance, config, top_n=config.top_n + config.initial_blocks + config.local_blocks)


FUTURE = "You choose blocks after the query's own. Their tokens all lie in its future."
SELECTION = [
    Mistake(
        "forced-not-counted",
        "You choose top_n blocks beside the forced ones. The initial and local blocks count towards top_n.",
        forced_apart,
    ),
    Mistake(
        "ties-later",
        "Among equally important blocks you take the later one. A tie goes to the earlier block; a stable "
        "sort keeps their order, topk promises none.",
        lambda importance, config: pick(importance, config, later=True),
    ),
    Mistake(
        "padding-zero",
        "You fill up with 0 where a query has fewer than top_n blocks. That is a block's number; use -1.",
        lambda importance, config: pick(importance, config, none=0),
    ),
    Mistake(
        "unsorted",
        "The right blocks, but not in ascending order (with -1 at the end).",
        lambda importance, config: pick(importance, config, by_rank=True),
    ),
    Mistake(
        "future",
        FUTURE,
        lambda importance, config: pick(importance, config, future=True, ahead=True),
    ),
    Mistake("future", FUTURE, lambda importance, config: pick(importance, config, future=True)),
    Mistake(
        "no-initial",
        "The initial blocks are not forced: they compete with the rest.",
        lambda importance, config: pick(importance, config, initial=0),
    ),
    Mistake(
        "no-local",
        "The local blocks are not forced: they compete with the rest.",
        lambda importance, config: pick(importance, config, local=0),
    ),
    Mistake(
        "own-only",
        "You force the query's own block only. local_blocks counts it and those just before it.",
        lambda importance, config: pick(importance, config, local=1),
    ),
    Mistake(
        "local-before",
        "Your local blocks are those before the query's own. Its own block is the first of them.",
        lambda importance, config: pick(importance, config, local_shift=1),
    ),
    Mistake(
        "local-one-more",
        "You force one local block too many: the query's own block counts as one of local_blocks.",
        lambda importance, config: pick(importance, config, local=config.local_blocks + 1),
    ),
    Mistake(
        "own-block",
        "The last query of a block is taken to lie in the next one: query i lies in block i // select_block.",
        lambda importance, config: pick(importance, config, own_shift=1),
    ),
]
