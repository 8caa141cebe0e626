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
from minisys.nsa.kernels.decode_scan import block_credits, tile_overlap
from minisys.nsa.kernels.decode_stamped import (
    announce,
    importance_when_there,
    leave_numerator,
    leave_sums,
    stamped,
    sum_when_there,
    wait_for_announced,
)
from minisys.nsa.kernels.importance import LANES
from minisys.nsa.kernels.tiles import attend_tile, padded, power_of_two, prefetch_rows, product


@triton.jit
@no_type_check
def keep_token(new, store, pair, position, size, D: tl.constexpr, D_PADDED: tl.constexpr):
    """The new token of a head, [D_PADDED], from the input into a ring, or a row, of `size` tokens."""
    dims = tl.arange(0, D_PADDED)
    x = tl.load(new + pair * D + dims, mask=dims < D, other=0.0)
    tl.store(store + (pair.to(tl.int64) * size + position % size) * D + dims, x, mask=dims < D)
    return x


@triton.jit
@no_type_check
def one_key(q_block, k, v, is_read):
    """Attention to one key [D_QK_PADDED] and value [D_V_PADDED]: (row maxima, row sums, numerator)."""
    scores = tl.sum(q_block.to(tl.float32) * k.to(tl.float32)[None, :], axis=1)
    row_max = tl.where(is_read, scores, -float("inf"))
    row_sum = tl.where(is_read, scores * 0 + 1.0, 0.0)
    return row_max, row_sum, row_sum[:, None] * v.to(tl.float32)[None, :]


@triton.jit
@no_type_check
def wait_for_stamp(place, stamp):
    while tl.atomic_add(place, 0, sem="acquire") != stamp:
        pass


@triton.jit
@no_type_check
def load_tile(box, pair, first, KEYS: tl.constexpr, D_PADDED: tl.constexpr):
    """Tokens `first` … `first` + KEYS - 1 of a head."""
    return tl.reshape(box.load([pair, first, 0]), [KEYS, D_PADDED])


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
    WINDOW: tl.constexpr, RING: tl.constexpr, KEYS: tl.constexpr,
    TILE_BLOCKS: tl.constexpr, EXTRA: tl.constexpr, OVERLAPS: tl.constexpr, TILES: tl.constexpr,
    WINDOW_PARTS: tl.constexpr, CHOSEN_PARTS: tl.constexpr, SLICE: tl.constexpr, SLOTS: tl.constexpr,
    LISTED: tl.constexpr, DEPTH: tl.constexpr, PREFETCH: tl.constexpr, K_HIDDEN: tl.constexpr, V_HIDDEN: tl.constexpr,
    ROTATE: tl.constexpr, BATCH: tl.constexpr, PHI_ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PIECES: tl.constexpr, M_PROGRAMS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    FORCED: tl.constexpr = TILES + WINDOW_PARTS
    SUM: tl.constexpr = FORCED + 1 + CHOSEN_PARTS
    pairs = b * hk
    program = tl.program_id(0) - phi_programs
    later = program - pairs * TILES
    pair = tl.where(later < 0, program // TILES, later % pairs)
    part = tl.where(later < 0, program % TILES, TILES + later // pairs)
    own_length = own_lengths + program * b + pair // hk
    column = tl.arange(0, KEYS)
    if DEPENDENT:
        if PREFETCH:
            if program >= 0:
                one = tl.arange(0, 1)
                prefetch_rows(own_length, one, one == 0, 1, 1)
                prefetch_rows(stamps + tl.program_id(0), one, one == 0, 1, 1)
                if part < TILES:
                    index = part * KEYS + column
                    index_64 = pair.to(tl.int64) * cmp_size + index
                    prefetch_rows(k_cmp, index_64, index < cmp_size, D_QK, D_QK_PADDED)
                    prefetch_rows(v_cmp, index_64, index < cmp_size, D_V, D_V_PADDED)
                elif part < FORCED:
                    for tile in tl.range(part - TILES, (RING + KEYS - 1) // KEYS, WINDOW_PARTS, num_stages=1):
                        index = tile * KEYS + column
                        prefetch_rows(k_win, pair.to(tl.int64) * RING + index, index < RING, D_QK, D_QK_PADDED)
                        prefetch_rows(v_win, pair.to(tl.int64) * RING + index, index < RING, D_V, D_V_PADDED)
                elif part == FORCED:
                    index = column
                    prefetch_rows(k_slc, pair.to(tl.int64) * capacity + index, index < capacity, D_QK, D_QK_PADDED)
                    prefetch_rows(v_slc, pair.to(tl.int64) * capacity + index, index < capacity, D_V, D_V_PADDED)
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
        CHUNK: tl.constexpr = TILES * TILE_BLOCKS
        PER_BLOCK: tl.constexpr = SELECT_BLOCK // STRIDE
        CHUNKS: tl.constexpr = (SELECT_BLOCK + KEYS - 1) // KEYS
        row = pair // hk
        position = tl.load(own_length)
        head = tl.arange(0, ROWS)
        rows = pair * GROUP + head
        counters += pair * 3

        if part < SUM:
            dims_qk = tl.arange(0, D_QK_PADDED)
            dims_v = tl.arange(0, D_V_PADDED)
            q_rows = q + rows[:, None] * D_QK + dims_qk[None, :]
            if GROUP == ROWS and D_QK == D_QK_PADDED:
                q_block = tl.load(q_rows)
            else:
                q_block = tl.load(q_rows, mask=(head < GROUP)[:, None] & (dims_qk < D_QK)[None, :], other=0.0)
            if part < TILES:
                k_block = load_tile(k_cmp_box, pair, part * KEYS, KEYS, D_QK_PADDED)
                scores = product(q_block, tl.trans(k_block))
                index = part * KEYS + column
                num_keys = visible_keys(position, SPAN, STRIDE)
                held = visible_keys(position - 1, SPAN, STRIDE)
                inside = index < held
                scores = tl.where(inside[None, :], scores, -float("inf"))
                # The key that the new token completes: φ's programs hand it over.
                has_new = (held < num_keys) & (held // KEYS == part)
                new_row = (pair.to(tl.int64) * cmp_size + held)
                new_score = tl.zeros([ROWS], tl.float32)
                if has_new:
                    wait_for_stamp(done + pair, stamp)
                    k = tl.load(k_cmp + new_row * D_QK + dims_qk, mask=dims_qk < D_QK, other=0.0)
                    new_score = tl.sum(q_block.to(tl.float32) * k.to(tl.float32)[None, :], axis=1)
                    scores = tl.where((index == held)[None, :], new_score[:, None], scores)
                row_max = tl.max(scores, axis=1)
                finite = tl.where(row_max == -float("inf"), 0.0, row_max)  # no key is inside
                weights = tl.exp2((scores - finite[:, None]) * scale_log2)
                _, overlap = tile_overlap(KEYS, PER_BLOCK, PER_BLOCK, SPAN // STRIDE, OVERLAPS)
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
                row_sum = tl.sum(weights, axis=1)
                leave_sums(row_max, row_sum, statistics, pair * SUM + part, stamp, GROUP, ROWS)
                announce(counters)
                v_block = load_tile(v_cmp_box, pair, part * KEYS, KEYS, D_V_PADDED)
                v_block = tl.where(inside[:, None], v_block, 0.0)  # there may be anything
                acc = product(weights.to(v_block.dtype), v_block)
                if has_new:
                    wait_for_stamp(done + pairs + pair, stamp)
                    v = tl.load(v_cmp + new_row * D_V + dims_v, mask=dims_v < D_V, other=0.0)
                    weight = tl.exp2((new_score - finite) * scale_log2)
                    acc += weight[:, None] * v.to(tl.float32)[None, :]
                leave_numerator(acc, numerators, pair * SUM + part, stamp, GROUP, ROWS, D_V, D_V_PADDED)
                announce(counters + 1)
            elif part < FORCED:
                k = keep_token(new_k_win, k_win, pair, position, RING, D_QK, D_QK_PADDED)
                v = keep_token(new_v_win, v_win, pair, position, RING, D_V, D_V_PADDED)
                row_max, row_sum, acc = one_key(q_block, k, v, part == TILES)
                for tile in tl.range(part - TILES, (RING + KEYS - 1) // KEYS, WINDOW_PARTS, num_stages=DEPTH):
                    place = tile * KEYS + column
                    age = position % RING - place
                    age = tl.where(age < 0, age + RING, age)
                    seen = (age > 0) & (age < tl.minimum(WINDOW, position + 1)) & (place < RING)
                    k_block = load_tile(k_win_box, pair, tile * KEYS, KEYS, D_QK_PADDED)
                    v_block = load_tile(v_win_box, pair, tile * KEYS, KEYS, D_V_PADDED)
                    v_block = tl.where(seen[:, None], v_block, 0.0)
                    row_max, row_sum, acc = attend_tile(
                        q_block, k_block, v_block, seen[None, :], row_max, row_sum, acc, scale_log2
                    )
                leave_numerator(acc, numerators, pair * SUM + part, stamp, GROUP, ROWS, D_V, D_V_PADDED)
                leave_sums(row_max, row_sum, statistics, pair * SUM + part, stamp, GROUP, ROWS)
                announce(counters + 1)
            elif part == FORCED:
                k = keep_token(new_k_slc, k_slc, pair, position, capacity, D_QK, D_QK_PADDED)
                v = keep_token(new_v_slc, v_slc, pair, position, capacity, D_V, D_V_PADDED)
                keep_token(new_k_raw, k_raw, pair, position, raw_size, D_QK, D_QK_PADDED)
                keep_token(new_v_raw, v_raw, pair, position, raw_size, D_V, D_V_PADDED)
                row_max, row_sum, acc = one_key(q_block, k, v, True)
                own = position // SELECT_BLOCK
                initial = tl.minimum(own + 1, INITIAL)
                count = initial + tl.maximum(tl.minimum(own + 1 - initial, LOCAL), 0)
                for step in tl.range(0, CHUNKS * count, num_stages=DEPTH):
                    listed = step // CHUNKS
                    offset = step % CHUNKS * KEYS
                    block = tl.where(listed < initial, listed, own - (listed - initial))
                    first = block * SELECT_BLOCK + offset
                    seen = column < tl.minimum(SELECT_BLOCK - offset, position - first)
                    k_block = load_tile(k_slc_box, pair, first, KEYS, D_QK_PADDED)
                    v_block = load_tile(v_slc_box, pair, first, KEYS, D_V_PADDED)
                    v_block = tl.where(seen[:, None], v_block, 0.0)
                    row_max, row_sum, acc = attend_tile(
                        q_block, k_block, v_block, seen[None, :], row_max, row_sum, acc, scale_log2
                    )
                leave_numerator(acc, numerators, pair * SUM + part, stamp, GROUP, ROWS, D_V, D_V_PADDED)
                leave_sums(row_max, row_sum, statistics, pair * SUM + part, stamp, GROUP, ROWS)
                announce(counters + 2)
            else:
                slot = tl.arange(0, LISTED)
                each = (FREE + CHOSEN_PARTS - 1) // CHOSEN_PARTS
                first_slot = (part - FORCED - 1) * each
                wait_for_announced(counters, TILES * stamp)
                found = importance_when_there(
                    statistics, credits, spills, pair, pair * SUM,
                    tl.maximum(position // SELECT_BLOCK - LOCAL + 1, 0), stamp, scale_log2, TILES,
                    TILE_BLOCKS, EXTRA, INITIAL, GROUP, ROWS,
                )  # fmt: skip
                own_bits = bits + (pair * CHOSEN_PARTS + part - FORCED - 1) * CHUNK
                of_tile = tl.arange(0, TILES)[:, None] * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)[None, :]
                tl.store(own_bits + of_tile, found)
                tl.debug_barrier()  # every warp has stored
                _, number = best_of_chunk(own_bits, 0, FREE, SLOTS, CHUNK // LANES)
                taken = (slot < each) & (first_slot + slot < FREE)
                mine = tl.where(taken, first_slot + slot, SLOTS)[:, None]
                listed = tl.max(tl.where(tl.arange(0, SLOTS)[None, :] == mine, number, -1), axis=1)
                tl.store(chosen + pair * FREE + first_slot + slot, listed, mask=taken)
                row_max = tl.full([ROWS], -float("inf"), tl.float32)
                row_sum = tl.full([ROWS], 0.0, tl.float32)
                acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
                for step in tl.range(0, CHUNKS * tl.sum((listed >= 0).to(tl.int32), axis=0), num_stages=DEPTH):
                    offset = step % CHUNKS * KEYS
                    first = tl.sum(tl.where(slot == step // CHUNKS, listed, 0), axis=0) * SELECT_BLOCK + offset
                    k_block = load_tile(k_slc_box, pair, first, KEYS, D_QK_PADDED)
                    v_block = load_tile(v_slc_box, pair, first, KEYS, D_V_PADDED)
                    if SELECT_BLOCK % KEYS == 0:
                        row_max, row_sum, acc = attend_tile(
                            q_block, k_block, v_block, None, row_max, row_sum, acc, scale_log2
                        )
                    else:
                        seen = column < SELECT_BLOCK - offset
                        v_block = tl.where(seen[:, None], v_block, 0.0)
                        row_max, row_sum, acc = attend_tile(
                            q_block, k_block, v_block, seen[None, :], row_max, row_sum, acc, scale_log2
                        )
                leave_numerator(acc, numerators, pair * SUM + part, stamp, GROUP, ROWS, D_V, D_V_PADDED)
                leave_sums(row_max, row_sum, statistics, pair * SUM + part, stamp, GROUP, ROWS)
                announce(counters + 2)
        else:
            dims = (part - SUM) * SLICE + tl.arange(0, SLICE)
            gate_cmp = tl.load(gates + rows * 3, mask=head < GROUP, other=0.0).to(tl.float32)
            gate_slc = tl.load(gates + rows * 3 + 1, mask=head < GROUP, other=0.0).to(tl.float32)
            gate_win = tl.load(gates + rows * 3 + 2, mask=head < GROUP, other=0.0).to(tl.float32)
            wait_for_announced(counters + 1, (TILES + WINDOW_PARTS) * stamp)
            result = sum_when_there(
                statistics, numerators, pair * SUM, gate_cmp, dims, stamp, scale_log2, TILES, SLICE, GROUP,
                ROWS, D_V,
            )  # fmt: skip
            result += sum_when_there(
                statistics, numerators, pair * SUM + TILES, gate_win, dims, stamp, scale_log2, WINDOW_PARTS,
                SLICE, GROUP, ROWS, D_V,
            )  # fmt: skip
            wait_for_announced(counters + 2, (1 + CHOSEN_PARTS) * stamp)
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
        "WINDOW_PARTS": 4,
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
    per_block = config.select_block // config.compress_stride
    blocks = scan_keys(cache) // power_of_two(per_block) * tiles
    whole = per_block == power_of_two(per_block)  # a tile of compressed keys is one box
    boxes = all(size * cache.dtype.itemsize % 16 == 0 for size in (cache.d_qk, cache.d_v))
    return whole and boxes and tiles <= MOST_TILES and config.num_selectable(cache.capacity) <= blocks


def fits(cache: NSACache) -> bool:
    """Whether a step of `cache` is best done by `short_step_kernel`: all of its programs run at once."""
    most = 3 * processors_of(cache.device)
    return one_chunk(cache) and programs_of(cache, short_cut(cache)) <= most


def step_copies(cache: NSACache) -> Tensor | None:
    """The lengths that the programs of `short_step_kernel` count, ``[programs, b]``, where it is used."""
    if "step" not in cache._length_copies and not fits(cache):
        return None
    return cache.length_copies("step", programs_of(cache, short_cut(cache)))
