"""A piece of the compressed keys of a decoding step, with the importance of the blocks that they lie in.

The choice of blocks needs the scores alone, and everything after it waits for the choice. So a small batch
reads all keys first, leaves what the choice wants, and reads the values while others choose. The weights of
the scores wait for their values in memory, mostly the L2 cache: 16 bits a score where a compressed key and
value of 128 numbers have 4,096 bits. A large batch has other pairs to read while one chooses; it reads keys
and values together and writes no weights.

Importance (equations 8 to 10 of arXiv 2502.11089) comes out of the same scores. While a tile of compressed
keys is on the chip, its weights are summed by selection block, in units of the largest score so far: a
product with the small matrix of overlaps. So a pair leaves hq/hk numbers a block in place of one a compressed
key. A tile belongs to whole selection blocks. The keys at its end reach into blocks of the next tile; what
they credit to those is kept apart ("spill").
"""

from typing import no_type_check

import triton
import triton.language as tl

from minisys.nsa.kernels.decode_parts import load_rows, signal, store_numerator, store_stats
from minisys.nsa.kernels.tiles import product, product_onto


@triton.jit
@no_type_check
def block_credits(weights, overlap, IS_FLOAT32: tl.constexpr):
    """weights [rows, keys] @ overlap [keys, blocks], small whole numbers.

    In two products of 8 bits of the weights each, or three: small weights stay exact.
    """
    high = weights.to(tl.bfloat16)
    rest = weights - high.to(tl.float32)
    credit = product_onto(rest.to(tl.bfloat16), overlap, product(high, overlap))
    if IS_FLOAT32:
        rest -= rest.to(tl.bfloat16).to(tl.float32)
        credit = product_onto(rest.to(tl.bfloat16), overlap, credit)
    return credit


@triton.jit
@no_type_check
def tile_overlap(KEYS: tl.constexpr, PER_BLOCK: tl.constexpr, PIECES: tl.constexpr, LONG: tl.constexpr,
                 OVERLAPS: tl.constexpr):  # fmt: skip
    """Which compressed key of its tile a column is [KEYS], and with how many of its LONG strides it lies in a
    block [KEYS, OVERLAPS]; blocks after the tile's own are the next tile's.

    A tile's blocks have PER_BLOCK columns, PIECES of them used.
    """
    column = tl.arange(0, KEYS)
    piece = column % PER_BLOCK
    of_tile = tl.where(piece < PIECES, column // PER_BLOCK * PIECES + piece, 0x3FFFFFFF)  # never inside
    from_piece = of_tile[:, None] - tl.arange(0, OVERLAPS)[None, :] * PIECES
    overlap = tl.minimum(from_piece + LONG, PIECES) - tl.maximum(from_piece, 0)
    return of_tile, tl.maximum(overlap, 0).to(tl.float32).to(tl.bfloat16)  # small whole numbers, exact


@triton.jit
@no_type_check
def scan_piece(q_block, k_rows, v_rows, begin, end, num_keys, tile_max, credits, spills, kept, partial, stats,
               slot, pair, tiles, counter, scale_log2, GROUP: tl.constexpr, ROWS: tl.constexpr,
               D_QK: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V: tl.constexpr, D_V_PADDED: tl.constexpr,
               KEYS: tl.constexpr, PER_BLOCK: tl.constexpr, PIECES: tl.constexpr, LONG: tl.constexpr,
               TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, OVERLAPS: tl.constexpr,
               KEYS_FIRST: tl.constexpr, KEY_DEPTH: tl.constexpr, VALUE_DEPTH: tl.constexpr):  # fmt: skip
    """Tiles begin … end - 1 of a pair; counts itself at `counter` when its scores are known.

    With KEYS_FIRST all keys are read before the values. `kept` has room for the weights in between, ``[pairs,
    tiles, GROUP, KEYS]``, 0 where no key is.
    """
    TILE_KEYS: tl.constexpr = TILE_BLOCKS * PIECES
    head = tl.arange(0, ROWS)
    is_head = (head < GROUP)[:, None]
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    to_block = tl.arange(0, OVERLAPS)[None, :]
    of_tile, overlap = tile_overlap(KEYS, PER_BLOCK, PIECES, LONG, OVERLAPS)
    row = (pair * GROUP + head) * tiles
    kept += pair.to(tl.int64) * tiles * (GROUP * KEYS) + head[:, None] * KEYS + tl.arange(0, KEYS)[None, :]

    row_max = tl.full([ROWS], -float("inf"), tl.float32)
    row_sum = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
    for step in tl.range(begin, end, num_stages=KEY_DEPTH):
        inside = of_tile < num_keys - step * TILE_KEYS
        k_block = load_rows(k_rows, step * TILE_KEYS + of_tile, inside, dims_qk, D_QK, D_QK_PADDED)
        if not KEYS_FIRST:
            v_block = load_rows(v_rows, step * TILE_KEYS + of_tile, inside, dims_v, D_V, D_V_PADDED)
        scores = tl.where(inside[None, :], product(q_block, tl.trans(k_block)), -float("inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))  # every tile has a key that is inside
        weights = tl.exp2((scores - new_max[:, None]) * scale_log2)
        shrink = tl.exp2((row_max - new_max) * scale_log2)
        row_sum = row_sum * shrink + tl.sum(weights, axis=1)
        row_max = new_max
        if KEYS_FIRST:
            tl.store(kept + step * (GROUP * KEYS), weights.to(kept.dtype.element_ty), mask=is_head)
        else:
            acc = product_onto(weights.to(v_block.dtype), v_block, acc * shrink[:, None])
        tl.store(tile_max + row + step, new_max, mask=head < GROUP)
        credit = block_credits(weights, overlap, q_block.dtype == tl.float32)
        own_block = credits + (row + step)[:, None] * TILE_BLOCKS + to_block
        tl.store(own_block, credit, mask=is_head & (to_block < TILE_BLOCKS))
        if EXTRA > 0:
            next_block = spills + (row + step)[:, None] * EXTRA + to_block - TILE_BLOCKS
            spilled = (to_block >= TILE_BLOCKS) & (to_block < TILE_BLOCKS + EXTRA)
            tl.store(next_block, credit, mask=is_head & spilled)
    store_stats(row_max, row_sum, stats, slot, GROUP, ROWS)
    signal(counter)  # waits for every warp's stores, which the loop below reads again
    if KEYS_FIRST:
        row_max = tl.full([ROWS], -float("inf"), tl.float32)
        for step in tl.range(begin, end, num_stages=VALUE_DEPTH):
            inside = of_tile < num_keys - step * TILE_KEYS
            v_block = load_rows(v_rows, step * TILE_KEYS + of_tile, inside, dims_v, D_V, D_V_PADDED)
            weights = tl.load(kept + step * (GROUP * KEYS), mask=is_head, other=0.0)
            new_max = tl.load(tile_max + row + step, mask=head < GROUP, other=0.0)
            acc = product_onto(weights, v_block, acc * tl.exp2((row_max - new_max) * scale_log2)[:, None])
            row_max = new_max
    store_numerator(acc, partial, slot, GROUP, ROWS, D_V, D_V_PADDED)
