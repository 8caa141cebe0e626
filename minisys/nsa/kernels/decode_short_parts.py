"""What the programs of `short_step_kernel` do, by kind (decode_short.py)."""

from typing import no_type_check

import triton
import triton.language as tl

from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.decode_choose import best_of_chunk
from minisys.nsa.kernels.decode_scan import block_credits, tile_overlap
from minisys.nsa.kernels.decode_stamped import (
    announce,
    importance_when_there,
    leave_numerator,
    leave_sums,
    stamped,
    wait_for_stamp,
)
from minisys.nsa.kernels.importance import LANES
from minisys.nsa.kernels.tiles import attend_tile, prefetch_rows, product


@triton.jit
@no_type_check
def load_tile(box, pair, first, KEYS: tl.constexpr, D_PADDED: tl.constexpr):
    """Tokens `first` … `first` + KEYS - 1 of a head."""
    return tl.reshape(box.load([pair, first, 0]), [KEYS, D_PADDED])


@triton.jit
@no_type_check
def prefetch_tile(k, v, pair, first, size, D_QK: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V: tl.constexpr,
                  D_V_PADDED: tl.constexpr, KEYS: tl.constexpr):  # fmt: skip
    """Ask for the same tokens of ``[pairs, size, D]`` in the L2 cache."""
    token = first + tl.arange(0, KEYS)
    row = pair.to(tl.int64) * size + token
    prefetch_rows(k, row, token < size, D_QK, D_QK_PADDED)
    prefetch_rows(v, row, token < size, D_V, D_V_PADDED)


@triton.jit
@no_type_check
def keep_token(new, store, pair, position, size, D: tl.constexpr, D_PADDED: tl.constexpr):
    """The new token of a head, [D_PADDED], from the input, and into a ring, or a row, of `size` tokens."""
    dims = tl.arange(0, D_PADDED)
    x = tl.load(new + pair * D + dims, mask=dims < D, other=0.0)
    tl.store(store + (pair.to(tl.int64) * size + position % size) * D + dims, x, mask=dims < D)
    return x


@triton.jit
@no_type_check
def scores_of_key(q_block, k):
    """[ROWS], of one key [D_QK_PADDED]."""
    return tl.sum(q_block.to(tl.float32) * k.to(tl.float32)[None, :], axis=1)


@triton.jit
@no_type_check
def start_with_token(q_block, k, v, is_read):
    """Attention to one key and value, or to nothing: (row maxima, row sums, numerator)."""
    scores = scores_of_key(q_block, k)
    row_sum = tl.where(is_read, tl.full(scores.shape, 1.0, tl.float32), 0.0)
    return tl.where(is_read, scores, -float("inf")), row_sum, row_sum[:, None] * v.to(tl.float32)[None, :]


@triton.jit
@no_type_check
def hand_over(row_max, row_sum, acc, statistics, numerators, slot, stamp, counter, GROUP: tl.constexpr,
              ROWS: tl.constexpr, D_V: tl.constexpr, D_V_PADDED: tl.constexpr):  # fmt: skip
    """One part, at place `slot`, announced at `counter`."""
    leave_numerator(acc, numerators, slot, stamp, GROUP, ROWS, D_V, D_V_PADDED)
    leave_sums(row_max, row_sum, statistics, slot, stamp, GROUP, ROWS)
    announce(counter)


@triton.jit
@no_type_check
def compressed_tile(
    q_block, k_box, v_box, k_cmp, v_cmp, done, counters, statistics, credits, spills, numerators, pair, pairs,
    part, parts, position, cmp_size, stamp, scale_log2,
    GROUP: tl.constexpr, ROWS: tl.constexpr, D_QK: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V: tl.constexpr,
    D_V_PADDED: tl.constexpr, KEYS: tl.constexpr, PER_BLOCK: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, TILES: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr,
    OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Tile `part` of the compressed keys: its credits to selection blocks, and attention to its values.

    The key that the new token completes comes from φ's programs, in the same launch; boxes do not have it.
    """
    k_block = load_tile(k_box, pair, part * KEYS, KEYS, D_QK_PADDED)
    scores = product(q_block, tl.trans(k_block))
    index = part * KEYS + tl.arange(0, KEYS)
    held = visible_keys(position - 1, SPAN, STRIDE)  # from here on the length has to be known
    inside = index < held
    scores = tl.where(inside[None, :], scores, -float("inf"))
    completes = (held < visible_keys(position, SPAN, STRIDE)) & (held // KEYS == part)
    new_row = pair.to(tl.int64) * cmp_size + held
    new_scores = tl.zeros([ROWS], tl.float32)
    if completes:
        wait_for_stamp(done + pair, stamp)
        dims = tl.arange(0, D_QK_PADDED)
        new_scores = scores_of_key(
            q_block, tl.load(k_cmp + new_row * D_QK + dims, mask=dims < D_QK, other=0.0)
        )
        scores = tl.where((index == held)[None, :], new_scores[:, None], scores)
    row_max = tl.max(scores, axis=1)
    base = tl.where(row_max == -float("inf"), 0.0, row_max)  # a tile without keys
    weights = tl.exp2((scores - base[:, None]) * scale_log2)

    _, overlap = tile_overlap(KEYS, PER_BLOCK, PER_BLOCK, SPAN // STRIDE, OVERLAPS)
    credit = stamped(block_credits(weights, overlap, q_block.dtype == tl.float32), stamp)
    to_block = tl.arange(0, OVERLAPS)[None, :]
    head = tl.arange(0, ROWS)[:, None]
    tile = (pair * GROUP + head) * TILES + part
    is_own = (head < GROUP) & (to_block < TILE_BLOCKS)
    tl.store(credits + tile * TILE_BLOCKS + to_block, credit, mask=is_own)
    if EXTRA > 0:
        is_next = (head < GROUP) & (to_block >= TILE_BLOCKS) & (to_block < TILE_BLOCKS + EXTRA)
        tl.store(spills + tile * EXTRA + to_block - TILE_BLOCKS, credit, mask=is_next)
    leave_sums(row_max, tl.sum(weights, axis=1), statistics, parts + part, stamp, GROUP, ROWS)
    announce(counters)

    v_block = load_tile(v_box, pair, part * KEYS, KEYS, D_V_PADDED)
    v_block = tl.where(inside[:, None], v_block, 0.0)  # there may be anything
    acc = product(weights.to(v_block.dtype), v_block)
    if completes:
        wait_for_stamp(done + pairs + pair, stamp)
        dims = tl.arange(0, D_V_PADDED)
        v = tl.load(v_cmp + new_row * D_V + dims, mask=dims < D_V, other=0.0).to(tl.float32)
        acc += tl.exp2((new_scores - base) * scale_log2)[:, None] * v[None, :]
    leave_numerator(acc, numerators, parts + part, stamp, GROUP, ROWS, D_V, D_V_PADDED)
    announce(counters + 1)


@triton.jit
@no_type_check
def attend_window(q_block, k, v, k_box, v_box, pair, piece, position, scale_log2, PIECES: tl.constexpr,
                  WINDOW: tl.constexpr, RING: tl.constexpr, KEYS: tl.constexpr, D_QK_PADDED: tl.constexpr,
                  D_V_PADDED: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Every PIECES-th tile of the ring, and in the first piece the new token."""
    row_max, row_sum, acc = start_with_token(q_block, k, v, piece == 0)
    for tile in tl.range(piece, (RING + KEYS - 1) // KEYS, PIECES, num_stages=DEPTH):
        slot = tile * KEYS + tl.arange(0, KEYS)
        age = position % RING - slot
        age = tl.where(age < 0, age + RING, age)
        seen = (age > 0) & (age < tl.minimum(WINDOW, position + 1)) & (slot < RING)
        k_block = load_tile(k_box, pair, tile * KEYS, KEYS, D_QK_PADDED)
        v_block = tl.where(seen[:, None], load_tile(v_box, pair, tile * KEYS, KEYS, D_V_PADDED), 0.0)
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, seen[None, :], row_max, row_sum, acc, scale_log2
        )
    return row_max, row_sum, acc


@triton.jit
@no_type_check
def attend_forced(q_block, k, v, k_box, v_box, pair, position, scale_log2, SELECT_BLOCK: tl.constexpr,
                  INITIAL: tl.constexpr, LOCAL: tl.constexpr, KEYS: tl.constexpr, D_QK_PADDED: tl.constexpr,
                  D_V_PADDED: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """The initial and the local blocks, and the new token."""
    CHUNKS: tl.constexpr = (SELECT_BLOCK + KEYS - 1) // KEYS  # tiles of a block
    row_max, row_sum, acc = start_with_token(q_block, k, v, True)
    own = position // SELECT_BLOCK
    initial = tl.minimum(own + 1, INITIAL)
    count = initial + tl.maximum(tl.minimum(own + 1 - initial, LOCAL), 0)
    for step in tl.range(0, CHUNKS * count, num_stages=DEPTH):
        listed = step // CHUNKS
        offset = step % CHUNKS * KEYS
        first = tl.where(listed < initial, listed, own - (listed - initial)) * SELECT_BLOCK + offset
        seen = tl.arange(0, KEYS) < tl.minimum(SELECT_BLOCK - offset, position - first)
        k_block = load_tile(k_box, pair, first, KEYS, D_QK_PADDED)
        v_block = tl.where(seen[:, None], load_tile(v_box, pair, first, KEYS, D_V_PADDED), 0.0)
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, seen[None, :], row_max, row_sum, acc, scale_log2
        )
    return row_max, row_sum, acc


@triton.jit
@no_type_check
def choose(
    statistics, credits, spills, bits, chosen, pair, parts, piece, end, stamp, scale_log2,
    TILES: tl.constexpr, TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, INITIAL: tl.constexpr,
    FREE: tl.constexpr, PIECES: tl.constexpr, LISTED: tl.constexpr, SLOTS: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Numbers [LISTED] of the chosen blocks of one of PIECES pieces, -1 for none; also into `chosen`.

    `bits` is scratch for TILES · TILE_BLOCKS numbers.
    """
    EACH: tl.constexpr = (FREE + PIECES - 1) // PIECES
    found = importance_when_there(
        statistics, credits, spills, pair, parts, end, stamp, scale_log2, TILES, TILE_BLOCKS, EXTRA, INITIAL,
        GROUP, ROWS,
    )  # fmt: skip
    # Through memory into the layout that `best_of_chunk` wants.
    tl.store(bits + tl.arange(0, TILES)[:, None] * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)[None, :], found)
    tl.debug_barrier()  # every warp has stored
    _, number = best_of_chunk(bits, 0, FREE, SLOTS, TILES * TILE_BLOCKS // LANES)
    slot = tl.arange(0, LISTED)
    place = piece * EACH + slot
    is_mine = (slot < EACH) & (place < FREE)
    mine = tl.where(is_mine, place, SLOTS)[:, None]
    listed = tl.max(tl.where(tl.arange(0, SLOTS)[None, :] == mine, number, -1), axis=1)
    tl.store(chosen + pair * FREE + place, listed, mask=is_mine)
    return listed


@triton.jit
@no_type_check
def attend_chosen(q_block, listed, k_box, v_box, pair, scale_log2, ROWS: tl.constexpr,
                  SELECT_BLOCK: tl.constexpr, KEYS: tl.constexpr, D_QK_PADDED: tl.constexpr,
                  D_V_PADDED: tl.constexpr, LISTED: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """The blocks `listed`; they lie before the local ones, so they are complete."""
    CHUNKS: tl.constexpr = (SELECT_BLOCK + KEYS - 1) // KEYS  # tiles of a block
    row_max = tl.full([ROWS], -float("inf"), tl.float32)
    row_sum = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
    for step in tl.range(0, CHUNKS * tl.sum((listed >= 0).to(tl.int32), axis=0), num_stages=DEPTH):
        offset = step % CHUNKS * KEYS
        block = tl.sum(tl.where(tl.arange(0, LISTED) == step // CHUNKS, listed, 0), axis=0)
        k_block = load_tile(k_box, pair, block * SELECT_BLOCK + offset, KEYS, D_QK_PADDED)
        v_block = load_tile(v_box, pair, block * SELECT_BLOCK + offset, KEYS, D_V_PADDED)
        if SELECT_BLOCK % KEYS == 0:
            row_max, row_sum, acc = attend_tile(
                q_block, k_block, v_block, None, row_max, row_sum, acc, scale_log2
            )
        else:
            seen = tl.arange(0, KEYS) < SELECT_BLOCK - offset
            v_block = tl.where(seen[:, None], v_block, 0.0)
            row_max, row_sum, acc = attend_tile(
                q_block, k_block, v_block, seen[None, :], row_max, row_sum, acc, scale_log2
            )
    return row_max, row_sum, acc
