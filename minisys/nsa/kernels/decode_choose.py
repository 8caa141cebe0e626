"""Which blocks a query reads: importance out of the credits of decode_step.py, and the choice.

One program a pair, while everything else of its step waits, so it is written to be short: four warps, no
reduction across them, few barriers.

* Blocks are taken in chunks of WARPS · INNER · 32. A lane holds INNER of them, a warp INNER · 32. Each warp
  finds the n best of its own in n rounds: the largest of a lane's numbers in registers, of a warp's in one
  instruction.
* The lists of the warps, n each, need no rounds. A block's place in the order is the number of blocks that
  are more important; all these comparisons are independent, and whoever has a place below n writes itself
  there. Places are distinct as long as no two keys are equal. So a key is the importance, as the bits of a
  float that is not negative, which order as it does, followed by the block's number: ties go to the earlier.
* Up to 256 blocks all warps do the same, and no lists are needed.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from minisys.nsa.kernels.decode_parts import max_and_total
from minisys.nsa.kernels.importance import LANES, NONE


def choice_options(blocks: int, tile_blocks: int) -> dict[str, int]:
    """WARPS that look at blocks of their own and INNER, the blocks of a lane, for rows of `blocks` blocks.

    Together they look at whole tiles, of `tile_blocks` blocks.
    """
    if blocks <= 8 * LANES.value:
        inner = triton.cdiv(max(blocks, tile_blocks), LANES.value)
        return {"WARPS": 1, "INNER": triton.next_power_of_2(inner)}
    return {"WARPS": 4, "INNER": min(8, triton.next_power_of_2(triton.cdiv(blocks, 4 * LANES.value)))}


@triton.jit
@no_type_check
def larger(keys, others):
    """How many of `others` [n] are larger than each of `keys` [m]."""
    return tl.sum((others[None, :] > keys[:, None]).to(tl.int32), axis=1)


@triton.jit
@no_type_check
def numbers_of(keys):
    """Block numbers of keys."""
    return (keys & NONE).to(tl.int32) ^ NONE


def numbers_of_keys(keys: Tensor) -> Tensor:
    """The same in PyTorch; -1 for a key that stands for no block."""
    return torch.where(keys >= 0, (keys & NONE.value) ^ NONE.value, -1).to(torch.int32)


@triton.jit
@no_type_check
def prepare_tiles(stats, tile_max, spills, carried, pair, first_tile, tiles, used_tiles, scale_log2,
                  SPLITS: tl.constexpr, SPLITS_PADDED: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr,
                  ROWS: tl.constexpr, TILES: tl.constexpr, EXTRA: tl.constexpr):  # fmt: skip
    """Turn the units of TILES tiles into factors, in place, and add up the group's spills of each tile."""
    tile = first_tile + tl.arange(0, TILES)
    head = tl.arange(0, ROWS)[:, None]
    row = (pair * GROUP + head) * tiles + tile[None, :]
    known = (head < GROUP) & (tile < used_tiles)[None, :]
    unit = tl.load(tile_max + row, mask=known, other=-float("inf"))
    top, total = max_and_total(stats, pair * PARTS, scale_log2, SPLITS, SPLITS_PADDED, GROUP, ROWS)
    lse = tl.where(total > 0.0, top + tl.log2(tl.where(total > 0.0, total, 1.0)), float("inf"))
    factor = tl.exp2(unit * scale_log2 - lse[:, None])
    tl.store(tile_max + row, factor, mask=known)
    for i in tl.static_range(EXTRA):
        spill = tl.load(spills + row * EXTRA + i, mask=known, other=0.0)
        total = tl.sum(factor * spill, axis=0)
        tl.store(carried + (pair * tiles + tile) * EXTRA + i, total, mask=tile < used_tiles)


@triton.jit
@no_type_check
def best_of_warps(factors, credits, carried, pair, first_tile, tiles, used_tiles, end, GROUP: tl.constexpr,
                  TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, INITIAL: tl.constexpr, FREE: tl.constexpr,
                  N_PADDED: tl.constexpr, WARPS: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    """Importance (as bits) and numbers [WARPS, N_PADDED] of each warp's best blocks, -1 for none.

    A block may be chosen from INITIAL up to `end`. Equations 8 to 10 of arXiv 2502.11089.
    """
    warp = tl.arange(0, WARPS)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    first = warp * (INNER * LANES) + lane + first_tile * TILE_BLOCKS
    importance = ()
    for inner in tl.static_range(INNER):
        block = first + inner * LANES
        tile = block // TILE_BLOCKS
        local = block % TILE_BLOCKS
        found = tl.full([WARPS, LANES], 0.0, tl.float32)
        if EXTRA > 0:  # what the tile before credits to the first blocks of this one
            place = (pair * tiles + tile - 1) * EXTRA + local
            known = (local < EXTRA) & (tile > 0) & (tile <= used_tiles)
            found = tl.load(carried + place, mask=known, other=0.0)
        importance = importance + (found,)  # noqa: RUF005 (Triton does not know *)
    # Few iterations, so that many loads are under way at once.
    UNROLL: tl.constexpr = 32 // INNER if GROUP % (32 // INNER) == 0 else 1
    for head in tl.range(0, GROUP, num_stages=1, loop_unroll_factor=UNROLL):
        row = (pair * GROUP + head) * tiles
        more = ()
        for inner in tl.static_range(INNER):
            block = first + inner * LANES
            tile = block // TILE_BLOCKS
            known = tile < used_tiles
            # Lanes in a row, said so that the compiler keeps each warp's factors in that warp.
            factor = tl.load(factors + tl.max_contiguous(row + tile, [1, 2]), mask=known, other=0.0)
            credit = tl.load(credits + row * TILE_BLOCKS + block, mask=known, other=0.0)
            more = more + (importance[inner] + factor * credit,)  # noqa: RUF005
        importance = more
    new = ()
    for inner in tl.static_range(INNER):
        block = first + inner * LANES
        bits = importance[inner].to(tl.int32, bitcast=True)
        new = new + (tl.where((block >= INITIAL) & (block < end), bits, -1),)  # noqa: RUF005

    slot = tl.arange(0, N_PADDED)[None, :]
    best = tl.full([WARPS, N_PADDED], -1, tl.int32)
    number = tl.full([WARPS, N_PADDED], -1, tl.int32)
    for i in range(FREE):
        of_lane = new[0]
        for inner in tl.static_range(1, INNER):
            of_lane = tl.maximum(of_lane, new[inner])
        top = tl.max(of_lane, axis=1)[:, None]
        of_lane = tl.where(new[0] == top, first, NONE)
        for inner in tl.static_range(1, INNER):
            of_lane = tl.minimum(of_lane, tl.where(new[inner] == top, first + inner * LANES, NONE))
        taken = tl.min(of_lane, axis=1)[:, None]
        best = tl.where(slot == i, top, best)
        number = tl.where(slot == i, taken, number)
        left = ()
        for inner in tl.static_range(INNER):
            left = left + (tl.where(first + inner * LANES == taken, -1, new[inner]),)  # noqa: RUF005
        new = left
    return best, number


@triton.jit
@no_type_check
def merge_lists(lists, count, chosen, MERGED: tl.constexpr, N_PADDED: tl.constexpr):
    """The best N_PADDED of `count` keys in `lists`, by falling importance, into `chosen`."""
    slot = tl.arange(0, N_PADDED)
    place = tl.arange(0, MERGED)
    nothing = -1 - MERGED - slot.to(tl.int64)  # distinct from each other and from all keys
    for first in tl.range(0, tl.maximum(count, 1), MERGED, num_stages=1):
        best = nothing
        if first > 0:
            tl.debug_barrier()  # `chosen` is whole
            best = tl.load(chosen + slot)
            best = tl.where(best >= 0, best, nothing)
            tl.debug_barrier()  # and read
        new = tl.load(lists + first + place, mask=first + place < count, other=-1)
        new = tl.where(new >= 0, new, -1 - place.to(tl.int64))
        rank = larger(new, new) + larger(new, best)
        tl.store(chosen + rank, new, mask=rank < N_PADDED)
        rank = slot + larger(best, new)
        tl.store(chosen + rank, best, mask=rank < N_PADDED)


@triton.jit
@no_type_check
def choose_blocks(stats, tile_max, credits, spills, carried, lists, chosen, pair, tiles, used_tiles, end,
                  scale_log2, SPLITS: tl.constexpr, SPLITS_PADDED: tl.constexpr, PARTS: tl.constexpr,
                  GROUP: tl.constexpr, ROWS: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr,
                  INITIAL: tl.constexpr, FREE: tl.constexpr, N_PADDED: tl.constexpr, WARPS: tl.constexpr,
                  INNER: tl.constexpr, MOST_CHUNKS: tl.constexpr):  # fmt: skip
    """Keys of a pair's best FREE blocks, by falling importance, into chosen ``[pairs, N_PADDED]``.

    Negative where there are fewer.
    """
    LISTED: tl.constexpr = WARPS * N_PADDED  # keys of a chunk
    CHUNK: tl.constexpr = WARPS * INNER * LANES
    chosen += pair * N_PADDED
    place = tl.arange(0, LISTED)
    chunks = tl.maximum(tl.cdiv(end, CHUNK), 1)
    for chunk in tl.range(0, chunks, num_stages=1):
        first_tile = chunk * (CHUNK // TILE_BLOCKS)
        prepare_tiles(
            stats, tile_max, spills, carried, pair, first_tile, tiles, used_tiles, scale_log2, SPLITS,
            SPLITS_PADDED, PARTS, GROUP, ROWS, CHUNK // TILE_BLOCKS, EXTRA,
        )  # fmt: skip
        tl.debug_barrier()  # every warp has stored
        best, number = best_of_warps(
            tile_max, credits, carried, pair, first_tile, tiles, used_tiles, end, GROUP, TILE_BLOCKS, EXTRA,
            INITIAL, FREE, N_PADDED, WARPS, INNER,
        )  # fmt: skip
        keys = tl.reshape((best.to(tl.int64) << 32) + (number ^ NONE).to(tl.int64), [LISTED])
        if MOST_CHUNKS > 1:
            tl.store(lists + (pair.to(tl.int64) * MOST_CHUNKS + chunk) * LISTED + place, keys)
        elif WARPS > 1:
            keys = tl.where(keys >= 0, keys, -1 - place.to(tl.int64))
            rank = larger(keys, keys)
            tl.store(chosen + rank, keys, mask=rank < N_PADDED)
        else:
            tl.store(chosen + place, keys)
    if MOST_CHUNKS > 1:
        tl.debug_barrier()  # the lists are whole
        merge_lists(
            lists + pair.to(tl.int64) * (MOST_CHUNKS * LISTED), chunks * LISTED, chosen, LISTED, N_PADDED
        )
