"""A decoding step of short rows in one launch, append included (see `fits`).

With a few rows of a few thousand tokens there is little to read, and a step takes as long as its longest
chain of trips to memory. This kernel makes the chain short:

* Programs hand their numbers over in stamped words (decode_stamped.py).
* A program has one tile of the compressed keys, whatever the row's length: it asks for keys and values
  before it knows the length.
* Whoever reads chosen blocks chooses them.
* The output is added up by several programs, each a slice of the head's numbers.
* Windows and the blocks that every query reads take the new token from the input and store it. φ's programs,
  before all others, compute the block that it completes, once every stride; only the program whose tile has
  that key waits for them.

Every program counts the length of its row in a copy of its own, since nobody may change what another still
reads.
"""

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from minisys.nsa.cache import NSACache
from minisys.nsa.decoding import append_backend
from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.decode import processors_of, scan_keys
from minisys.nsa.kernels.decode_choose import best_of_chunk, chunk_of
from minisys.nsa.kernels.decode_compress import complete_blocks
from minisys.nsa.kernels.decode_parts import attend_rows, forced_blocks, load_rows, window_tiles
from minisys.nsa.kernels.decode_scan import block_credits, tile_overlap
from minisys.nsa.kernels.decode_stamped import (
    importance_when_there,
    leave_numerator,
    leave_sums,
    stamped,
    sum_when_there,
)
from minisys.nsa.kernels.importance import LANES
from minisys.nsa.kernels.tiles import padded, power_of_two, product


@triton.jit
@no_type_check
def keep_token(new, store, pair, position, size, D: tl.constexpr, D_PADDED: tl.constexpr):
    """The new token of a head into a ring, or a row, of `size` tokens."""
    dims = tl.arange(0, D_PADDED)
    x = tl.load(new + pair * D + dims, mask=dims < D)
    tl.store(store + (pair.to(tl.int64) * size + position % size) * D + dims, x, mask=dims < D)


@triton.jit
@no_type_check
def wait_for_stamp(place, stamp):
    while tl.atomic_add(place, 0, sem="acquire") != stamp:
        pass


@triton.jit(do_not_specialize=["b", "hk", "capacity", "raw_size", "cmp_size", "m_tiles", "phi_programs"])
@no_type_check
def short_step_kernel(
    q, gates, new_k_raw, new_v_raw, new_k_slc, new_v_slc, new_k_win, new_v_win,
    k_raw, v_raw, k_slc, v_slc, k_win, v_win, k_cmp, v_cmp,
    k_places, k_first_weight, k_first_bias, k_second_weight, k_second_bias,
    v_places, v_first_weight, v_first_bias, v_second_weight, v_second_bias,
    turns, phi_partial, phi_arrivals, phi_lengths, done,
    lengths, own_lengths, stamps, statistics, credits, spills, numerators, bits, chosen, out, scale_log2,
    b, hk, capacity, raw_size, cmp_size, m_tiles, v_partial, v_arrivals, phi_programs,
    D_QK: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr, STRIDE: tl.constexpr,
    SELECT_BLOCK: tl.constexpr, INITIAL: tl.constexpr, LOCAL: tl.constexpr, FREE: tl.constexpr,
    WINDOW: tl.constexpr, RING: tl.constexpr, KEYS: tl.constexpr, PER_BLOCK: tl.constexpr,
    TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, OVERLAPS: tl.constexpr, TILES: tl.constexpr,
    WINDOW_PARTS: tl.constexpr, CHOSEN_PARTS: tl.constexpr, SLICE: tl.constexpr, SLOTS: tl.constexpr,
    LISTED: tl.constexpr, K_HIDDEN: tl.constexpr, V_HIDDEN: tl.constexpr, ROTATE: tl.constexpr,
    BATCH: tl.constexpr, PHI_ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIECES: tl.constexpr,
    M_PROGRAMS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    stamp = tl.load(stamps + tl.program_id(0))
    if tl.program_id(0) < phi_programs:
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
        FORCED: tl.constexpr = TILES + WINDOW_PARTS
        SUM: tl.constexpr = FORCED + 1 + CHOSEN_PARTS
        CHUNK: tl.constexpr = TILES * TILE_BLOCKS
        PER: tl.constexpr = SELECT_BLOCK // STRIDE
        TILE_KEYS: tl.constexpr = TILE_BLOCKS * PER
        pairs = b * hk
        program = tl.program_id(0) - phi_programs
        later = program - pairs * TILES
        pair = tl.where(later < 0, program // TILES, later % pairs)
        part = tl.where(later < 0, program % TILES, TILES + later // pairs)
        row = pair // hk
        own_length = own_lengths + program * b + row
        position = tl.load(own_length)
        head = tl.arange(0, ROWS)
        rows = pair * GROUP + head

        if part < SUM:
            dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
            dims_v = tl.arange(0, D_V_PADDED)[None, :]
            q_rows = q + rows[:, None] * D_QK + dims_qk
            q_block = tl.load(q_rows, mask=(head < GROUP)[:, None] & (dims_qk < D_QK), other=0.0)
            if part < TILES:
                of_tile, overlap = tile_overlap(KEYS, PER_BLOCK, PER, SPAN // STRIDE, OVERLAPS)
                index = part * TILE_KEYS + of_tile
                k_rows = k_cmp + pair.to(tl.int64) * cmp_size * D_QK
                v_rows = v_cmp + pair.to(tl.int64) * cmp_size * D_V
                k_block = load_rows(k_rows, index, index < cmp_size, dims_qk, D_QK, D_QK_PADDED)
                v_block = load_rows(v_rows, index, index < cmp_size, dims_v, D_V, D_V_PADDED)
                num_keys = visible_keys(position, SPAN, STRIDE)  # from here on the length has to be known
                last_tile = (num_keys - 1) // TILE_KEYS
                if (part == last_tile) & (num_keys > visible_keys(position - 1, SPAN, STRIDE)):
                    wait_for_stamp(done + pair, stamp)
                    wait_for_stamp(done + pairs + pair, stamp)
                    k_block = load_rows(k_rows, index, index < num_keys, dims_qk, D_QK, D_QK_PADDED)
                    v_block = load_rows(v_rows, index, index < num_keys, dims_v, D_V, D_V_PADDED)
                inside = index < num_keys
                scores = tl.where(inside[None, :], product(q_block, tl.trans(k_block)), -float("inf"))
                row_max = tl.max(scores, axis=1)
                finite = tl.where(row_max == -float("inf"), 0.0, row_max)  # no key is inside
                weights = tl.exp2((scores - finite[:, None]) * scale_log2)
                credit = stamped(block_credits(weights, overlap, q_block.dtype == tl.float32), stamp)
                to_block = tl.arange(0, OVERLAPS)[None, :]
                tile = (rows * TILES + part)[:, None]
                is_head = (head < GROUP)[:, None]
                tl.store(
                    credits + tile * TILE_BLOCKS + to_block, credit, mask=is_head & (to_block < TILE_BLOCKS)
                )
                if EXTRA > 0:
                    spilled = (to_block >= TILE_BLOCKS) & (to_block < TILE_BLOCKS + EXTRA)
                    next_block = spills + tile * EXTRA + to_block - TILE_BLOCKS
                    tl.store(next_block, credit, mask=is_head & spilled)
                leave_sums(
                    row_max, tl.sum(weights, axis=1), statistics, pair * SUM + part, stamp, GROUP, ROWS
                )
                v_block = tl.where(inside[:, None], v_block, 0.0)  # there may be anything
                acc = product(weights.to(v_block.dtype), v_block)
                leave_numerator(acc, numerators, pair * SUM + part, stamp, GROUP, ROWS, D_V, D_V_PADDED)
            else:
                CHUNKS: tl.constexpr = (SELECT_BLOCK + KEYS - 1) // KEYS
                own = position // SELECT_BLOCK
                slot = tl.arange(0, LISTED)
                listed, forced = forced_blocks(own, INITIAL, LOCAL, LISTED)
                start = 0
                wrap = 0x7FFFFFFF
                total = 0
                begin = 0
                end = CHUNKS * forced
                k_rows = k_slc + pair.to(tl.int64) * capacity * D_QK
                v_rows = v_slc + pair.to(tl.int64) * capacity * D_V
                if part < FORCED:
                    k_rows = k_win + pair.to(tl.int64) * RING * D_QK
                    v_rows = v_win + pair.to(tl.int64) * RING * D_V
                    wrap = RING
                    start, total, begin, end = window_tiles(
                        position, part - TILES, WINDOW, RING, KEYS, WINDOW_PARTS
                    )
                    # Each piece: they are the same numbers, and only one reads them.
                    keep_token(new_k_win, k_win, pair, position, RING, D_QK, D_QK_PADDED)
                    keep_token(new_v_win, v_win, pair, position, RING, D_V, D_V_PADDED)
                elif part == FORCED:
                    keep_token(new_k_slc, k_slc, pair, position, capacity, D_QK, D_QK_PADDED)
                    keep_token(new_v_slc, v_slc, pair, position, capacity, D_V, D_V_PADDED)
                    keep_token(new_k_raw, k_raw, pair, position, raw_size, D_QK, D_QK_PADDED)
                    keep_token(new_v_raw, v_raw, pair, position, raw_size, D_V, D_V_PADDED)
                else:
                    each = (FREE + CHOSEN_PARTS - 1) // CHOSEN_PARTS
                    first = (part - FORCED - 1) * each
                    found = importance_when_there(
                        statistics, credits, spills, pair, pair * SUM, tl.maximum(own - LOCAL + 1, 0), stamp,
                        scale_log2, TILES, TILE_BLOCKS, EXTRA, INITIAL, GROUP, ROWS,
                    )  # fmt: skip
                    own_bits = bits + (pair * CHOSEN_PARTS + part - FORCED - 1) * CHUNK
                    tile = tl.arange(0, TILES)[:, None]
                    tl.store(own_bits + tile * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)[None, :], found)
                    tl.debug_barrier()  # every warp has stored
                    _, number = best_of_chunk(own_bits, 0, FREE, SLOTS, CHUNK // LANES)
                    taken = (slot < each) & (first + slot < FREE)
                    mine = tl.where(taken, first + slot, SLOTS)[:, None]
                    listed = tl.max(tl.where(tl.arange(0, SLOTS)[None, :] == mine, number, -1), axis=1)
                    tl.store(chosen + pair * FREE + first + slot, listed, mask=taken)
                    end = CHUNKS * tl.sum((listed >= 0).to(tl.int32), axis=0)
                tl.debug_barrier()  # every warp has stored its piece of the token
                row_max, row_sum, acc = attend_rows(
                    q_block, k_rows, v_rows, listed, part >= FORCED, start, total, begin, end, wrap, position,
                    scale_log2, ROWS, D_QK, D_QK_PADDED, D_V, D_V_PADDED, SELECT_BLOCK, KEYS, LISTED,
                )  # fmt: skip
                leave_numerator(acc, numerators, pair * SUM + part, stamp, GROUP, ROWS, D_V, D_V_PADDED)
                leave_sums(row_max, row_sum, statistics, pair * SUM + part, stamp, GROUP, ROWS)
        else:
            dims = (part - SUM) * SLICE + tl.arange(0, SLICE)
            gate_cmp = tl.load(gates + rows * 3, mask=head < GROUP, other=0.0).to(tl.float32)
            gate_slc = tl.load(gates + rows * 3 + 1, mask=head < GROUP, other=0.0).to(tl.float32)
            gate_win = tl.load(gates + rows * 3 + 2, mask=head < GROUP, other=0.0).to(tl.float32)
            result = sum_when_there(
                statistics, numerators, pair * SUM, gate_cmp, dims, stamp, scale_log2, TILES, SLICE, GROUP,
                ROWS, D_V,
            )  # fmt: skip
            result += sum_when_there(
                statistics, numerators, pair * SUM + TILES, gate_win, dims, stamp, scale_log2, WINDOW_PARTS,
                SLICE, GROUP, ROWS, D_V,
            )  # fmt: skip
            result += sum_when_there(
                statistics, numerators, pair * SUM + FORCED, gate_slc, dims, stamp, scale_log2,
                1 + CHOSEN_PARTS, SLICE, GROUP, ROWS, D_V,
            )  # fmt: skip
            inside = (head < GROUP)[:, None] & (dims < D_V)[None, :]
            tl.store(out + rows[:, None] * D_V + dims[None, :], result.to(out.dtype.element_ty), mask=inside)
            if (part == SUM) & (pair % hk == 0):
                tl.store(lengths + row, position + 1)
        tl.debug_barrier()  # every warp has read the length
        tl.store(own_length, position + 1)
    tl.debug_barrier()  # every warp has read the stamp
    tl.store(stamps + tl.program_id(0), stamp + 1)


MOST_TILES = 16


def short_cut(cache: NSACache) -> dict[str, int]:
    """Into how many tiles and programs a step of short rows is cut."""
    config = cache.config
    free = config.top_n - config.initial_blocks - config.local_blocks
    tile_blocks = scan_keys(cache) // power_of_two(config.select_block // config.compress_stride)
    tiles = chunk_of(config.num_selectable(cache.capacity), tile_blocks) // tile_blocks
    chosen_parts = max(1, triton.cdiv(free, 3))
    # A slice of all parts of a branch is loaded at once.
    columns = max(16, 128 // max(tiles, power_of_two(1 + chosen_parts)))
    return {
        "TILES": tiles,
        "WINDOW_PARTS": 2,
        "CHOSEN_PARTS": chosen_parts,
        "SLICE": min(columns, padded(cache.d_v)),
    }


def programs_of(cache: NSACache, cuts: dict[str, int]) -> int:
    """Programs of a step besides φ's."""
    slices = triton.cdiv(cache.d_v, cuts["SLICE"])
    each = cuts["TILES"] + cuts["WINDOW_PARTS"] + 1 + cuts["CHOSEN_PARTS"] + slices
    return cache.batch * cache.num_kv_heads * each


def one_chunk(cache: NSACache) -> bool:
    """Whether rows are short enough for `short_step_kernel`."""
    config, tiles = cache.config, short_cut(cache)["TILES"]
    blocks = scan_keys(cache) // power_of_two(config.select_block // config.compress_stride) * tiles
    return tiles <= MOST_TILES and config.num_selectable(cache.capacity) <= blocks


def fits(cache: NSACache) -> bool:
    """Whether a step of `cache` is best done by `short_step_kernel`: all of its programs run at once."""
    most = 3 * processors_of(cache.device)
    return one_chunk(cache) and programs_of(cache, short_cut(cache)) <= most


def step_copies(cache: NSACache) -> Tensor | None:
    """The lengths that the programs of `short_step_kernel` count, ``[programs, b]``, where it is used."""
    if "step" not in cache._length_copies and not fits(cache):
        return None
    return cache.length_copies("step", programs_of(cache, short_cut(cache)))
