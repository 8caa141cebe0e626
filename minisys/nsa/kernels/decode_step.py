"""A decoding step in one launch: compressed keys, choice of blocks, chosen blocks, window, and their sum.

A program is one (query, key/value head) pair and one part of its work. All query heads of the group are the
rows of its products, so keys and values are read once for the whole group.

* The compressed keys are cut into `SPLITS` equal pieces, so that a small batch fills the GPU (split-KV, as in
  flash decoding). The cut does not depend on what the row holds on the host's side: programs behind the end
  of a row stop at once, and one grid serves every length, as a recorded graph needs it.
* One program waits for the pieces and chooses the blocks (decode_choose.py).
* The chosen blocks, in `CHOSEN_PARTS` pieces, wait for the choice. They lie before the local ones, so they
  are complete and need no causal mask.
* The window, in `WINDOW_PARTS` pieces, and the blocks that every query reads, whatever it selects: the
  initial and the local ones.
* One program adds up compressed branch and window.

While a pair waits for its choice, memory should not: the pairs go in groups of `WAVE`, and the chosen blocks
of a group come after the compressed keys of the next one; windows and forced blocks of all pairs come while
the last group chooses (`what_to_do`).

Each leaves its numerator, row maxima and row sums. The last one to arrive adds the parts of the selected
branch, always in the order of the parts, and writes (equation 5)

    out = Σ_c g_c · (Σ_parts 2^(m_part - m) · numerator) / (Σ_parts 2^(m_part - m) · row sum)

Importance (equations 8 to 10) comes out of the same scores. While a piece of compressed keys is on the chip,
its weights are summed by selection block, in units of the largest score so far: a product with the small
matrix of overlaps. So a pair leaves hq/hk numbers a block in place of one a compressed key. A tile of
compressed keys belongs to whole selection blocks. The keys at its end reach into blocks of the next tile;
what they credit to those is kept apart ("spill").
"""

from typing import no_type_check

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.decode_choose import choose_blocks, numbers_of
from minisys.nsa.kernels.decode_parts import (
    arrive,
    branch_sum,
    load_rows,
    query_position,
    store_part,
    wait_for,
)
from minisys.nsa.kernels.tiles import product, product_onto


@triton.jit
@no_type_check
def what_to_do(program, pairs, SPLITS: tl.constexpr, WINDOW_PARTS: tl.constexpr, CHOSEN_PARTS: tl.constexpr,
               WAVE: tl.constexpr):  # fmt: skip
    """(pair, part) of a program, in the order in which the GPU starts them; from pair `pairs` on, none.

    Parts: SPLITS compressed, WINDOW_PARTS, forced blocks, the choice, the sum, CHOSEN_PARTS. Groups of WAVE
    pairs: compressed 0, choice 0; compressed 1, choice 1, chosen 0; compressed 2, choice 2, chosen 1; …; then
    windows, forced blocks and sums of all pairs, and the chosen blocks of the last group.
    """
    FORCED: tl.constexpr = SPLITS + WINDOW_PARTS
    EARLY: tl.constexpr = WAVE * (SPLITS + 1)
    LATE: tl.constexpr = WAVE * CHOSEN_PARTS
    waves = tl.cdiv(pairs, WAVE)
    staged = EARLY + (waves - 1) * (EARLY + LATE)
    wave = tl.where(program < EARLY, 0, (program + LATE) // (EARLY + LATE))
    place = tl.where(wave == 0, program, (program + LATE) % (EARLY + LATE))
    # Compressed, choice and chosen blocks of a wave's stage.
    pair = tl.where(place < WAVE * SPLITS, place // SPLITS, place % WAVE)
    part = tl.where(place < WAVE * SPLITS, place % SPLITS, FORCED + 1)
    pair = tl.where(place < EARLY, pair, (place - EARLY) % WAVE - WAVE)  # of the wave before
    part = tl.where(place < EARLY, part, FORCED + 3 + (place - EARLY) // WAVE)
    pair += wave * WAVE
    # The rest: windows, forced blocks and sums, then the last chosen blocks.
    rest = program - staged
    kind = rest // (waves * WAVE)
    last = rest - (WINDOW_PARTS + 2) * waves * WAVE
    part = tl.where(rest < 0, part, SPLITS + kind + tl.where(kind > WINDOW_PARTS, 1, 0))
    pair = tl.where(rest < 0, pair, rest % (waves * WAVE))
    part = tl.where(last < 0, part, FORCED + 3 + last // WAVE)
    pair = tl.where(last < 0, pair, (waves - 1) * WAVE + last % WAVE)
    return pair, part


@triton.jit(do_not_specialize=["pairs", "t", "hk", "capacity", "cmp_capacity", "tiles"])
@no_type_check
def step_kernel(
    q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates, lengths, counts, partial, stats, tile_max, credits,
    spills, carried, lists, chosen, base, out, counters, scale_log2, pairs, t, hk, capacity, cmp_capacity,
    tiles,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, HAS_COUNTS: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, SELECT_BLOCK: tl.constexpr, INITIAL: tl.constexpr, LOCAL: tl.constexpr,
    FREE: tl.constexpr, WINDOW: tl.constexpr, RING: tl.constexpr, KEYS: tl.constexpr,
    PER_BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, OVERLAPS: tl.constexpr,
    SPLITS: tl.constexpr, SPLITS_PADDED: tl.constexpr, WINDOW_PARTS: tl.constexpr,
    CHOSEN_PARTS: tl.constexpr,
    WAVE: tl.constexpr, WARPS: tl.constexpr, INNER: tl.constexpr, MOST_CHUNKS: tl.constexpr,
    N_PADDED: tl.constexpr, LISTED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    if DEPENDENT:  # the next launch may get ready; the one before must have ended
        gdc_launch_dependents()
        gdc_wait()
    pair, part = what_to_do(tl.program_id(0), pairs, SPLITS, WINDOW_PARTS, CHOSEN_PARTS, WAVE)
    if pair >= pairs:
        return
    FORCED: tl.constexpr = SPLITS + WINDOW_PARTS
    SUM: tl.constexpr = FORCED + 2
    PARTS: tl.constexpr = FORCED + 1 + CHOSEN_PARTS  # that leave something: all but the choice and the sum
    cache_row, position = query_position(pair, lengths, counts, t, hk, HAS_COUNTS)
    counters += pair * 4
    head = tl.arange(0, ROWS)
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    inside_out = (head < GROUP)[:, None] & (dims_v < D_V)
    rows = pair.to(tl.int64) * GROUP + head
    own = tl.where(position < 0, -1, position // SELECT_BLOCK)
    PIECES: tl.constexpr = SELECT_BLOCK // STRIDE  # a selection block's; a compressed key covers LONG of them
    LONG: tl.constexpr = SPAN // STRIDE
    TILE_KEYS: tl.constexpr = TILE_BLOCKS * PIECES
    num_keys = visible_keys(position, SPAN, STRIDE)
    used_tiles = tl.cdiv(num_keys, TILE_KEYS)

    if part == FORCED + 1:
        wait_for(counters, SPLITS)
        choose_blocks(
            stats, tile_max, credits, spills, carried, lists, chosen, pair, tiles, used_tiles,
            tl.maximum(own - LOCAL + 1, 0), scale_log2, SPLITS, SPLITS_PADDED, PARTS, GROUP, ROWS,
            TILE_BLOCKS, EXTRA, INITIAL, FREE, N_PADDED, WARPS, INNER, MOST_CHUNKS,
        )  # fmt: skip
    elif part == SUM:
        wait_for(counters, SPLITS)
        compressed = branch_sum(
            partial, stats, pair * PARTS, scale_log2, SPLITS, GROUP, ROWS, D_V, D_V_PADDED
        )
        wait_for(counters + 1, WINDOW_PARTS)
        window = branch_sum(
            partial, stats, pair * PARTS + SPLITS, scale_log2, WINDOW_PARTS, GROUP, ROWS, D_V, D_V_PADDED,
        )  # fmt: skip
        gate_cmp = tl.load(gates + rows * 3, mask=head < GROUP, other=0.0).to(tl.float32)
        gate_win = tl.load(gates + rows * 3 + 2, mask=head < GROUP, other=0.0).to(tl.float32)
        weighted = gate_cmp[:, None] * compressed + gate_win[:, None] * window
        tl.store(base + rows[:, None] * D_V + dims_v, weighted, mask=inside_out)
    else:
        column = tl.arange(0, KEYS)
        dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
        q_rows = q + rows[:, None] * D_QK + dims_qk
        q_block = tl.load(q_rows, mask=(head < GROUP)[:, None] & (dims_qk < D_QK), other=0.0)
        row_max = tl.full([ROWS], -float("inf"), tl.float32)
        row_sum = tl.full([ROWS], 0.0, tl.float32)
        acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)

        # One loop serves all parts. Its tiles are columns start … start + total - 1 of `wrap`, TILE_KEYS a
        # step, or CHUNKS steps for each of the blocks that are `listed`.
        CHUNKS: tl.constexpr = (SELECT_BLOCK + TILE_KEYS - 1) // TILE_KEYS
        slot = tl.arange(0, LISTED)
        initial = tl.minimum(own + 1, INITIAL)
        listed = tl.where(slot < initial, slot, own - (slot - initial))
        start = 0
        wrap = 0x7FFFFFFF
        total = 0
        begin = 0
        if part < SPLITS:
            k_rows = k_cmp + cache_row * cmp_capacity * D_QK
            v_rows = v_cmp + cache_row * cmp_capacity * D_V
            total = num_keys
            each = tl.cdiv(used_tiles, SPLITS)
            begin = part * each
            end = tl.minimum(begin + each, used_tiles)
        elif part < FORCED:
            k_rows = k_win + cache_row * RING * D_QK
            v_rows = v_win + cache_row * RING * D_V
            total = tl.minimum(position + 1, WINDOW)
            start = (position + 1 - total) % RING
            wrap = RING
            each = tl.cdiv(tl.cdiv(total, TILE_KEYS), WINDOW_PARTS)
            begin = (part - SPLITS) * each
            end = tl.minimum(begin + each, tl.cdiv(total, TILE_KEYS))
        else:
            k_rows = k_slc + cache_row * capacity * D_QK
            v_rows = v_slc + cache_row * capacity * D_V
            end = CHUNKS * (initial + tl.maximum(tl.minimum(own + 1 - initial, LOCAL), 0))
            if part > SUM:
                wait_for(counters + 2, 1)
                each = (FREE + CHOSEN_PARTS - 1) // CHOSEN_PARTS
                first = (part - SUM - 1) * each
                taken = (slot < each) & (first + slot < FREE)
                keys = tl.load(chosen + pair * N_PADDED + first + slot, mask=taken, other=-1)
                listed = numbers_of(keys)
                end = CHUNKS * tl.sum((keys >= 0).to(tl.int32), axis=0)

        local = column // PER_BLOCK  # a tile's blocks have PER_BLOCK columns, PIECES of them used
        piece = column % PER_BLOCK
        of_tile = local * PIECES + piece
        of_tile = tl.where(piece < PIECES, of_tile, 0x3FFFFFFF)  # never inside
        # overlap [keys, blocks]: pieces of a key in a block; blocks from TILE_BLOCKS on are the next tile's
        to_block = tl.arange(0, OVERLAPS)[None, :]
        from_piece = of_tile[:, None] - to_block * PIECES
        overlap = tl.minimum(from_piece + LONG, PIECES) - tl.maximum(from_piece, 0)
        overlap = tl.maximum(overlap, 0).to(tl.float32).to(tl.bfloat16)  # small whole numbers, exact
        is_kept = ((head < GROUP) & (part < SPLITS))[:, None]
        row = (pair * GROUP + head) * tiles
        for step in range(begin, end):
            offset = step % CHUNKS * TILE_KEYS
            block = tl.sum(tl.where(slot == step // CHUNKS, listed, 0), axis=0)
            is_listed = part >= FORCED
            first = tl.where(is_listed, block * SELECT_BLOCK + offset, start + step * TILE_KEYS)
            left = tl.where(
                is_listed, tl.minimum(SELECT_BLOCK - offset, position + 1 - first), total - step * TILE_KEYS
            )
            inside = of_tile < left
            index = first + of_tile
            index = tl.where(index >= wrap, index - wrap, index)
            k_block = load_rows(k_rows, index, inside, dims_qk, D_QK, D_QK_PADDED)
            v_block = load_rows(v_rows, index, inside, dims_v, D_V, D_V_PADDED)
            # The step of `attend_tile`; here the weights are needed too. Every tile has a key that is inside.
            scores = tl.where(inside[None, :], product(q_block, tl.trans(k_block)), -float("inf"))
            new_max = tl.maximum(row_max, tl.max(scores, axis=1))
            shrink = tl.exp2((row_max - new_max) * scale_log2)
            weights = tl.exp2((scores - new_max[:, None]) * scale_log2)
            row_sum = row_sum * shrink + tl.sum(weights, axis=1)
            acc = product_onto(weights.to(v_block.dtype), v_block, acc * shrink[:, None])
            row_max = new_max
            # Credits in two products of 8 bits of the weights each, or three: tiny weights keep their digits.
            high = weights.to(tl.bfloat16)
            rest = weights - high.to(tl.float32)
            credit = product_onto(rest.to(tl.bfloat16), overlap, product(high, overlap))
            if v_block.dtype == tl.float32:
                rest -= rest.to(tl.bfloat16).to(tl.float32)
                credit = product_onto(rest.to(tl.bfloat16), overlap, credit)
            own_block = credits + (row + step)[:, None] * TILE_BLOCKS + to_block
            tl.store(own_block, credit, mask=is_kept & (to_block < TILE_BLOCKS))
            if EXTRA > 0:
                next_block = spills + (row + step)[:, None] * EXTRA + to_block - TILE_BLOCKS
                spilled = (to_block >= TILE_BLOCKS) & (to_block < TILE_BLOCKS + EXTRA)
                tl.store(next_block, credit, mask=is_kept & spilled)
            tl.store(tile_max + row + step, new_max, mask=(head < GROUP) & (part < SPLITS))
        place = pair * PARTS + tl.where(part > SUM, part - 2, part)
        store_part(acc, row_max, row_sum, partial, stats, place, GROUP, ROWS, D_V, D_V_PADDED)

    if part < FORCED:
        arrive(counters + tl.where(part < SPLITS, 0, 1))
    elif part == FORCED + 1:
        arrive(counters + 2)
    else:
        if arrive(counters + 3) == CHOSEN_PARTS + 1:  # all others of this pair have ended
            tl.store(counters + tl.arange(0, 4), tl.full([4], 0, tl.int32))  # for the next step
            selected = branch_sum(
                partial, stats, pair * PARTS + FORCED, scale_log2, CHOSEN_PARTS + 1, GROUP, ROWS, D_V,
                D_V_PADDED,
            )  # fmt: skip
            gate_slc = tl.load(gates + rows * 3 + 1, mask=head < GROUP, other=0.0).to(tl.float32)
            result = tl.load(base + rows[:, None] * D_V + dims_v, mask=inside_out, other=0.0)
            result += gate_slc[:, None] * selected
            result = tl.where(position < 0, 0.0, result)  # no such query: whatever its gates hold
            tl.store(out + rows[:, None] * D_V + dims_v, result.to(out.dtype.element_ty), mask=inside_out)
