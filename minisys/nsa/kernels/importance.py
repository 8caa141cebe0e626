"""Importance of selection blocks and the top n of them, in one kernel (equations 8 to 12).

    p = 2^(scale·log2(e)·q k_cmp - lse)      summed over the heads of a group, credited to blocks, top n taken

The compressed branch leaves lse, so the scores of a tile of keys become probabilities at once. A program
takes a few neighbouring tokens with all heads of a group, as columns, and walks over the compressed keys:
scores [keys, tokens·group], then the sum over the group, [keys, tokens]. That goes into scratch memory of the
program's own, at most tokens·tc numbers. When the tile is done the program reads the scratch back block by
block, adds up what the compressed blocks credit to each selection block, and keeps the n largest.

So no matrix of [t, t/d] is ever written. The grid is as large as the GPU and each program takes one tile
after another, so scratch is (programs)·(tokens of a tile)·tc numbers: linear in t, and mostly in the L2
cache.

Choice: initial and local blocks are always taken, blocks behind the query never, ties go to the earlier
block. A non-negative float32 sorts like its bits, so maxima are taken of 32-bit integers, which a warp
reduces in one instruction: first the largest importance, then the lowest number that has it.

Layout as in band.py; block numbers are int32 ``[tokens, hk, n]``, ascending, -1 where fewer blocks exist.

Cost: 2·d_qk FLOPs for each visible (query head, compressed key), half of what the compressed branch does.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.layout import Layout
from minisys.nsa.kernels.tiles import INTERPRETED, LOG2_E, boxes, is_hopper, padded, power_of_two, product

NONE = tl.constexpr(0x7FFFFFFF)  # larger than every block's number
LANES = tl.constexpr(32)  # of a warp


@triton.jit
@no_type_check
def group_weights(k_block, q_block, lse, scale_log2, TOKENS: tl.constexpr, GROUP_PADDED: tl.constexpr):
    """Probabilities of [keys, tokens·group] scores, summed over the group: [keys, tokens]."""
    weights = tl.exp2(product(k_block, tl.trans(q_block)) * scale_log2 - lse[None, :])
    return tl.sum(tl.reshape(weights, [k_block.shape[0], TOKENS, GROUP_PADDED]), axis=2)


@triton.jit(do_not_specialize=["num_tiles", "hk", "scratch_row"])
@no_type_check
def importance_kernel(
    q,
    k_cmp,
    lse,
    tiles,
    scratch,
    block_indices,
    scale_log2,
    num_tiles,
    hk,
    scratch_row,
    SPAN: tl.constexpr,
    STRIDE: tl.constexpr,
    SELECT_BLOCK: tl.constexpr,
    TOP_N: tl.constexpr,
    N_PADDED: tl.constexpr,
    INITIAL: tl.constexpr,
    LOCAL: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    D_PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    INNER: tl.constexpr,
):
    columns = tl.arange(0, TOKENS * GROUP_PADDED)
    place = columns // GROUP_PADDED
    head = columns % GROUP_PADDED
    key_rows = tl.arange(0, KEYS)
    token_rows = tl.arange(0, TOKENS)
    # A token's probabilities are kept by piece: those of every first piece of a selection block, of every
    # second one, … Then lanes that look at neighbouring blocks read neighbouring numbers.
    PIECES: tl.constexpr = SELECT_BLOCK // STRIDE
    own_scratch = scratch + tl.program_id(0).to(tl.int64) * TOKENS * PIECES * scratch_row
    scratch_token = token_rows[None, :] * (PIECES * scratch_row)

    for program in range(tl.program_id(0), num_tiles * hk, tl.num_programs(0)):
        tile = tiles + program // hk * 4
        kv_head = program % hk
        token = tl.load(tile)
        position = tl.load(tile + 1)
        count = tl.load(tile + 2)
        key_start = tl.load(tile + 3)

        # 1. Probabilities of the compressed keys, summed over the group.
        inside = (place < count) & (head < GROUP)
        row = place * (hk * GROUP) + head
        first_row = (token.to(tl.int64) * hk + kv_head) * GROUP
        q_block = tl.reshape(q.load([token, kv_head * GROUP, 0]), [TOKENS * GROUP_PADDED, D_PADDED])
        row_lse = tl.load(lse + first_row + row, mask=inside, other=float("inf"))  # 2^-inf: weighs nothing
        end = visible_keys(position + token_rows, SPAN, STRIDE)[None, :]
        last = visible_keys(position + count - 1, SPAN, STRIDE)
        full = visible_keys(position, SPAN, STRIDE) // KEYS * KEYS
        for first in range(0, full, KEYS):
            k_block = tl.reshape(k_cmp.load([key_start + first, kv_head, 0]), [KEYS, D_PADDED])
            weights = group_weights(k_block, q_block, row_lse, scale_log2, TOKENS, GROUP_PADDED)
            place_of_key = (first + key_rows) % PIECES * scratch_row + (first + key_rows) // PIECES
            tl.store(own_scratch + scratch_token + place_of_key[:, None], weights)
        for first in range(full, last, KEYS):
            keys = (first + key_rows)[:, None]
            k_block = tl.reshape(k_cmp.load([key_start + first, kv_head, 0]), [KEYS, D_PADDED])
            weights = group_weights(k_block, q_block, row_lse, scale_log2, TOKENS, GROUP_PADDED)
            weights = tl.where(keys < end, weights, 0.0)
            place_of_key = (first + key_rows) % PIECES * scratch_row + (first + key_rows) // PIECES
            tl.store(own_scratch + scratch_token + place_of_key[:, None], weights)
        tl.debug_barrier()  # the numbers of every warp are there

        # 2. The best of the blocks that are not forced: the best so far against INNER · 32 new ones a pass.
        # A warp has whole tokens: numbers of one lane are compared in registers, lanes in one instruction.
        FORCED: tl.constexpr = INITIAL + LOCAL
        own = ((position + token_rows) // SELECT_BLOCK)[:, None]
        slot = tl.arange(0, N_PADDED)[None, :]
        lane = tl.arange(0, LANES)[None, :]
        best = tl.full([TOKENS, N_PADDED], -1, tl.int32)
        number = tl.full([TOKENS, N_PADDED], -1, tl.int32)
        # Compressed block i is SPAN/STRIDE pieces long, and credits a block for each piece in it.
        LONG: tl.constexpr = SPAN // STRIDE
        # Where the forced blocks hide every piece that is not there, nothing has to be masked on load.
        HIDDEN: tl.constexpr = (INITIAL >= 1) & (PIECES >= LONG) & (PIECES * (LOCAL - 1) >= LONG - 1)
        token_scratch = own_scratch + token_rows[:, None] * (PIECES * scratch_row) + lane
        for first_block in range(0, (position + count - 1) // SELECT_BLOCK + 1, INNER * LANES):
            new = ()
            for inner in tl.static_range(INNER):
                block = lane + first_block + inner * LANES
                importance = tl.full([TOKENS, LANES], 0.0, tl.float32)
                for shift in tl.static_range(-(LONG - 1), PIECES):
                    piece = token_scratch + (first_block + shift % PIECES * scratch_row)
                    piece += inner * LANES + shift // PIECES
                    if HIDDEN:
                        found = tl.load(piece)
                    else:
                        key = block * PIECES + shift
                        found = tl.load(piece, mask=(key >= 0) & (key < last), other=0.0)
                    importance += (min(shift + LONG, PIECES) - max(shift, 0)) * found
                # The bits of a number that is not negative order as it does. The last ones name its place in
                # the lane instead: no two numbers of a lane are equal, and the earlier block is the larger.
                bits = (importance.to(tl.int32, bitcast=True) | (INNER - 1)) - inner
                bits = tl.where((block >= INITIAL) & (block <= own - LOCAL), bits, -1)
                new = new + (bits,)  # noqa: RUF005 (Triton does not know *)
            merged = tl.full([TOKENS, N_PADDED], -1, tl.int32)
            merged_number = tl.full([TOKENS, N_PADDED], -1, tl.int32)
            for i in range(FORCED, TOP_N):
                of_lane = new[0]
                for inner in tl.static_range(1, INNER):
                    of_lane = tl.maximum(of_lane, new[inner])
                top = tl.maximum(tl.max(of_lane, axis=1), tl.max(best, axis=1))[:, None]
                named = lane + first_block + (INNER - 1 - (top & (INNER - 1))) * LANES
                chosen = tl.minimum(
                    tl.min(tl.where(of_lane == top, named, NONE), axis=1),
                    tl.min(tl.where(best == top, number, NONE), axis=1),
                )[:, None]
                merged = tl.where(slot == i, top, merged)
                merged_number = tl.where(slot == i, chosen, merged_number)
                left = ()
                for inner in tl.static_range(INNER):
                    taken = lane + first_block + inner * LANES == chosen
                    left = left + (tl.where(taken, -1, new[inner]),)  # noqa: RUF005
                new = left
                best = tl.where(number == chosen, -1, best)
            best = merged | (INNER - 1)  # an earlier block wins a tie; -1 stays
            number = merged_number

        # 3. The forced ones join them: first the initial blocks, then the local ones that are none of those.
        number = tl.where(slot < FORCED, own - (slot - INITIAL), number)
        number = tl.where(slot < INITIAL, slot, number)
        taken = tl.where(slot < FORCED, number >= INITIAL, best >= 0)
        taken = tl.where(slot < INITIAL, slot <= own, taken)
        number = tl.where(taken, number, NONE)

        # 4. In rising order: a number goes to the place that as many smaller ones leave it.
        smaller = (number[:, None, :] < number[:, :, None]) | (
            (number[:, None, :] == number[:, :, None]) & (slot[:, None, :] < slot[:, :, None])
        )
        rank = tl.sum(smaller.to(tl.int32), axis=2)
        target = (
            block_indices
            + (token.to(tl.int64) * hk + kv_head) * TOP_N
            + token_rows[:, None] * (hk * TOP_N)
            + rank
        )
        tl.store(
            target,
            tl.where(number < NONE, number, -1),
            mask=(token_rows[:, None] < count) & (rank < TOP_N),
        )
        tl.debug_barrier()  # nobody reads the scratch any more


def launch_options(dtype: torch.dtype, d: int, hopper: bool = True) -> dict:
    """Columns (tokens · group) and keys of a tile, numbers of a lane that the choice looks at together,
    warps, pipeline depth, programs for each multiprocessor, and registers of a thread, so that they fit."""
    if dtype == torch.float32:
        return {"COLUMNS": 64, "KEYS": 16, "INNER": 16, "num_warps": 4, "num_stages": 1, "PER_SM": 2}
    if not hopper:
        return {"COLUMNS": 64, "KEYS": 32, "INNER": 4, "num_warps": 4, "num_stages": 2, "PER_SM": 2}
    options = {"COLUMNS": 128, "KEYS": 64, "INNER": 16, "num_warps": 4, "num_stages": 3}
    return options | ({"PER_SM": 3, "maxnreg": 168} if d <= 128 else {"PER_SM": 1})


def top_blocks_forward(
    q: Float[Tensor, "tokens hq d_qk"],
    k_cmp: Float[Tensor, "keys hk d_qk"],
    lse: Float[Tensor, "tokens hq"],
    layout: Layout,
    scale: float,
    options: dict | None = None,
) -> Int[Tensor, "tokens hk n"]:
    """Block numbers of every token, from contiguous tensors and the lse of the compressed branch; `options`
    replace the tuned ones."""
    tokens, hq, d = q.shape
    hk, config = k_cmp.shape[1], layout.config
    group = hq // hk
    group_padded = power_of_two(group)
    options = launch_options(q.dtype, padded(d), is_hopper(q.device)) | (options or {})
    tile_tokens = max(1, options.pop("COLUMNS") // group_padded)
    per_sm = options.pop("PER_SM")
    # A short sequence is done in one pass of fewer numbers; 4096 of a program fit in its registers.
    most = options["INNER"] if config.num_selectable(layout.longest) > 128 else 4
    options["INNER"] = max(1, min(most, 128 // tile_tokens))
    tiles = layout.tiles(tile_tokens)
    processors = 1 if INTERPRETED else torch.cuda.get_device_properties(q.device).multi_processor_count
    programs = min(len(tiles) * hk, processors * per_sm)
    # Stores of a tile may run over the last key, up to a whole tile of keys, and loads over the last block:
    # what lies there is not used, but has to be a number.
    pieces, looked_at = config.select_block // config.compress_stride, 32 * options["INNER"]
    scratch_row = -(-(config.num_compressed(layout.longest) + options["KEYS"]) // pieces)
    scratch_row = -(-scratch_row // looked_at) * looked_at
    scratch = torch.zeros(programs, tile_tokens, pieces, scratch_row, dtype=torch.float32, device=q.device)
    block_indices = torch.empty(tokens, hk, config.top_n, dtype=torch.int32, device=q.device)
    with torch.cuda.device_of(q):
        importance_kernel[(programs,)](
            boxes(q, tile_tokens, group_padded), boxes(k_cmp, options["KEYS"]), lse, tiles, scratch,
            block_indices, scale * LOG2_E, len(tiles), hk, scratch_row,
            SPAN=config.compress_block, STRIDE=config.compress_stride, SELECT_BLOCK=config.select_block,
            TOP_N=config.top_n, N_PADDED=max(32, power_of_two(config.top_n)),
            INITIAL=config.initial_blocks, LOCAL=config.local_blocks,
            GROUP=group, GROUP_PADDED=group_padded, D_PADDED=padded(d), TOKENS=tile_tokens,
            **options,
        )  # fmt: skip
    return block_indices
