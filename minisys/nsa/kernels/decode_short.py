"""A decoding step of short rows in one launch, append included (`is_short` of decode.py says which).

With a few rows of a few thousand tokens there is little to read. A step takes as long as its longest chain of
instructions and trips to memory, and this kernel makes that chain short:

* One launch: windows and the blocks that every query reads take the new token from the input, and store it.
  φ's programs come before all others and end at once unless the token completes a block; only the program
  whose tile gets the new key waits for them.
* Programs hand over stamped words (decode_stamped.py).
* Tiles come as boxes: the copy engine computes the addresses, which loads would do in hundreds of
  instructions. A program has one tile of the compressed keys, whatever the row's length.
* What the length does not decide is asked for in the L2 cache while the launch before ends.
* Whoever reads chosen blocks chooses them; each reads few, since they are the end of the chain.
* The output is added up by several programs, each a slice of the head's numbers.

Every program counts the length of its row in a copy of its own, since nobody may change what another still
reads. A program only waits for programs with smaller numbers, as in decode_parts.py.

Equations 5 and 7 to 12 of arXiv 2502.11089.
"""

from typing import no_type_check

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from minisys.nsa.kernels.decode_compress import complete_blocks
from minisys.nsa.kernels.decode_short_parts import (
    attend_chosen,
    attend_forced,
    attend_window,
    choose,
    compressed_tile,
    hand_over,
    keep_token,
    prefetch_tile,
)
from minisys.nsa.kernels.decode_stamped import sum_when_there, wait_for_announced
from minisys.nsa.kernels.tiles import prefetch_rows


@triton.jit(do_not_specialize=["b", "hk", "capacity", "raw_size", "cmp_size", "m_tiles", "phi_programs"])
@no_type_check
def short_step_kernel(
    q, gates, new_k_raw, new_v_raw, new_k_slc, new_v_slc, new_k_win, new_v_win,
    k_cmp_box, v_cmp_box, k_slc_box, v_slc_box, k_win_box, v_win_box,
    k_raw, v_raw, k_slc, v_slc, k_win, v_win, k_cmp, v_cmp,
    k_places, k_first_weight, k_first_bias, k_second_weight, k_second_bias,
    v_places, v_first_weight, v_first_bias, v_second_weight, v_second_bias,
    turns, phi_partial, phi_arrivals, phi_lengths, done,
    lengths, own_lengths, stamps, counters, statistics, credits, spills, numerators, bits, chosen, out,
    scale_log2, b, hk, capacity, raw_size, cmp_size, m_tiles, v_partial, v_arrivals, phi_programs,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr, STRIDE: tl.constexpr,
    SELECT_BLOCK: tl.constexpr, INITIAL: tl.constexpr, LOCAL: tl.constexpr, FREE: tl.constexpr,
    WINDOW: tl.constexpr, RING: tl.constexpr, KEYS: tl.constexpr, TILE_BLOCKS: tl.constexpr,
    EXTRA: tl.constexpr, OVERLAPS: tl.constexpr, TILES: tl.constexpr, WINDOW_PARTS: tl.constexpr,
    CHOSEN_PARTS: tl.constexpr, SLICE: tl.constexpr, SLOTS: tl.constexpr, LISTED: tl.constexpr,
    DEPTH: tl.constexpr, K_HIDDEN: tl.constexpr, V_HIDDEN: tl.constexpr, ROTATE: tl.constexpr,
    BATCH: tl.constexpr, PHI_ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIECES: tl.constexpr,
    M_PROGRAMS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    # Parts of a pair: TILES compressed, WINDOW_PARTS, forced blocks, CHOSEN_PARTS, and slices of the sum.
    FORCED: tl.constexpr = TILES + WINDOW_PARTS
    SUM: tl.constexpr = FORCED + 1 + CHOSEN_PARTS
    CHOSEN_DEPTH: tl.constexpr = 2 if DEPTH > 1 else 1  # a piece is one block or two
    pairs = b * hk
    program = tl.program_id(0) - phi_programs
    later = program - pairs * TILES
    pair = tl.where(later < 0, program // TILES, later % pairs)
    part = tl.where(later < 0, program % TILES, TILES + later // pairs)
    own_length = own_lengths + program * b + pair // hk
    own_stamp = stamps + tl.program_id(0)
    if DEPENDENT:
        if program >= 0:
            one = tl.arange(0, 1)
            prefetch_rows(own_length, one, one == 0, 1, 1)
            prefetch_rows(own_stamp, one, one == 0, 1, 1)
            if part < TILES:
                prefetch_tile(
                    k_cmp, v_cmp, pair, part * KEYS, cmp_size, D_QK, D_QK_PADDED, D_V, D_V_PADDED, KEYS
                )
            elif part < FORCED:
                for tile in tl.range(part - TILES, (RING + KEYS - 1) // KEYS, WINDOW_PARTS, num_stages=1):
                    prefetch_tile(
                        k_win, v_win, pair, tile * KEYS, RING, D_QK, D_QK_PADDED, D_V, D_V_PADDED, KEYS
                    )
            elif part == FORCED:
                prefetch_tile(k_slc, v_slc, pair, 0, capacity, D_QK, D_QK_PADDED, D_V, D_V_PADDED, KEYS)
        gdc_wait()  # the launch before ends, and only then the next gets ready: what waits takes room
        gdc_launch_dependents()
    stamp = tl.load(own_stamp)
    if program < 0:
        complete_blocks(
            new_k_raw, new_v_raw, k_raw, v_raw, k_cmp, v_cmp,
            k_places, k_first_weight, k_first_bias, k_second_weight, k_second_bias,
            v_places, v_first_weight, v_first_bias, v_second_weight, v_second_bias,
            turns, phi_partial, phi_arrivals, phi_lengths, lengths, done, stamp, tl.program_id(0),
            b, 1, hk, raw_size, cmp_size, 1, m_tiles, v_partial, v_arrivals,
            D_QK, D_V, D_QK_PADDED, D_V_PADDED, K_HIDDEN, V_HIDDEN, ROTATE, SPAN, STRIDE, False, BATCH,
            PHI_ROWS, COLUMNS, PIECES, M_PROGRAMS, True,
        )  # fmt: skip
    else:
        position = tl.load(own_length)
        head = tl.arange(0, ROWS)
        rows = pair * GROUP + head
        parts = pair * SUM
        counters += pair * 3

        if part < SUM:
            dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
            q_rows = q + rows[:, None] * D_QK + dims_qk
            q_block = tl.load(q_rows, mask=(head < GROUP)[:, None] & (dims_qk < D_QK), other=0.0)
            if part < TILES:
                compressed_tile(
                    q_block, k_cmp_box, v_cmp_box, k_cmp, v_cmp, done, counters, statistics, credits, spills,
                    numerators, pair, pairs, part, parts, position, cmp_size, stamp, scale_log2, GROUP, ROWS,
                    D_QK, D_QK_PADDED, D_V, D_V_PADDED, KEYS, SELECT_BLOCK // STRIDE, SPAN, STRIDE, TILES,
                    TILE_BLOCKS, EXTRA, OVERLAPS,
                )  # fmt: skip
            elif part < FORCED:
                k = keep_token(new_k_win, k_win, pair, position, RING, D_QK, D_QK_PADDED)
                v = keep_token(new_v_win, v_win, pair, position, RING, D_V, D_V_PADDED)
                row_max, row_sum, acc = attend_window(
                    q_block, k, v, k_win_box, v_win_box, pair, part - TILES, position, scale_log2,
                    WINDOW_PARTS, WINDOW, RING, KEYS, D_QK_PADDED, D_V_PADDED, DEPTH,
                )  # fmt: skip
                hand_over(
                    row_max, row_sum, acc, statistics, numerators, parts + part, stamp, counters + 1, GROUP,
                    ROWS, D_V, D_V_PADDED,
                )  # fmt: skip
            elif part == FORCED:
                k = keep_token(new_k_slc, k_slc, pair, position, capacity, D_QK, D_QK_PADDED)
                v = keep_token(new_v_slc, v_slc, pair, position, capacity, D_V, D_V_PADDED)
                keep_token(new_k_raw, k_raw, pair, position, raw_size, D_QK, D_QK_PADDED)
                keep_token(new_v_raw, v_raw, pair, position, raw_size, D_V, D_V_PADDED)
                row_max, row_sum, acc = attend_forced(
                    q_block, k, v, k_slc_box, v_slc_box, pair, position, scale_log2, SELECT_BLOCK, INITIAL,
                    LOCAL, KEYS, D_QK_PADDED, D_V_PADDED, DEPTH,
                )  # fmt: skip
                hand_over(
                    row_max, row_sum, acc, statistics, numerators, parts + part, stamp, counters + 2, GROUP,
                    ROWS, D_V, D_V_PADDED,
                )  # fmt: skip
            else:
                piece = part - FORCED - 1
                own_bits = bits + (pair * CHOSEN_PARTS + piece) * (TILES * TILE_BLOCKS)
                end = tl.maximum(position // SELECT_BLOCK - LOCAL + 1, 0)  # local blocks are not chosen
                wait_for_announced(counters, TILES * stamp)
                listed = choose(
                    statistics, credits, spills, own_bits, chosen, pair, parts, piece, end, stamp,
                    scale_log2, TILES, TILE_BLOCKS, EXTRA, INITIAL, FREE, CHOSEN_PARTS, LISTED, SLOTS,
                    GROUP, ROWS,
                )  # fmt: skip
                row_max, row_sum, acc = attend_chosen(
                    q_block, listed, k_slc_box, v_slc_box, pair, scale_log2, ROWS, SELECT_BLOCK, KEYS,
                    D_QK_PADDED, D_V_PADDED, LISTED, CHOSEN_DEPTH,
                )  # fmt: skip
                hand_over(
                    row_max, row_sum, acc, statistics, numerators, parts + part, stamp, counters + 2, GROUP,
                    ROWS, D_V, D_V_PADDED,
                )  # fmt: skip
        else:
            dims = (part - SUM) * SLICE + tl.arange(0, SLICE)
            gate_cmp = tl.load(gates + rows * 3, mask=head < GROUP, other=0.0).to(tl.float32)
            gate_slc = tl.load(gates + rows * 3 + 1, mask=head < GROUP, other=0.0).to(tl.float32)
            gate_win = tl.load(gates + rows * 3 + 2, mask=head < GROUP, other=0.0).to(tl.float32)
            wait_for_announced(counters + 1, FORCED * stamp)
            result = sum_when_there(
                statistics, numerators, parts, gate_cmp, dims, stamp, scale_log2, TILES, SLICE, GROUP, ROWS,
                D_V,
            )  # fmt: skip
            result += sum_when_there(
                statistics, numerators, parts + TILES, gate_win, dims, stamp, scale_log2, WINDOW_PARTS, SLICE,
                GROUP, ROWS, D_V,
            )  # fmt: skip
            wait_for_announced(counters + 2, (1 + CHOSEN_PARTS) * stamp)
            result += sum_when_there(
                statistics, numerators, parts + FORCED, gate_slc, dims, stamp, scale_log2, 1 + CHOSEN_PARTS,
                SLICE, GROUP, ROWS, D_V,
            )  # fmt: skip
            inside = (head < GROUP)[:, None] & (dims < D_V)[None, :]
            tl.store(out + rows[:, None] * D_V + dims[None, :], result.to(out.dtype.element_ty), mask=inside)
            if (part == SUM) & (pair % hk == 0):
                tl.store(lengths + pair // hk, position + 1)
        tl.debug_barrier()  # every warp has read the length
        tl.store(own_length, position + 1)
    tl.debug_barrier()  # every warp has read the stamp
    tl.store(own_stamp, stamp + 1)
