"""First launch of a decoding step: everything that can be read before the blocks are chosen, and the choice.

A program is one (query, key/value head) pair and one part of its keys. All query heads of the group are the
rows of its products, so keys and values are read once for the whole group. Parts of a pair:

* compressed keys, cut into `SPLITS` equal pieces, so that a small batch fills the GPU (split-KV, as in
  flash decoding). The cut does not depend on what the row holds on the host's side: programs behind the end
  of a row stop at once, and one grid serves every length, as a recorded graph needs it;
* the window, in `WINDOW_PARTS` pieces;
* the blocks that every query reads, whatever it selects: the initial and the local ones.

Each leaves its numerator, row maxima and row sums; decode_finish.py adds them up.

Importance (equations 8 to 10) comes out of the same scores. While a piece of compressed keys is on the chip,
its weights are summed by selection block, in units of the largest score so far: a product with the small
matrix of overlaps. So a pair leaves hq/hk numbers a block in place of one a compressed key. The last of the
SPLITS programs to arrive knows the whole denominator; it scales, adds up the group and takes the top n. It
combines in a fixed order, so the result does not depend on who comes last.

A tile of compressed keys belongs to whole selection blocks. The keys at its end reach into blocks of the next
tile; what they credit to those is kept apart ("spill").
"""

from typing import no_type_check

import triton
import triton.language as tl

from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.importance import NONE
from minisys.nsa.kernels.tiles import product, product_onto


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
def choose_blocks(stats, tile_max, credits, spills, chosen, pair, parts, tiles, used_tiles, own, scale_log2,
                  SPLITS: tl.constexpr, SPLITS_PADDED: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr,
                  TILES: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, INITIAL: tl.constexpr,
                  LOCAL: tl.constexpr, TOP_N: tl.constexpr, N_PADDED: tl.constexpr,
                  MERGE: tl.constexpr):  # fmt: skip
    """The most important of the blocks that are not forced, by falling importance, -1 where there are fewer.

    They go into chosen ``[pairs, n - forced]``. Ties go to the earlier block. TILES tiles are looked at
    together; with MERGE there may be more, and the best so far are held against the next ones.
    """
    FREE: tl.constexpr = TOP_N - INITIAL - LOCAL
    split = tl.arange(0, SPLITS_PADDED)[None, :]
    local = tl.arange(0, TILE_BLOCKS)[None, :]
    slot = tl.arange(0, N_PADDED)
    best = tl.full([N_PADDED], -1, tl.int32)
    number = tl.full([N_PADDED], -1, tl.int32)
    for first_tile in range(0, own // TILE_BLOCKS + 1, TILES):
        tile = first_tile + tl.arange(0, TILES)
        real = (tile < used_tiles)[None, :]
        after = ((tile > 0) & (tile <= used_tiles))[None, :]  # a tile has one before it
        importance = tl.full([TILES, TILE_BLOCKS], 0.0, tl.float32)
        for first_head in tl.static_range(0, GROUP, HEADS):
            head = first_head + tl.arange(0, HEADS)[:, None]
            known = (head < GROUP) & (split < SPLITS)
            at = stats + (pair * parts + split) * (2 * GROUP) + head
            split_max = tl.load(at, mask=known, other=-float("inf")) * scale_log2
            split_sum = tl.load(at + GROUP, mask=known, other=0.0)
            top = tl.max(split_max, axis=1)
            top = tl.where(top == -float("inf"), 0.0, top)
            total = tl.sum(split_sum * tl.exp2(split_max - top[:, None]), axis=1)
            lse = tl.where(total > 0.0, top + tl.log2(tl.where(total > 0.0, total, 1.0)), float("inf"))[
                :, None
            ]
            row = (pair * GROUP + head) * tiles + tile[None, :]
            known = (head < GROUP) & real
            unit = tl.load(tile_max + row, mask=known, other=-float("inf"))
            factor = tl.exp2(unit * scale_log2 - lse)
            credit = tl.load(
                credits + row[:, :, None] * TILE_BLOCKS + local[None, :, :], mask=known[:, :, None], other=0.0
            )
            importance += tl.sum(factor[:, :, None] * credit, axis=0)
            if EXTRA > 0:
                known = (head < GROUP) & after
                factor = tl.exp2(
                    tl.load(tile_max + row - 1, mask=known, other=-float("inf")) * scale_log2 - lse
                )
                for i in tl.static_range(EXTRA):
                    spill = tl.load(spills + (row - 1) * EXTRA + i, mask=known, other=0.0)
                    importance += tl.where(local == i, tl.sum(factor * spill, axis=0)[:, None], 0.0)
        block = tile[:, None] * TILE_BLOCKS + local
        new = importance.to(tl.int32, bitcast=True)  # orders as the number does, which is not negative
        new = tl.where((block >= INITIAL) & (block <= own - LOCAL), new, -1)
        merged = tl.full([N_PADDED], -1, tl.int32)
        merged_number = tl.full([N_PADDED], -1, tl.int32)
        for i in tl.static_range(FREE):
            top = tl.max(new)
            if MERGE:
                top = tl.maximum(top, tl.max(best))
            taken = tl.min(tl.where(new == top, block, NONE))
            if MERGE:
                taken = tl.minimum(taken, tl.min(tl.where(best == top, number, NONE)))
                best = tl.where(number == taken, -1, best)
            new = tl.where(block == taken, -1, new)
            merged = tl.where(slot == i, top, merged)
            merged_number = tl.where(slot == i, taken, merged_number)
        best = merged
        number = merged_number
    tl.store(chosen + pair * FREE + slot, tl.where(best >= 0, number, -1), mask=slot < FREE)


@triton.jit(do_not_specialize=["t", "hk", "capacity", "cmp_capacity", "tiles"])
@no_type_check
def scan_kernel(
    q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, lengths, counts, partial, stats, tile_max, credits, spills,
    chosen, arrivals, scale_log2, t, hk, capacity, cmp_capacity, tiles,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, HAS_COUNTS: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, SELECT_BLOCK: tl.constexpr, TOP_N: tl.constexpr, INITIAL: tl.constexpr,
    LOCAL: tl.constexpr, WINDOW: tl.constexpr, RING: tl.constexpr, KEYS: tl.constexpr,
    PER_BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, OVERLAPS: tl.constexpr,
    SPLITS: tl.constexpr, SPLITS_PADDED: tl.constexpr, WINDOW_PARTS: tl.constexpr, PARTS: tl.constexpr,
    HEADS: tl.constexpr, TILES: tl.constexpr, N_PADDED: tl.constexpr, MERGE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    part = tl.program_id(1)
    cache_row, position = query_position(pair, lengths, counts, t, hk, HAS_COUNTS)
    head = tl.arange(0, ROWS)
    column = tl.arange(0, KEYS)
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    q_rows = q + (pair.to(tl.int64) * GROUP + head)[:, None] * D_QK + dims_qk
    q_block = tl.load(q_rows, mask=(head < GROUP)[:, None] & (dims_qk < D_QK), other=0.0)
    row_max = tl.full([ROWS], -float("inf"), tl.float32)
    row_sum = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)

    PIECES: tl.constexpr = SELECT_BLOCK // STRIDE  # a selection block's; a compressed key covers LONG of them
    LONG: tl.constexpr = SPAN // STRIDE
    TILE_KEYS: tl.constexpr = TILE_BLOCKS * PIECES
    CHUNKS: tl.constexpr = (SELECT_BLOCK + TILE_KEYS - 1) // TILE_KEYS
    num_keys = visible_keys(position, SPAN, STRIDE)
    used_tiles = tl.cdiv(num_keys, TILE_KEYS)
    own = tl.where(position < 0, -1, position // SELECT_BLOCK)
    initial = tl.minimum(own + 1, INITIAL)

    # One loop serves all parts. Its tiles are columns start … start + total - 1 of `wrap`, TILE_KEYS a step,
    # or, for the forced blocks, CHUNKS steps a block.
    is_forced = part >= SPLITS + WINDOW_PARTS
    start = 0
    wrap = 0x7FFFFFFF
    if part < SPLITS:
        k_rows = k_cmp + cache_row * cmp_capacity * D_QK
        v_rows = v_cmp + cache_row * cmp_capacity * D_V
        total = num_keys
        each = tl.cdiv(used_tiles, SPLITS)
        begin = part * each
        end = tl.minimum(begin + each, used_tiles)
    elif part < SPLITS + WINDOW_PARTS:
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
        total = 0
        begin = 0
        end = CHUNKS * (initial + tl.maximum(tl.minimum(own + 1 - initial, LOCAL), 0))

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
        block = tl.where(step // CHUNKS < initial, step // CHUNKS, own - (step // CHUNKS - initial))
        first = tl.where(is_forced, block * SELECT_BLOCK + offset, start + step * TILE_KEYS)
        left = tl.where(
            is_forced, tl.minimum(SELECT_BLOCK - offset, position + 1 - first), total - step * TILE_KEYS
        )
        inside = of_tile < left
        index = first + of_tile
        index = tl.where(index >= wrap, index - wrap, index)
        k_block = load_rows(k_rows, index, inside, dims_qk, D_QK, D_QK_PADDED)
        v_block = load_rows(v_rows, index, inside, dims_v, D_V, D_V_PADDED)
        # The step of `attend_tile`; here the weights are needed as well. Every tile has a key that is inside.
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
    store_part(acc, row_max, row_sum, partial, stats, pair * PARTS + part, GROUP, ROWS, D_V, D_V_PADDED)

    if part < SPLITS and TOP_N > INITIAL + LOCAL:
        tl.debug_barrier()  # every warp has stored
        arrived = tl.atomic_add(arrivals + pair, 1, sem="acq_rel")
        if arrived == SPLITS - 1:
            tl.store(arrivals + pair, 0)  # for the next step
            choose_blocks(
                stats, tile_max, credits, spills, chosen, pair, PARTS, tiles, used_tiles,
                own, scale_log2, SPLITS, SPLITS_PADDED, GROUP, HEADS, TILES, TILE_BLOCKS, EXTRA, INITIAL,
                LOCAL, TOP_N, N_PADDED, MERGE,
            )  # fmt: skip
