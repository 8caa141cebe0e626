"""Which blocks a query reads: importance out of the credits of decode_step.py, and the choice.

Everything else of a step waits for it, so it is a short chain of dependent reads.

* Blocks are taken in chunks of `CHUNK`, `CHOICES` programs a pair. Everything that a chunk needs is loaded
  at once: units, credits and spills of all heads, and the sums of the parts, which give the denominators.
* The best of a chunk are found in n rounds: the largest of a lane's numbers in registers, of a warp's in one
  instruction. All four warps do the same, so no round waits for another warp. Ties go to the earlier block.
* The lists of the chunks are merged in the same way: by the one program of a pair that has them all, or where
  several share the chunks by everyone who reads chosen blocks.
* In a small batch whose rows are one chunk nobody chooses for others: everyone who reads chosen blocks does
  it, which takes less time than to be told.
"""

from typing import no_type_check

import triton
import triton.language as tl

from minisys.nsa.kernels.decode_parts import load_stats, log2_total, signal
from minisys.nsa.kernels.importance import LANES, NONE
from minisys.nsa.kernels.tiles import power_of_two

MOST_BLOCKS = 8 * LANES.value  # of a chunk: eight for each lane


def chunk_of(blocks: int, tile_blocks: int) -> int:
    """Blocks of a chunk, for rows of `blocks` blocks and tiles of `tile_blocks`: a power of two.

    Two a lane or more: with one, Triton 3.6 does not come to an end.
    """
    return max(2 * LANES.value, tile_blocks, min(MOST_BLOCKS, power_of_two(blocks)))


@triton.jit
@no_type_check
def importance_bits(stats, tile_max, credits, spills, pair, first_tile, tiles, used_tiles, end, scale_log2,
                    SPLITS: tl.constexpr, PARTS: tl.constexpr,
                    GROUP: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, TILE_BLOCKS: tl.constexpr,
                    EXTRA: tl.constexpr, INITIAL: tl.constexpr):  # fmt: skip
    """Importance of the blocks of TILES tiles, as bits [TILES, TILE_BLOCKS]; -1 for those not to choose.

    The bits of a float that is not negative order as it does. A block may be chosen from INITIAL up to `end`.
    Equations 8 to 10 of arXiv 2502.11089.
    """
    tile = first_tile + tl.arange(0, TILES)
    local = tl.arange(0, TILE_BLOCKS)
    head = tl.arange(0, ROWS)[:, None]
    row = (pair * GROUP + head) * tiles + tile[None, :]
    known = (head < GROUP) & (tile < used_tiles)[None, :]
    after = (head < GROUP) & ((tile > 0) & (tile <= used_tiles))[None, :]  # a tile has one before it
    # All loads first, those of `load_stats` too: nothing in between waits.
    places = row[:, :, None] * TILE_BLOCKS + local[None, None, :]
    credit = tl.load(credits + places, mask=known[:, :, None], other=0.0)
    unit = tl.load(tile_max + row, mask=known, other=-float("inf"))
    if EXTRA > 0:
        unit_before = tl.load(tile_max + row - 1, mask=after, other=-float("inf"))
        spilled = ()
        for i in tl.static_range(EXTRA):
            spill = tl.load(spills + (row - 1) * EXTRA + i, mask=after, other=0.0)
            spilled = spilled + (spill,)  # noqa: RUF005 (Triton does not know *)
    maxima, sums = load_stats(stats, pair * PARTS, scale_log2, SPLITS, GROUP, ROWS)
    lse = log2_total(maxima, sums)[:, None]
    factor = tl.exp2(unit * scale_log2 - lse)
    importance = tl.sum(factor[:, :, None] * credit, axis=0)
    if EXTRA > 0:  # what the tile before credits to the first blocks of this one
        factor = tl.exp2(unit_before * scale_log2 - lse)
        for i in tl.static_range(EXTRA):
            carried = tl.sum(factor * spilled[i], axis=0)
            importance += tl.where(local[None, :] == i, carried[:, None], 0.0)
    block = tile[:, None] * TILE_BLOCKS + local[None, :]
    return tl.where((block >= INITIAL) & (block < end), importance.to(tl.int32, bitcast=True), -1)


@triton.jit
@no_type_check
def best_of_chunk(bits, first_block, FREE: tl.constexpr, SLOTS: tl.constexpr, INNER: tl.constexpr):
    """The FREE largest of ``[INNER · LANES]`` at `bits` and their block numbers, both [1, SLOTS].

    -1 where there are fewer that are not negative.
    """
    # The compiler must have no reason for a layout without all 32 lanes of a warp: it would exchange data
    # between warps in every round. So a lane has INNER neighbours, and there are at least 32 slots.
    place = tl.arange(0, LANES)[None, :] * INNER
    block = place + first_block
    slot = tl.arange(0, SLOTS)[None, :]
    new = ()
    for inner in tl.static_range(INNER):
        new = new + (tl.load(bits + place + inner),)  # noqa: RUF005 (no * in Triton)
    best = tl.full([1, SLOTS], -1, tl.int32)
    number = tl.full([1, SLOTS], -1, tl.int32)
    for i in range(FREE):
        of_lane = new[0]
        for inner in tl.static_range(1, INNER):
            of_lane = tl.maximum(of_lane, new[inner])
        top = tl.max(of_lane, axis=1)[:, None]
        of_lane = tl.where(new[0] == top, block, NONE)
        for inner in tl.static_range(1, INNER):
            of_lane = tl.minimum(of_lane, tl.where(new[inner] == top, block + inner, NONE))
        taken = tl.min(of_lane, axis=1)[:, None]
        best = tl.where(slot == i, top, best)
        number = tl.where(slot == i, taken, number)
        left = ()
        for inner in tl.static_range(INNER):
            left = left + (tl.where(block + inner == taken, -1, new[inner]),)  # noqa: RUF005
        new = left
    return best, tl.where(best >= 0, number, -1)


@triton.jit
@no_type_check
def best_of_lists(bits, numbers, count, FREE: tl.constexpr, SLOTS: tl.constexpr, INNER: tl.constexpr):
    """Block numbers [1, SLOTS] of the FREE largest of `count` entries, -1 for none.

    `bits` and `numbers` point at int32 ``[count]``. INNER · LANES entries are looked at together, and the
    best so far are held against them.
    """
    lane = tl.arange(0, LANES)[None, :] * INNER  # as in `best_of_chunk`
    slot = tl.arange(0, SLOTS)[None, :]
    best = tl.full([1, SLOTS], -1, tl.int32)
    number = tl.full([1, SLOTS], -1, tl.int32)
    for first in tl.range(0, count, INNER * LANES, num_stages=1):
        new = ()
        named = ()
        for inner in tl.static_range(INNER):
            place = first + lane + inner
            new = new + (tl.load(bits + place, mask=place < count, other=-1),)  # noqa: RUF005
            named = named + (tl.load(numbers + place, mask=place < count, other=NONE),)  # noqa: RUF005
        merged = tl.full([1, SLOTS], -1, tl.int32)
        merged_number = tl.full([1, SLOTS], -1, tl.int32)
        for i in range(FREE):
            of_lane = new[0]
            for inner in tl.static_range(1, INNER):
                of_lane = tl.maximum(of_lane, new[inner])
            top = tl.maximum(tl.max(of_lane, axis=1), tl.max(best, axis=1))[:, None]
            of_lane = tl.where(new[0] == top, named[0], NONE)
            for inner in tl.static_range(1, INNER):
                of_lane = tl.minimum(of_lane, tl.where(new[inner] == top, named[inner], NONE))
            kept = tl.min(tl.where(best == top, number, NONE), axis=1)
            taken = tl.minimum(tl.min(of_lane, axis=1), kept)[:, None]
            merged = tl.where(slot == i, top, merged)
            merged_number = tl.where(slot == i, taken, merged_number)
            left = ()
            for inner in tl.static_range(INNER):
                left = left + (tl.where(named[inner] == taken, -1, new[inner]),)  # noqa: RUF005
            new = left
            best = tl.where(number == taken, -1, best)
        best = merged
        number = merged_number
    return tl.where(best >= 0, number, -1)


@triton.jit
@no_type_check
def choose_in_chunk(stats, tile_max, credits, spills, bits, pair, chunk, tiles, used_tiles, end, scale_log2,
                    SPLITS: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
                    TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, INITIAL: tl.constexpr,
                    FREE: tl.constexpr, SLOTS: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """The best FREE of a chunk: importance and numbers, [1, SLOTS]. `bits` is scratch for CHUNK numbers."""
    TILES: tl.constexpr = CHUNK // TILE_BLOCKS
    found = importance_bits(
        stats, tile_max, credits, spills, pair, chunk * TILES, tiles, used_tiles, end, scale_log2, SPLITS,
        PARTS, GROUP, ROWS, TILES, TILE_BLOCKS, EXTRA, INITIAL,
    )  # fmt: skip
    # Through memory into the layout that a round wants.
    tl.store(bits + tl.arange(0, TILES)[:, None] * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)[None, :], found)
    tl.debug_barrier()  # every warp has stored
    return best_of_chunk(bits, chunk * CHUNK, FREE, SLOTS, CHUNK // LANES)


@triton.jit
@no_type_check
def choose_blocks(stats, tile_max, credits, spills, bits, lists, counter, pair, choice, most_chunks, tiles,
                  used_tiles, end, scale_log2, SPLITS: tl.constexpr,
                  PARTS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, TILE_BLOCKS: tl.constexpr,
                  EXTRA: tl.constexpr, INITIAL: tl.constexpr, FREE: tl.constexpr, SLOTS: tl.constexpr,
                  CHUNK: tl.constexpr, MERGED: tl.constexpr, CHOICES: tl.constexpr):  # fmt: skip
    """The best of chunks `choice`, `choice` + CHOICES, … of a pair: numbers and importance, into `lists`.

    A program that has all chunks merges the lists, into the first of them.
    """
    slot = tl.arange(0, SLOTS)[None, :]
    first_list = pair.to(tl.int64) * most_chunks
    bits += first_list * CHUNK
    lists += first_list * (2 * FREE)
    numbers = lists + most_chunks * FREE
    chunks = tl.cdiv(end, CHUNK)
    for chunk in tl.range(choice, chunks, CHOICES, num_stages=1):
        best, number = choose_in_chunk(
            stats, tile_max, credits, spills, bits + chunk * CHUNK, pair, chunk, tiles, used_tiles, end,
            scale_log2, SPLITS, PARTS, GROUP, ROWS, TILE_BLOCKS, EXTRA, INITIAL, FREE, SLOTS, CHUNK,
        )  # fmt: skip
        tl.store(lists + chunk * FREE + slot, best, mask=slot < FREE)
        tl.store(numbers + chunk * FREE + slot, number, mask=slot < FREE)
    if CHOICES == 1:  # noqa: SIM102 (known when it is compiled, and known when it runs)
        if chunks > 1:
            tl.debug_barrier()  # every warp has stored its lists
            number = best_of_lists(lists, numbers, chunks * FREE, FREE, SLOTS, MERGED // LANES)
            tl.debug_barrier()  # and has read all of them
            tl.store(numbers + slot, number, mask=slot < FREE)
    signal(counter)


@triton.jit
@no_type_check
def chosen_blocks(lists, pair, most_chunks, end, FREE: tl.constexpr, SLOTS: tl.constexpr,
                  CHUNK: tl.constexpr, MERGED: tl.constexpr, CHOICES: tl.constexpr):  # fmt: skip
    """Numbers [1, SLOTS] of the best FREE blocks before `end`, by falling importance, -1 for none.

    When all CHOICES have arrived. With several, every reader merges their lists: that takes less time than if
    the last of them did it and handed it over.
    """
    slot = tl.arange(0, SLOTS)[None, :]
    lists += pair.to(tl.int64) * most_chunks * (2 * FREE)
    numbers = lists + most_chunks * FREE
    chunks = tl.cdiv(end, CHUNK)
    number = tl.load(numbers + slot, mask=(slot < FREE) & (chunks > 0), other=-1)
    if CHOICES > 1:  # noqa: SIM102 (known when it is compiled, and known when it runs)
        if chunks > 1:
            number = best_of_lists(lists, numbers, chunks * FREE, FREE, SLOTS, MERGED // LANES)
    return number
