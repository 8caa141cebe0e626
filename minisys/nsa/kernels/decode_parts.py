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
def signal(counter):
    """Count this program, for others that wait."""
    tl.debug_barrier()  # every warp has stored
    tl.atomic_add(counter, 1, sem="release")


@triton.jit
@no_type_check
def wait_for(counter, count):
    """Until `count` programs have arrived; what they stored is seen from now on."""
    while tl.atomic_add(counter, 0, sem="acquire") < count:
        pass


@triton.jit
@no_type_check
def query_position(pair, lengths, counts, t, hk, HAS_COUNTS: tl.constexpr):
    """(row · hk + key/value head, position of the query), -1 where the row has no such query.

    `lengths` hold the query's own token.
    """
    row = pair // (t * hk)
    token = pair // hk % t
    count = t
    if HAS_COUNTS:
        count = tl.load(counts + row)
    position = tl.load(lengths + row) - count + token
    position = tl.where(token < count, position, -1)
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
def store_stats(row_max, row_sum, stats, slot, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Row maxima and sums of one part, [2, GROUP], at place `slot`."""
    head = tl.arange(0, ROWS)
    tl.store(stats + slot * (2 * GROUP) + head, row_max, mask=head < GROUP)
    tl.store(stats + slot * (2 * GROUP) + GROUP + head, row_sum, mask=head < GROUP)


@triton.jit
@no_type_check
def store_numerator(acc, partial, slot, GROUP: tl.constexpr, ROWS: tl.constexpr, D_V: tl.constexpr,
                    D_V_PADDED: tl.constexpr):  # fmt: skip
    """One part's numerator [GROUP, D_V], at place `slot`."""
    head = tl.arange(0, ROWS)
    dims = tl.arange(0, D_V_PADDED)[None, :]
    offsets = slot.to(tl.int64) * (GROUP * D_V) + head[:, None] * D_V + dims
    tl.store(partial + offsets, acc, mask=(head < GROUP)[:, None] & (dims < D_V))


@triton.jit
@no_type_check
def log2_total(maxima, sums):
    """log2 Σ_parts sum · 2^maximum of [rows, parts], +inf for a row that saw nothing."""
    top = tl.max(maxima, axis=1)
    top = tl.where(top == -float("inf"), 0.0, top)
    total = tl.sum(sums * tl.exp2(maxima - top[:, None]), axis=1)
    return tl.where(total > 0.0, top + tl.log2(tl.where(total > 0.0, total, 1.0)), float("inf"))


@triton.jit
@no_type_check
def load_stats(stats, first_slot, scale_log2, COUNT: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Maxima, in powers of two, and sums of COUNT parts, [ROWS, parts]."""
    head = tl.arange(0, ROWS)[:, None]
    part = tl.arange(0, triton.next_power_of_2(COUNT))[None, :]
    at = stats + (first_slot + part) * (2 * GROUP) + head
    known = (part < COUNT) & (head < GROUP)
    maxima = tl.load(at, mask=known, other=-float("inf")) * scale_log2
    return maxima, tl.load(at + GROUP, mask=known, other=0.0)


@triton.jit
@no_type_check
def sum_parts(partial, stats, first_slot, first_gate, gate, scale_log2, FIRST: tl.constexpr,
              COUNT: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, D_V: tl.constexpr,
              D_V_PADDED: tl.constexpr):  # fmt: skip
    """Σ_c gate_c · attention_c, [ROWS, D_V], of one branch or two, from COUNT parts at `first_slot`.

    The FIRST parts are those of the branch with `first_gate`, [ROWS] like `gate`. Up to eight parts are
    loaded before anything waits. Rows come first: Triton spreads warps over the first axis, and a sum over
    parts then needs nothing of another warp.
    """
    TOGETHER: tl.constexpr = 8 if COUNT > 8 else triton.next_power_of_2(COUNT)
    head = tl.arange(0, ROWS)
    dims = tl.arange(0, D_V_PADDED)[None, None, :]
    some = tl.arange(0, TOGETHER)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
    for first in tl.range(0, COUNT, TOGETHER, num_stages=1):
        known = (head < GROUP)[:, None] & (first + some < COUNT)[None, :]
        slot = (first_slot + first + some)[None, :]
        rows = slot.to(tl.int64) * GROUP + head[:, None]
        numerator = tl.load(
            partial + rows[:, :, None] * D_V + dims, mask=known[:, :, None] & (dims < D_V), other=0.0
        )
        tops = tl.load(stats + slot * (2 * GROUP) + head[:, None], mask=known, other=-float("inf"))
        maxima, sums = load_stats(stats, first_slot, scale_log2, COUNT, GROUP, ROWS)
        is_first = tl.arange(0, triton.next_power_of_2(COUNT))[None, :] < FIRST
        lse = log2_total(tl.where(is_first, -float("inf"), maxima), tl.where(is_first, 0.0, sums))
        weights = gate[:, None] * tl.exp2(tops * scale_log2 - lse[:, None])
        if FIRST > 0:
            lse = log2_total(tl.where(is_first, maxima, -float("inf")), tl.where(is_first, sums, 0.0))
            others = first_gate[:, None] * tl.exp2(tops * scale_log2 - lse[:, None])
            weights = tl.where((first + some < FIRST)[None, :], others, weights)
        acc += tl.sum(numerator * weights[:, :, None], axis=1)
    return acc
