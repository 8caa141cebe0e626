"""What the programs of a decoding step share: where a query stands, rows of the cache, parts and their sum.

Programs of a pair (query, key/value head) wait for one another. A program only ever waits for programs with
smaller numbers, which the GPU started before it and which never wait for it, so every wait ends. What a
program stored before it arrived at a counter is seen by those that find it there.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def arrive(counter):
    """Count this program; returns how many came before it, whose stores it sees from now on."""
    tl.debug_barrier()  # every warp has stored
    return tl.atomic_add(counter, 1, sem="acq_rel")


@triton.jit
@no_type_check
def wait_for(counter, count):
    """Until `count` programs have arrived; what they stored is seen from now on."""
    while tl.atomic_add(counter, 0, sem="acquire") < count:
        pass


@triton.jit
@no_type_check
def query_position(pair, lengths, counts, t, hk, HAS_COUNTS: tl.constexpr):
    """(row · hk + key/value head, position of the query), -1 where the row has no such query."""
    row = pair // (t * hk)
    token = pair // hk % t
    length = tl.load(lengths + row)
    count = t
    if HAS_COUNTS:
        count = tl.load(counts + row)
    position = tl.where(token < count, length - count + token, -1)
    return (row * hk + pair % hk).to(tl.int64), position


@triton.jit
@no_type_check
def load_rows(base, index, inside, dims, D: tl.constexpr, D_PADDED: tl.constexpr):
    """Rows `index` [keys] of ``[tokens, D]``, 0 where not inside."""
    mask = inside[:, None]
    if D != D_PADDED:
        mask = mask & (dims < D)
    return tl.load(base + index[:, None] * D + dims, mask=mask, other=0.0)


@triton.jit
@no_type_check
def store_part(acc, row_max, row_sum, partial, stats, slot, GROUP: tl.constexpr, ROWS: tl.constexpr,
               D_V: tl.constexpr, D_V_PADDED: tl.constexpr):  # fmt: skip
    """One part's numerator [GROUP, D_V], and row maxima and sums [2, GROUP], at place `slot`.

    Of a part without keys only the latter.
    """
    head = tl.arange(0, ROWS)
    dims = tl.arange(0, D_V_PADDED)[None, :]
    tl.store(stats + slot * (2 * GROUP) + head, row_max, mask=head < GROUP)
    tl.store(stats + slot * (2 * GROUP) + GROUP + head, row_sum, mask=head < GROUP)
    offsets = slot.to(tl.int64) * (GROUP * D_V) + head[:, None] * D_V + dims
    seen = (head < GROUP) & (row_sum > 0.0)
    tl.store(partial + offsets, acc, mask=seen[:, None] & (dims < D_V))


@triton.jit
@no_type_check
def max_and_total(stats, first_slot, scale_log2, COUNT: tl.constexpr, COUNT_PADDED: tl.constexpr,
                  GROUP: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Largest score of COUNT parts, in powers of two, 0 for none, and the denominator in units of it.

    Both [ROWS].
    """
    part = tl.arange(0, COUNT_PADDED)[:, None]
    head = tl.arange(0, ROWS)[None, :]
    at = stats + (first_slot + part) * (2 * GROUP) + head
    known = (part < COUNT) & (head < GROUP)
    maxima = tl.load(at, mask=known, other=-float("inf")) * scale_log2
    sums = tl.load(at + GROUP, mask=known, other=0.0)
    top = tl.max(maxima, axis=0)
    top = tl.where(top == -float("inf"), 0.0, top)
    return top, tl.sum(sums * tl.exp2(maxima - top[None, :]), axis=0)


@triton.jit
@no_type_check
def branch_sum(partial, stats, first_slot, scale_log2, COUNT: tl.constexpr, GROUP: tl.constexpr,
               ROWS: tl.constexpr, D_V: tl.constexpr, D_V_PADDED: tl.constexpr):  # fmt: skip
    """Attention of one branch, [ROWS, D_V], from COUNT parts at `first_slot`; zeros if it saw nothing."""
    head = tl.arange(0, ROWS)
    dims = tl.arange(0, D_V_PADDED)[None, :]
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
    # The maximum is carried, so that no load waits for another; TOGETHER parts are under way at once.
    TOGETHER: tl.constexpr = COUNT if COUNT < 8 else 8
    for first in tl.range(0, COUNT, TOGETHER, num_stages=1):
        for i in tl.static_range(TOGETHER):
            slot = first_slot + first + i
            known = (head < GROUP) & (first + i < COUNT)
            at = stats + slot * (2 * GROUP) + head
            part_top = tl.load(at, mask=known, other=-float("inf")) * scale_log2
            part_sum = tl.load(at + GROUP, mask=known, other=0.0)
            # A part without keys has no numerator, and its memory may hold anything.
            offsets = slot.to(tl.int64) * (GROUP * D_V) + head[:, None] * D_V + dims
            part_acc = tl.load(partial + offsets, mask=known[:, None] & (dims < D_V), other=0.0)
            part_acc = tl.where((part_top > -float("inf"))[:, None], part_acc, 0.0)
            new_top = tl.maximum(top, part_top)
            base = tl.where(new_top == -float("inf"), 0.0, new_top)
            shrink = tl.exp2(top - base)
            weight = tl.exp2(part_top - base)
            total = total * shrink + part_sum * weight
            acc = acc * shrink[:, None] + part_acc * weight[:, None]
            top = new_top
    return acc / tl.where(total > 0.0, total, 1.0)[:, None]
