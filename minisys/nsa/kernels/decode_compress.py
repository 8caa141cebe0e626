"""φ of the blocks that new tokens complete (equation 7): what programs of the append kernel do together.

Three links, of which each starts when all programs of the one before have arrived at a counter:

1. The first layer, by as many programs as it takes to have all its weights under way at once: each multiplies
   some columns of the weights of a few tokens, a piece.
2. Whoever arrives last at its columns adds up their pieces, and has so many hidden units. It multiplies them
   with its share of the second layer.
3. Whoever arrives last of these adds up the shares, rotates the key, and stores it.

Sums are always taken in the order of pieces and columns, not in that of arrival.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.decode_parts import arrive
from minisys.nsa.kernels.tiles import padded, power_of_two, product, product_onto


@triton.jit
@no_type_check
def first_layer(
    raw, new, places, weight, row, head, block, length, complete, piece, column, t, hk, size,
    D: tl.constexpr, D_PADDED: tl.constexpr, HIDDEN: tl.constexpr, SPAN: tl.constexpr, STRIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """One piece, of TOKENS tokens, [ROWS, COLUMNS]."""
    total = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    dims = tl.arange(0, D_PADDED)[None, :]
    old_rows = raw + (row.to(tl.int64) * hk + head)[:, None] * size * D + dims
    new_rows = new + (row.to(tl.int64) * t * hk + head)[:, None] * D + dims
    weight_rows = weight + column[:, None] * (SPAN * D) + dims
    used = (column[:, None] < HIDDEN) & (dims < D)
    for place in range(piece * TOKENS, piece * TOKENS + TOKENS):
        position = block * STRIDE + place
        is_old = (complete & (position < length))[:, None] & (dims < D)
        is_new = (complete & (position >= length))[:, None] & (dims < D)
        x = tl.load(old_rows + (position % size)[:, None] * D, mask=is_old, other=0.0).to(tl.float32)
        x += tl.load(new_rows + ((position - length) * hk)[:, None] * D, mask=is_new, other=0.0)
        x += tl.load(places + place * D + dims, mask=dims < D, other=0.0)
        w = tl.load(weight_rows + place * D, mask=used, other=0.0)
        total = product_onto(x.to(w.dtype), tl.trans(w), total)
    return total


@triton.jit
@no_type_check
def compress_blocks(
    raw, new, places, first_weight, first_bias, second_weight, second_bias, turns, target, partial,
    arrivals, lengths, counts, done, stamp, b, t, hk, size, target_size, most, piece, column_tile, m_tile,
    D: tl.constexpr, D_PADDED: tl.constexpr, HIDDEN: tl.constexpr, ROTATE: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, HAS_COUNTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PIECES: tl.constexpr, AWAITED: tl.constexpr,
):  # fmt: skip
    """Piece `piece` of the hidden columns `column_tile`, for the completing blocks of one tile, and what
    follows for whom comes last.

    `partial` holds `phi_scratch` numbers for each tile of instances, `arrivals` its counters: one for each
    tile of columns, and one. Where it is AWAITED, `stamp` goes to `done`, ``[b·hk]``, once a block is there.
    """
    COLUMN_TILES: tl.constexpr = (HIDDEN + COLUMNS - 1) // COLUMNS
    HALF: tl.constexpr = (D + 1) // 2
    HALF_PADDED: tl.constexpr = D_PADDED // 2 if D_PADDED > 32 else 16
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    # Instance: a head of a row, and one of the up to `most` blocks that an append completes in it.
    instance = m_tile * ROWS + tl.arange(0, ROWS)
    head = instance % hk
    row = instance // (hk * most)
    exists = row < b
    length = tl.load(lengths + row, mask=exists, other=0)
    after = length + t
    if HAS_COUNTS:
        after = length + tl.load(counts + row, mask=exists, other=0)
    block = visible_keys(length - 1, SPAN, STRIDE) + instance // hk % most
    complete = exists & (block < visible_keys(after - 1, SPAN, STRIDE))
    if tl.max(complete.to(tl.int32), axis=0) > 0:
        total = first_layer(
            raw, new, places, first_weight, row, head, block, length, complete, piece, column, t, hk, size,
            D, D_PADDED, HIDDEN, SPAN, STRIDE, ROWS, COLUMNS, SPAN // PIECES,
        )  # fmt: skip
        # A place for each tile of columns holds its pieces, then its share of the second layer.
        FIRST: tl.constexpr = PIECES * ROWS * COLUMNS
        PLACE: tl.constexpr = FIRST + 2 * ROWS * HALF_PADDED
        arrivals += m_tile * (COLUMN_TILES + 1)
        partial += m_tile * (COLUMN_TILES * PLACE)
        pieces = (
            partial
            + column_tile * PLACE
            + (tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])
        )
        tl.store(pieces + piece * (ROWS * COLUMNS), total)

        if arrive(arrivals + column_tile) == PIECES - 1:
            tl.store(arrivals + column_tile, 0)  # for the next append
            # Two halves of the result, element i and i + D/2 of a head, which rotary positions pair.
            half = tl.arange(0, HALF_PADDED)
            real = (column < HIDDEN)[None, :]
            rows = second_weight + half[:, None] * HIDDEN + column
            w_low = tl.load(rows, mask=real & (half < HALF)[:, None], other=0.0)
            w_high = tl.load(rows + HALF * HIDDEN, mask=real & (half < D - HALF)[:, None], other=0.0)
            hidden = tl.load(first_bias + column, mask=column < HIDDEN, other=0.0).to(tl.float32)[None, :]
            for i in tl.static_range(PIECES):
                hidden += tl.load(pieces + i * (ROWS * COLUMNS))
            hidden = (hidden / (1 + tl.exp(-hidden))).to(second_weight.dtype.element_ty)
            share = partial + FIRST + tl.arange(0, ROWS)[:, None] * HALF_PADDED + half[None, :]
            mine = share + column_tile * PLACE
            tl.store(mine, product(hidden, tl.trans(w_low)))
            tl.store(mine + ROWS * HALF_PADDED, product(hidden, tl.trans(w_high)))

            if arrive(arrivals + COLUMN_TILES) == COLUMN_TILES - 1:
                tl.store(arrivals + COLUMN_TILES, 0)
                low = tl.full([ROWS, HALF_PADDED], 0.0, tl.float32)
                high = tl.full([ROWS, HALF_PADDED], 0.0, tl.float32)
                inside = complete[:, None] & (half < HALF)[None, :]
                cos, sin = low, low
                if ROTATE:  # asked for here, so that it is there when the sums are
                    turn = turns + block[:, None] * (2 * HALF) + half
                    cos = tl.load(turn, mask=inside, other=0.0)
                    sin = tl.load(turn + HALF, mask=inside, other=0.0)
                for first in range(0, COLUMN_TILES, 8):
                    for i in tl.static_range(8):
                        other = share + (first + i) * PLACE
                        low += tl.load(other, mask=first + i < COLUMN_TILES, other=0.0)
                        high += tl.load(other + ROWS * HALF_PADDED, mask=first + i < COLUMN_TILES, other=0.0)
                low += tl.load(second_bias + half, mask=half < HALF, other=0.0)[None, :]
                high += tl.load(second_bias + HALF + half, mask=half < D - HALF, other=0.0)[None, :]
                if ROTATE:
                    # As `rotate` does: the numbers go through the cache's dtype before they are turned.
                    low = low.to(target.dtype.element_ty).to(tl.float32)
                    high = high.to(target.dtype.element_ty).to(tl.float32)
                    turned = low * cos - high * sin
                    high = high * cos + low * sin
                    low = turned
                out = target + ((row.to(tl.int64) * hk + head)[:, None] * target_size + block[:, None]) * D
                low = low.to(target.dtype.element_ty)
                high = high.to(target.dtype.element_ty)
                tl.store(out + half, low, mask=inside)
                tl.store(out + HALF + half, high, mask=complete[:, None] & (half < D - HALF)[None, :])
                if AWAITED:
                    tl.debug_barrier()  # every warp has stored
                    tl.atomic_xchg(done + row * hk + head, stamp, mask=complete, sem="release")


@triton.jit
@no_type_check
def complete_blocks(
    new_k_raw, new_v_raw, k_raw, v_raw, k_cmp, v_cmp,
    k_places, k_first_weight, k_first_bias, k_second_weight, k_second_bias,
    v_places, v_first_weight, v_first_bias, v_second_weight, v_second_bias,
    turns, partial, arrivals, program_lengths, counts, done, stamp, program,
    b, t, hk, raw_size, cmp_size, most, m_tiles, v_partial, v_arrivals,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    K_HIDDEN: tl.constexpr, V_HIDDEN: tl.constexpr, ROTATE: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, HAS_COUNTS: tl.constexpr, BATCH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIECES: tl.constexpr,
    M_PROGRAMS: tl.constexpr, AWAITED: tl.constexpr,
):  # fmt: skip
    """What φ's program `program` does in a launch that adds tokens: nothing, where no row completes a block.

    It counts the lengths of the rows in a copy of its own, ``program_lengths[program]``.
    """
    own_lengths = program_lengths + program * b
    rows = tl.arange(0, BATCH)
    before = tl.load(own_lengths + rows, mask=rows < b, other=0)
    after = before + t
    if HAS_COUNTS:
        after = before + tl.load(counts + rows, mask=rows < b, other=0)
    complete = visible_keys(after - 1, SPAN, STRIDE) > visible_keys(before - 1, SPAN, STRIDE)
    if tl.max((complete & (rows < b)).to(tl.int32), axis=0) > 0:
        first_tile = program % M_PROGRAMS
        program = program // M_PROGRAMS
        K_TILES: tl.constexpr = (K_HIDDEN + COLUMNS - 1) // COLUMNS
        V_TILES: tl.constexpr = (V_HIDDEN + COLUMNS - 1) // COLUMNS
        for m_tile in range(first_tile, m_tiles, M_PROGRAMS):
            if program < PIECES * K_TILES:
                compress_blocks(
                    k_raw, new_k_raw, k_places, k_first_weight, k_first_bias, k_second_weight,
                    k_second_bias, turns, k_cmp, partial, arrivals, own_lengths, counts, done, stamp, b, t,
                    hk, raw_size, cmp_size, most, program // K_TILES, program % K_TILES, m_tile,
                    D_QK, D_QK_PADDED, K_HIDDEN, ROTATE, SPAN, STRIDE, HAS_COUNTS, ROWS, COLUMNS,
                    PIECES, AWAITED,
                )  # fmt: skip
            else:
                of_values = program - PIECES * K_TILES
                compress_blocks(
                    v_raw, new_v_raw, v_places, v_first_weight, v_first_bias, v_second_weight,
                    v_second_bias, turns, v_cmp, partial + v_partial, arrivals + v_arrivals, own_lengths,
                    counts, done + b * hk, stamp, b, t, hk, raw_size, cmp_size, most, of_values // V_TILES,
                    of_values % V_TILES, m_tile, D_V, D_V_PADDED, V_HIDDEN, False, SPAN, STRIDE,
                    HAS_COUNTS, ROWS, COLUMNS, PIECES, AWAITED,
                )  # fmt: skip
    tl.debug_barrier()  # every warp has read the lengths
    tl.store(own_lengths + rows, after, mask=rows < b)


def phi_options(span: int, heads: int, dtype: torch.dtype) -> dict[str, int]:
    """Instances (a block and a head) and hidden columns of a tile, pieces that a block's tokens are cut into,
    warps and pipeline depth.

    `heads` are the key/value heads of all rows together.
    """
    options = {"PIECES": next(count for count in range(8, 0, -1) if span % count == 0), "num_warps": 4}
    if dtype == torch.float32:  # products take registers
        return options | {"ROWS": 16, "COLUMNS": 16, "num_stages": 1}
    rows = min(64, max(16, power_of_two(triton.cdiv(heads, 4))))
    return options | {"ROWS": rows, "COLUMNS": 32, "num_stages": 2}


def phi_scratch(hidden: int, head_dim: int, options: dict[str, int]) -> tuple[int, int]:
    """(Numbers of scratch memory, counters) that `compress_blocks` wants for a tile of instances."""
    column_tiles = triton.cdiv(hidden, options["COLUMNS"])
    place = options["ROWS"] * (options["PIECES"] * options["COLUMNS"] + max(32, padded(head_dim)))
    return column_tiles * place, column_tiles + 1
