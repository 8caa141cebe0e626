"""Numbers that say themselves that they are there: handed from program to program without waiting for stores.

To hand numbers over, a program would wait until all of its stores have arrived, raise a counter, and only
then may a reader that saw the counter ask for them. Here each number lies in one word of 64 bits with the
number of the launch, its stamp. A word is written and read in one piece, so a reader that finds the stamp has
the number. A counter is raised too, but as a hint: nobody waits for stores before it, and a reader that comes
too early finds old stamps and asks again. NCCL calls words of 4 bytes of data and 4 of flag its protocol of
low latency (LL, arXiv 2507.04786).

Twice the bytes, so it is for little data that somebody waits for. Words are kept between launches, and every
launch of a cache has a stamp that none before it had.
"""

from typing import no_type_check

import triton
import triton.language as tl

from minisys.nsa.kernels.decode_parts import log2_total


@triton.jit
@no_type_check
def stamped(x, stamp):
    """Words of float32 numbers."""
    return (stamp.to(tl.int64) << 32) | (x.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF)


@triton.jit
@no_type_check
def number_of(word):
    return word.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def either(a, b):
    return a | b


@triton.jit
@no_type_check
def missing(word, stamp):
    """0 where a word is of this launch."""
    return (word >> 32).to(tl.int32) ^ stamp


@triton.jit
@no_type_check
def leave_sums(row_max, row_sum, statistics, slot, stamp, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Row maxima and sums of one part, [2, GROUP], at place `slot`."""
    head = tl.arange(0, ROWS)
    tl.store(statistics + slot * (2 * GROUP) + GROUP + head, stamped(row_sum, stamp), mask=head < GROUP)
    tl.store(statistics + slot * (2 * GROUP) + head, stamped(row_max, stamp), mask=head < GROUP)


@triton.jit
@no_type_check
def leave_numerator(acc, numerators, slot, stamp, GROUP: tl.constexpr, ROWS: tl.constexpr, D_V: tl.constexpr,
                    D_V_PADDED: tl.constexpr):  # fmt: skip
    """Its numerator, [GROUP, D_V]."""
    head = tl.arange(0, ROWS)[:, None]
    dims = tl.arange(0, D_V_PADDED)[None, :]
    places = slot * (GROUP * D_V) + head * D_V + dims
    tl.store(numerators + places, stamped(acc, stamp), mask=(head < GROUP) & (dims < D_V))


@triton.jit
@no_type_check
def announce(counter):
    """Say that it is worth looking for what this program has stored; no promise that it is there.

    `counter` only grows: by as many programs in every launch.
    """
    tl.debug_barrier()  # every warp has asked for its stores
    tl.atomic_add(counter, 1, sem="relaxed")


@triton.jit
@no_type_check
def wait_for_announced(counter, count):
    """Until `count` programs have announced themselves at `counter`, those of earlier launches included."""
    while tl.atomic_add(counter, 0, sem="relaxed") != count:
        pass


@triton.jit
@no_type_check
def wait_for_stamp(place, stamp):
    """Until `stamp` is there; what its writer stored before is seen from now on."""
    while tl.atomic_add(place, 0, sem="acquire") != stamp:
        pass


@triton.jit
@no_type_check
def sum_when_there(statistics, numerators, first_slot, gate, dims, stamp, scale_log2,
                   COUNT: tl.constexpr, SLICE: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
                   D_V: tl.constexpr):  # fmt: skip
    """gate · attention of a branch [ROWS, SLICE], numbers `dims` of a head, from COUNT parts."""
    PADDED: tl.constexpr = triton.next_power_of_2(COUNT)
    head = tl.minimum(tl.arange(0, ROWS), GROUP - 1)[:, None]
    part = tl.minimum(tl.arange(0, PADDED), COUNT - 1)[None, :]
    at = statistics + (first_slot + part) * (2 * GROUP) + head
    if D_V % SLICE != 0:  # where it is none, a minimum would hide from the compiler that dims are neighbours
        dims = tl.minimum(dims, D_V - 1)
    rows = ((first_slot + part) * GROUP + head)[:, :, None] * D_V + dims[None, None, :]
    maxima = tl.zeros([ROWS, PADDED], tl.int64)
    sums = tl.zeros([ROWS, PADDED], tl.int64)
    parts = tl.zeros([ROWS, PADDED, SLICE], tl.int64)
    late = 1
    while late != 0:
        parts = tl.load(numerators + rows, volatile=True)
        maxima = tl.load(at, volatile=True)
        sums = tl.load(at + GROUP, volatile=True)
        some = tl.reduce(missing(parts, stamp), 2, either)
        late = tl.reduce(some | missing(maxima, stamp) | missing(sums, stamp), None, either)
    is_part = (tl.arange(0, PADDED) < COUNT)[None, :]
    maxima = tl.where(is_part, number_of(maxima) * scale_log2, -float("inf"))
    sums = tl.where(is_part, number_of(sums), 0.0)
    weights = gate[:, None] * tl.exp2(maxima - log2_total(maxima, sums)[:, None])
    return tl.sum(number_of(parts) * weights[:, :, None], axis=1)


@triton.jit
@no_type_check
def importance_when_there(statistics, credits, spills, pair, first_slot, end, stamp, scale_log2,
                          TILES: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr,
                          INITIAL: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """As `importance_bits` of decode_choose.py, for the tiles of a row, each of which is a part."""
    SPILLED: tl.constexpr = triton.next_power_of_2(EXTRA) if EXTRA > 0 else 1
    head = tl.minimum(tl.arange(0, ROWS), GROUP - 1)[:, None]
    tile = tl.arange(0, TILES)[None, :]
    tile_before = tl.maximum(tile - 1, 0)
    local = tl.arange(0, TILE_BLOCKS)
    spill = tl.minimum(tl.arange(0, SPILLED), max(EXTRA, 1) - 1)[None, None, :]
    at = statistics + (first_slot + tile) * (2 * GROUP) + head
    at_before = statistics + (first_slot + tile_before) * (2 * GROUP) + head
    row = ((pair * GROUP + head) * TILES + tile)[:, :, None]
    row_before = ((pair * GROUP + head) * TILES + tile_before)[:, :, None]
    credit = tl.zeros([ROWS, TILES, TILE_BLOCKS], tl.int64)
    spilled = tl.zeros([ROWS, TILES, SPILLED], tl.int64)
    maxima = tl.zeros([ROWS, TILES], tl.int64)
    sums = tl.zeros([ROWS, TILES], tl.int64)
    before = tl.zeros([ROWS, TILES], tl.int64)
    late = 1
    while late != 0:
        credit = tl.load(credits + row * TILE_BLOCKS + local[None, None, :], volatile=True)
        maxima = tl.load(at, volatile=True)
        sums = tl.load(at + GROUP, volatile=True)
        some = tl.reduce(missing(credit, stamp), 2, either) | missing(maxima, stamp) | missing(sums, stamp)
        if EXTRA > 0:
            before = tl.load(at_before, volatile=True)
            spilled = tl.load(spills + row_before * EXTRA + spill, volatile=True)
            some |= missing(before, stamp) | tl.reduce(missing(spilled, stamp), 2, either)
        late = tl.reduce(some, None, either)
    is_head = (tl.arange(0, ROWS) < GROUP)[:, None]
    maxima = tl.where(is_head, number_of(maxima) * scale_log2, -float("inf"))
    lse = log2_total(maxima, number_of(sums))[:, None]
    importance = tl.sum(tl.exp2(maxima - lse)[:, :, None] * number_of(credit), axis=0)
    if EXTRA > 0:
        factor = tl.where(is_head & (tile > 0), tl.exp2(number_of(before) * scale_log2 - lse), 0.0)
        carried = tl.sum(factor[:, :, None] * number_of(spilled), axis=0)
        for i in tl.static_range(EXTRA):
            of_spill = tl.sum(tl.where(tl.arange(0, SPILLED)[None, :] == i, carried, 0.0), axis=1)
            importance += tl.where(local[None, :] == i, of_spill[:, None], 0.0)
    block = tl.arange(0, TILES)[:, None] * TILE_BLOCKS + local[None, :]
    return tl.where((block >= INITIAL) & (block < end), importance.to(tl.int32, bitcast=True), -1)
