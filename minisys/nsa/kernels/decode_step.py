"""A decoding step in one launch: compressed keys, choice of blocks, chosen blocks, window, and their sum.

A program is one (query, key/value head) pair and one part of its work. All query heads of the group are the
rows of its products, so keys and values are read once for the whole group.

* The compressed keys are cut into `SPLITS` equal pieces, so that a small batch fills the GPU (split-KV, as in
  flash decoding). The cut does not depend on what the row holds on the host's side: programs behind the end
  of a row stop at once, and one grid serves every length, as a recorded graph needs it.
* `CHOICES` programs wait for the pieces and choose the blocks (decode_choose.py).
* The chosen blocks, in `CHOSEN_PARTS` pieces, wait for the choice, or choose for themselves where `CHOICES`
  is 0. They lie before the local ones, so they are complete and need no causal mask.
* The window, in `WINDOW_PARTS` pieces, and the blocks that every query reads, whatever it selects: the
  initial and the local ones.
* One program adds up the compressed branch.

While a pair waits for its choice, memory should not. Where all pairs are one group, each piece of the
compressed keys reads its values after its keys, while others choose (decode_scan.py). Else the pairs go in
groups of `WAVE`, and the chosen blocks of a group come after the compressed keys of the next one. Windows and
forced blocks of all pairs come while the last group chooses (`what_to_do`).

Each leaves its numerator, row maxima and row sums. The last one to arrive adds the parts of window and
selected branch to the compressed one, always in the order of the parts, and writes (equation 5)

    out = Σ_c g_c · (Σ_parts 2^(m_part - m) · numerator) / (Σ_parts 2^(m_part - m) · row sum)
"""

from typing import no_type_check

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.decode_choose import choose_blocks, choose_in_chunk, chosen_blocks
from minisys.nsa.kernels.decode_parts import (
    arrive,
    load_rows,
    query_position,
    signal,
    store_numerator,
    store_stats,
    sum_parts,
    wait_for,
)
from minisys.nsa.kernels.decode_scan import scan_piece
from minisys.nsa.kernels.tiles import attend_tile


@triton.jit
@no_type_check
def what_to_do(program, pairs, SPLITS: tl.constexpr, WINDOW_PARTS: tl.constexpr, CHOICES: tl.constexpr,
               CHOSEN_PARTS: tl.constexpr, WAVE: tl.constexpr):  # fmt: skip
    """(pair, part) of a program, in the order in which the GPU starts them; from pair `pairs` on, none.

    Parts: SPLITS compressed, WINDOW_PARTS, forced blocks, CHOICES, the sum, CHOSEN_PARTS. Groups of WAVE
    pairs: compressed 0, choices 0; compressed 1, choices 1, chosen 0; compressed 2, choices 2, chosen 1; …;
    then windows, forced blocks and sums of all pairs, and the chosen blocks of the last group.
    """
    FORCED: tl.constexpr = SPLITS + WINDOW_PARTS
    FIRST_CHOSEN: tl.constexpr = FORCED + 2 + CHOICES
    EARLY: tl.constexpr = WAVE * (SPLITS + CHOICES)
    LATE: tl.constexpr = WAVE * CHOSEN_PARTS
    waves = tl.cdiv(pairs, WAVE)
    staged = EARLY + (waves - 1) * (EARLY + LATE)
    wave = tl.where(program < EARLY, 0, (program + LATE) // (EARLY + LATE))
    place = tl.where(wave == 0, program, (program + LATE) % (EARLY + LATE))
    # Compressed, choices and chosen blocks of a wave's stage.
    is_split = place < WAVE * SPLITS
    pair = tl.where(is_split, place // SPLITS, place % WAVE)
    part = tl.where(is_split, place % SPLITS, FORCED + 1 + (place - WAVE * SPLITS) // WAVE)
    pair = tl.where(place < EARLY, pair, (place - EARLY) % WAVE - WAVE)  # of the wave before
    part = tl.where(place < EARLY, part, FIRST_CHOSEN + (place - EARLY) // WAVE)
    pair += wave * WAVE
    # The rest: windows, forced blocks and sums, then the last chosen blocks.
    rest = program - staged
    kind = rest // (waves * WAVE)
    last = rest - (WINDOW_PARTS + 2) * waves * WAVE
    part = tl.where(rest < 0, part, SPLITS + kind + tl.where(kind > WINDOW_PARTS, CHOICES, 0))
    pair = tl.where(rest < 0, pair, rest % (waves * WAVE))
    part = tl.where(last < 0, part, FIRST_CHOSEN + last // WAVE)
    pair = tl.where(last < 0, pair, (waves - 1) * WAVE + last % WAVE)
    return pair, part


@triton.jit
@no_type_check
def what_to_do_in_one_group(program, pairs, SPLITS: tl.constexpr, WINDOW_PARTS: tl.constexpr,
                            CHOICES: tl.constexpr, CHOSEN_PARTS: tl.constexpr):  # fmt: skip
    """The same for one group: compressed, choices, windows, forced and chosen blocks, sums."""
    FIRST_CHOICE: tl.constexpr = SPLITS + WINDOW_PARTS + 1
    SUM: tl.constexpr = FIRST_CHOICE + CHOICES
    later = program - pairs * SPLITS
    place = later // pairs
    part = tl.where(place < CHOICES, FIRST_CHOICE + place, SPLITS + place - CHOICES)
    part = tl.where(place < CHOICES + WINDOW_PARTS + 1, part, SUM + place - CHOICES - WINDOW_PARTS)
    part = tl.where(place < CHOICES + WINDOW_PARTS + 1 + CHOSEN_PARTS, part, SUM)
    part = tl.where(later < 0, program % SPLITS, part)
    return tl.where(later < 0, program // SPLITS, later % pairs), part


@triton.jit(do_not_specialize=["pairs", "t", "hk", "capacity", "cmp_capacity", "tiles", "most_chunks"])
@no_type_check
def step_kernel(
    q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates, lengths, counts, partial, stats, tile_max, credits,
    spills, kept, bits, lists, chosen, base, out, counters, scale_log2, pairs, t, hk, capacity,
    cmp_capacity, tiles, most_chunks,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, HAS_COUNTS: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, SELECT_BLOCK: tl.constexpr, INITIAL: tl.constexpr, LOCAL: tl.constexpr,
    FREE: tl.constexpr, WINDOW: tl.constexpr, RING: tl.constexpr, KEYS: tl.constexpr,
    PER_BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, OVERLAPS: tl.constexpr,
    SPLITS: tl.constexpr, WINDOW_PARTS: tl.constexpr, CHOSEN_PARTS: tl.constexpr, WAVE: tl.constexpr,
    KEYS_FIRST: tl.constexpr, CHOICES: tl.constexpr, CHUNK: tl.constexpr, MERGED: tl.constexpr,
    SLOTS: tl.constexpr, LISTED: tl.constexpr, KEY_DEPTH: tl.constexpr, VALUE_DEPTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    if DEPENDENT:  # the launch before ends, and only then the next gets ready: what waits takes room
        gdc_wait()
        gdc_launch_dependents()
    if KEYS_FIRST:
        pair, part = what_to_do_in_one_group(
            tl.program_id(0), pairs, SPLITS, WINDOW_PARTS, CHOICES, CHOSEN_PARTS
        )
    else:
        pair, part = what_to_do(tl.program_id(0), pairs, SPLITS, WINDOW_PARTS, CHOICES, CHOSEN_PARTS, WAVE)
    if pair < pairs:
        FORCED: tl.constexpr = SPLITS + WINDOW_PARTS
        SUM: tl.constexpr = FORCED + 1 + CHOICES
        PARTS: tl.constexpr = FORCED + 1 + CHOSEN_PARTS  # that leave something: all but choices and sum
        cache_row, position = query_position(pair, lengths, counts, t, hk, HAS_COUNTS)
        counters += pair * 4
        head = tl.arange(0, ROWS)
        dims_v = tl.arange(0, D_V_PADDED)[None, :]
        inside_out = (head < GROUP)[:, None] & (dims_v < D_V)
        rows = pair.to(tl.int64) * GROUP + head
        own = tl.where(position < 0, -1, position // SELECT_BLOCK)
        PIECES: tl.constexpr = SELECT_BLOCK // STRIDE  # of a selection block
        TILE_KEYS: tl.constexpr = TILE_BLOCKS * PIECES
        num_keys = visible_keys(position, SPAN, STRIDE)
        used_tiles = tl.cdiv(num_keys, TILE_KEYS)

        first_local = tl.maximum(own - LOCAL + 1, 0)
        if part > FORCED and part < SUM:
            if CHOICES > 0:
                wait_for(counters, SPLITS)
                choose_blocks(
                    stats, tile_max, credits, spills, bits, lists, counters + 2, pair, part - FORCED - 1,
                    most_chunks, tiles, used_tiles, first_local, scale_log2, SPLITS, PARTS, GROUP, ROWS,
                    TILE_BLOCKS, EXTRA, INITIAL, FREE, SLOTS, CHUNK, MERGED, CHOICES,
                )  # fmt: skip
        elif part == SUM:
            wait_for(counters + 1, SPLITS)
            gate = tl.load(gates + rows * 3, mask=head < GROUP, other=0.0).to(tl.float32)
            compressed = sum_parts(
                partial, stats, pair * PARTS, gate, gate, scale_log2, 0, SPLITS, GROUP, ROWS, D_V, D_V_PADDED
            )
            tl.store(base + rows[:, None] * D_V + dims_v, compressed, mask=inside_out)
        else:
            dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
            q_rows = q + rows[:, None] * D_QK + dims_qk
            q_block = tl.load(q_rows, mask=(head < GROUP)[:, None] & (dims_qk < D_QK), other=0.0)
            place = pair * PARTS + tl.where(part > SUM, part - 1 - CHOICES, part)
            if part < SPLITS:
                each = tl.cdiv(used_tiles, SPLITS)
                begin = part * each
                scan_piece(
                    q_block, k_cmp + cache_row * cmp_capacity * D_QK, v_cmp + cache_row * cmp_capacity * D_V,
                    begin, tl.minimum(begin + each, used_tiles), num_keys, tile_max, credits, spills, kept,
                    partial, stats, place, pair, tiles, counters, scale_log2, GROUP, ROWS, D_QK, D_QK_PADDED,
                    D_V, D_V_PADDED, KEYS, PER_BLOCK, PIECES, SPAN // STRIDE, TILE_BLOCKS, EXTRA, OVERLAPS,
                    KEYS_FIRST, KEY_DEPTH, VALUE_DEPTH,
                )  # fmt: skip
            else:
                # One loop serves windows and blocks. Its tiles are tokens start … start + total - 1 of the
                # ring, KEYS a step, or CHUNKS steps for each of the blocks that are `listed`.
                CHUNKS: tl.constexpr = (SELECT_BLOCK + KEYS - 1) // KEYS
                column = tl.arange(0, KEYS)
                slot = tl.arange(0, LISTED)
                initial = tl.minimum(own + 1, INITIAL)
                listed = tl.where(slot < initial, slot, own - (slot - initial))
                start = 0
                wrap = 0x7FFFFFFF
                total = 0
                begin = 0
                if part < FORCED:
                    k_rows = k_win + cache_row * RING * D_QK
                    v_rows = v_win + cache_row * RING * D_V
                    total = tl.minimum(position + 1, WINDOW)
                    start = (position + 1 - total) % RING
                    wrap = RING
                    each = tl.cdiv(tl.cdiv(total, KEYS), WINDOW_PARTS)
                    begin = (part - SPLITS) * each
                    end = tl.minimum(begin + each, tl.cdiv(total, KEYS))
                else:
                    k_rows = k_slc + cache_row * capacity * D_QK
                    v_rows = v_slc + cache_row * capacity * D_V
                    end = CHUNKS * (initial + tl.maximum(tl.minimum(own + 1 - initial, LOCAL), 0))
                    if part > SUM:
                        each = (FREE + CHOSEN_PARTS - 1) // CHOSEN_PARTS
                        first = (part - SUM - 1) * each
                        taken = (slot < each) & (first + slot < FREE)
                        if CHOICES > 0:
                            wait_for(counters + 2, CHOICES)
                            number = chosen_blocks(
                                lists, pair, most_chunks, first_local, FREE, SLOTS, CHUNK, MERGED, CHOICES
                            )
                        else:
                            wait_for(counters, SPLITS)
                            own_bits = bits + (pair * CHOSEN_PARTS + part - SUM - 1) * CHUNK
                            _, number = choose_in_chunk(
                                stats, tile_max, credits, spills, own_bits, pair, 0, tiles, used_tiles,
                                first_local, scale_log2, SPLITS, PARTS, GROUP, ROWS, TILE_BLOCKS, EXTRA,
                                INITIAL, FREE, SLOTS, CHUNK,
                            )  # fmt: skip
                        mine = tl.where(taken, first + slot, SLOTS)[:, None]
                        listed = tl.max(tl.where(tl.arange(0, SLOTS)[None, :] == mine, number, -1), axis=1)
                        tl.store(chosen + pair * FREE + first + slot, listed, mask=taken)
                        end = CHUNKS * tl.sum((listed >= 0).to(tl.int32), axis=0)

                row_max = tl.full([ROWS], -float("inf"), tl.float32)
                row_sum = tl.full([ROWS], 0.0, tl.float32)
                acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
                for step in range(begin, end):
                    offset = step % CHUNKS * KEYS
                    block = tl.sum(tl.where(slot == step // CHUNKS, listed, 0), axis=0)
                    is_listed = part >= FORCED
                    first = tl.where(is_listed, block * SELECT_BLOCK + offset, start + step * KEYS)
                    left = tl.where(
                        is_listed,
                        tl.minimum(SELECT_BLOCK - offset, position + 1 - first),
                        total - step * KEYS,
                    )
                    index = first + column
                    index = tl.where(index >= wrap, index - wrap, index)
                    k_block = load_rows(k_rows, index, column < left, dims_qk, D_QK, D_QK_PADDED)
                    v_block = load_rows(v_rows, index, column < left, dims_v, D_V, D_V_PADDED)
                    row_max, row_sum, acc = attend_tile(
                        q_block, k_block, v_block, (column < left)[None, :], row_max, row_sum, acc, scale_log2
                    )
                store_stats(row_max, row_sum, stats, place, GROUP, ROWS)
                store_numerator(acc, partial, place, GROUP, ROWS, D_V, D_V_PADDED)

        if part < SPLITS:
            signal(counters + 1)
        elif part <= FORCED or part >= SUM:  # noqa: SIM102 (Triton would arrive for the others too)
            if arrive(counters + 3) == WINDOW_PARTS + 1 + CHOSEN_PARTS:  # the last of this pair
                tl.store(counters + tl.arange(0, 4), tl.full([4], 0, tl.int32))  # for the next step
                gate_slc = tl.load(gates + rows * 3 + 1, mask=head < GROUP, other=0.0).to(tl.float32)
                gate_win = tl.load(gates + rows * 3 + 2, mask=head < GROUP, other=0.0).to(tl.float32)
                result = tl.load(base + rows[:, None] * D_V + dims_v, mask=inside_out, other=0.0)
                result += sum_parts(
                    partial, stats, pair * PARTS + SPLITS, gate_win, gate_slc, scale_log2, WINDOW_PARTS,
                    WINDOW_PARTS + 1 + CHOSEN_PARTS, GROUP, ROWS, D_V, D_V_PADDED,
                )  # fmt: skip
                result = tl.where(position < 0, 0.0, result)  # no such query: whatever its gates hold
                tl.store(out + rows[:, None] * D_V + dims_v, result.to(out.dtype.element_ty), mask=inside_out)
