"""Second launch of a decoding step: the chosen blocks, and the sum of all branches under their gates.

A program is one (query, key/value head) pair and `PER_PART` of the blocks that decode_scan.py chose for it.
Chosen blocks lie before the local ones, so they are complete and need no causal mask. One more program a pair
adds up what the first launch left of the compressed keys and the window, while the others read. The last of
them to arrive adds the parts of the selected branch and writes

    out = Σ_c g_c · (Σ_parts 2^(m_part - m) · numerator) / (Σ_parts 2^(m_part - m) · row sum)

(equation 5), always in the order of the parts.
"""

from typing import no_type_check

import triton
import triton.language as tl

from minisys.nsa.kernels.decode_scan import load_rows, query_position, store_part
from minisys.nsa.kernels.tiles import attend_tile


@triton.jit
@no_type_check
def branch_sum(partial, stats, first_slot, scale_log2, COUNT: tl.constexpr,
               COUNT_PADDED: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, D_V: tl.constexpr,
               D_V_PADDED: tl.constexpr):  # fmt: skip
    """Attention of one branch, [ROWS, D_V], from COUNT parts at `first_slot`; zeros if it saw nothing."""
    part = tl.arange(0, COUNT_PADDED)[:, None]
    head = tl.arange(0, ROWS)
    at = stats + (first_slot + part) * (2 * GROUP) + head[None, :]
    known = (part < COUNT) & (head < GROUP)[None, :]
    maxima = tl.load(at, mask=known, other=-float("inf")) * scale_log2
    sums = tl.load(at + GROUP, mask=known, other=0.0)
    top = tl.max(maxima, axis=0)
    top = tl.where(top == -float("inf"), 0.0, top)
    total = tl.sum(sums * tl.exp2(maxima - top[None, :]), axis=0)
    dims = tl.arange(0, D_V_PADDED)[None, :]
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
    for i in tl.range(0, COUNT, loop_unroll_factor=4 if COUNT % 4 == 0 else 1):
        slot = first_slot + i
        part_max = tl.load(stats + slot * (2 * GROUP) + head, mask=head < GROUP, other=-float("inf"))
        weight = tl.exp2(part_max * scale_log2 - top)  # 0 for a part without keys, which has no numerator
        offsets = slot.to(tl.int64) * (GROUP * D_V) + head[:, None] * D_V + dims
        mask = (part_max > -float("inf"))[:, None] & (dims < D_V)
        acc += weight[:, None] * tl.load(partial + offsets, mask=mask, other=0.0)
    return acc / tl.where(total > 0.0, total, 1.0)[:, None]


@triton.jit(do_not_specialize=["t", "hk", "capacity"])
@no_type_check
def finish_kernel(
    q, k_slc, v_slc, gates, lengths, counts, partial, stats, chosen, base, out, arrivals, scale_log2, t, hk,
    capacity,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, HAS_COUNTS: tl.constexpr, SELECT_BLOCK: tl.constexpr,
    FREE: tl.constexpr, FORCED: tl.constexpr, KEYS: tl.constexpr, SPLITS: tl.constexpr,
    SPLITS_PADDED: tl.constexpr, WINDOW_PARTS: tl.constexpr, WINDOW_PADDED: tl.constexpr,
    CHOSEN_PARTS: tl.constexpr, SELECTED_PADDED: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    part = tl.program_id(1)
    cache_row, position = query_position(pair, lengths, counts, t, hk, HAS_COUNTS)
    head = tl.arange(0, ROWS)
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    inside = (head < GROUP)[:, None] & (dims_v < D_V)
    rows = pair.to(tl.int64) * GROUP + head
    gate = gates + rows * 3
    # Slots of a pair's parts: compressed, window, forced blocks, chosen blocks.
    WINDOW_SLOT: tl.constexpr = SPLITS
    FORCED_SLOT: tl.constexpr = SPLITS + WINDOW_PARTS
    if part == 0:
        compressed = branch_sum(
            partial, stats, pair * PARTS, scale_log2, SPLITS, SPLITS_PADDED, GROUP, ROWS, D_V, D_V_PADDED
        )
        window = branch_sum(
            partial, stats, pair * PARTS + WINDOW_SLOT, scale_log2, WINDOW_PARTS, WINDOW_PADDED,
            GROUP, ROWS, D_V, D_V_PADDED,
        )  # fmt: skip
        gate_cmp = tl.load(gate, mask=head < GROUP, other=0.0).to(tl.float32)
        gate_win = tl.load(gate + 2, mask=head < GROUP, other=0.0).to(tl.float32)
        total = gate_cmp[:, None] * compressed + gate_win[:, None] * window
        tl.store(base + rows[:, None] * D_V + dims_v, total, mask=inside)
    else:
        dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
        q_rows = q + rows[:, None] * D_QK + dims_qk
        q_block = tl.load(q_rows, mask=(head < GROUP)[:, None] & (dims_qk < D_QK), other=0.0)
        row_max = tl.full([ROWS], -float("inf"), tl.float32)
        row_sum = tl.full([ROWS], 0.0, tl.float32)
        acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
        CHUNKS: tl.constexpr = (SELECT_BLOCK + KEYS - 1) // KEYS
        PER_PART: tl.constexpr = (FREE + CHOSEN_PARTS - 1) // CHOSEN_PARTS
        own = tl.where(position < 0, -1, position // SELECT_BLOCK)
        available = tl.minimum(tl.maximum(own + 1 - FORCED, 0), FREE)
        first = tl.minimum((part - 1) * PER_PART, available)
        last = tl.minimum(first + PER_PART, available)
        column = tl.arange(0, KEYS)
        k_rows = k_slc + cache_row * capacity * D_QK
        v_rows = v_slc + cache_row * capacity * D_V
        for step in range(first * CHUNKS, last * CHUNKS):
            block = tl.load(chosen + pair * FREE + step // CHUNKS)
            inner = step % CHUNKS * KEYS + column
            real = inner < SELECT_BLOCK
            token = block * SELECT_BLOCK + inner
            k_block = load_rows(k_rows, token, real, dims_qk, D_QK, D_QK_PADDED)
            v_block = load_rows(v_rows, token, real, dims_v, D_V, D_V_PADDED)
            visible = None
            if SELECT_BLOCK % KEYS != 0:
                visible = real[None, :]
            row_max, row_sum, acc = attend_tile(
                q_block, k_block, v_block, visible, row_max, row_sum, acc, scale_log2
            )
        slot = pair * PARTS + FORCED_SLOT + part
        store_part(acc, row_max, row_sum, partial, stats, slot, GROUP, ROWS, D_V, D_V_PADDED)

    tl.debug_barrier()  # every warp has stored
    arrived = tl.atomic_add(arrivals + pair, 1, sem="acq_rel")
    if arrived == CHOSEN_PARTS:
        tl.store(arrivals + pair, 0)  # for the next step
        selected = branch_sum(
            partial, stats, pair * PARTS + FORCED_SLOT, scale_log2, CHOSEN_PARTS + 1, SELECTED_PADDED,
            GROUP, ROWS, D_V, D_V_PADDED,
        )  # fmt: skip
        gate_slc = tl.load(gate + 1, mask=head < GROUP, other=0.0).to(tl.float32)
        total = tl.load(base + rows[:, None] * D_V + dims_v, mask=inside, other=0.0)
        total += gate_slc[:, None] * selected
        total = tl.where(position < 0, 0.0, total)  # no such query: whatever its gates hold
        tl.store(out + rows[:, None] * D_V + dims_v, total.to(out.dtype.element_ty), mask=inside)
