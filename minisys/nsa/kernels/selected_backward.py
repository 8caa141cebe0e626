"""Gradients of the selected branch: dq token by token, dk and dv block by block over lists of queries.

dq reads what the forward reads: one program has a tile of tokens with their group of heads and walks over the
tile's blocks.

dk and dv turn the choice around (lists.py). A program keeps one block's keys and values, gathers the queries
of the block's list a few tokens at a time, with all heads of the group as rows, and never adds to memory that
another program writes. A long list is cut into stretches, each with a float32 buffer, which are added in
order. So two runs agree bit for bit, and the workspace is linear in the sequence: the lists hold t·hk·n
numbers, and there are at most t·n/STRETCH + t/l' buffers of l' keys and values for each key/value head.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from minisys.nsa.kernels.layout import Layout
from minisys.nsa.kernels.lists import merged_lists, query_lists
from minisys.nsa.kernels.selected import tile_options
from minisys.nsa.kernels.tiles import (
    LOG2_E,
    backward_tile_keys,
    backward_tile_queries,
    boxes,
    is_hopper,
    padded,
    power_of_two,
    shared_memory,
    tile_rows,
)

STRETCH = 2048  # tokens that one program gathers at most


@triton.jit(do_not_specialize=["num_tiles", "hk"])
@no_type_check
def selected_dq_kernel(
    q,
    k,
    v,
    do,
    lse,
    delta,
    gates,
    tiles,
    codes,
    counts,
    dq,
    scale,
    scale_log2,
    num_tiles,
    hk,
    CODES: tl.constexpr,
    D_QK: tl.constexpr,
    D_V: tl.constexpr,
    D_QK_PADDED: tl.constexpr,
    D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    SELECT_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    tile_number = tl.program_id(0) % num_tiles
    kv_head = tl.program_id(0) // num_tiles
    tile = tiles + tile_number * 4
    token, position, _, place, inside, first_row, row = tile_rows(
        tile, kv_head, hk, GROUP, GROUP_PADDED, ROWS
    )
    row += first_row
    tile_codes = codes + (tile_number.to(tl.int64) * hk + kv_head) * CODES
    num_codes = tl.load(counts + (tile_number * hk + kv_head) * 2)
    num_past = tl.load(counts + (tile_number * hk + kv_head) * 2 + 1)
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    q_stored = inside[:, None] & (dims_qk < D_QK)
    q_block = tl.load(q + row[:, None] * D_QK + dims_qk, mask=q_stored, other=0.0)
    do_block = tl.load(do + row[:, None] * D_V + dims_v, mask=inside[:, None] & (dims_v < D_V), other=0.0)
    row_lse = tl.load(lse + row, mask=inside, other=float("inf"))
    row_delta = tl.load(delta + row, mask=inside, other=0.0)

    CHUNKS: tl.constexpr = (SELECT_BLOCK + CHUNK - 1) // CHUNK
    column = tl.arange(0, CHUNK)
    acc = tl.full([ROWS, D_QK_PADDED], 0.0, tl.float32)
    for step in range(num_past * CHUNKS):
        code = tl.load(tile_codes + step // CHUNKS)
        offset = step % CHUNKS * CHUNK
        first = (code >> TOKENS) * SELECT_BLOCK + offset
        k_block = tl.reshape(k.load([token - position + first, kv_head, 0]), [CHUNK, D_QK_PADDED])
        v_block = tl.reshape(v.load([token - position + first, kv_head, 0]), [CHUNK, D_V_PADDED])
        visible = None
        if SELECT_BLOCK % CHUNK != 0:
            visible = (offset + column < SELECT_BLOCK)[None, :]
        seen_lse = tl.where(((code >> place) & 1) != 0, row_lse, float("inf"))  # 2^-inf: weighs nothing
        acc = backward_tile_queries(
            q_block, k_block, v_block, do_block, visible, seen_lse, row_delta, acc, scale_log2
        )
    for step in range(num_past * CHUNKS, num_codes * CHUNKS):
        code = tl.load(tile_codes + step // CHUNKS)
        offset = step % CHUNKS * CHUNK
        first = (code >> TOKENS) * SELECT_BLOCK + offset
        k_block = tl.reshape(k.load([token - position + first, kv_head, 0]), [CHUNK, D_QK_PADDED])
        v_block = tl.reshape(v.load([token - position + first, kv_head, 0]), [CHUNK, D_V_PADDED])
        visible = (((code >> place) & 1) != 0)[:, None] & (
            first + column[None, :] <= (position + place)[:, None]
        )
        if SELECT_BLOCK % CHUNK != 0:
            visible = visible & (offset + column < SELECT_BLOCK)[None, :]
        acc = backward_tile_queries(
            q_block, k_block, v_block, do_block, visible, row_lse, row_delta, acc, scale_log2
        )
    acc *= (tl.load(gates + row, mask=inside, other=0.0) * scale)[:, None]
    tl.store(dq + row[:, None] * D_QK + dims_qk, acc.to(dq.dtype.element_ty), mask=q_stored)


@triton.jit(do_not_specialize=["hk"])
@no_type_check
def selected_dkv_kernel(
    q,
    k,
    v,
    do,
    lse,
    delta,
    gates,
    listed,
    list_starts,
    stretch_blocks,
    stretch_starts,
    blocks,
    positions,
    dk,
    dv,
    scale,
    scale_log2,
    hk,
    D_QK: tl.constexpr,
    D_V: tl.constexpr,
    D_QK_PADDED: tl.constexpr,
    D_V_PADDED: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    SELECT_BLOCK: tl.constexpr,
    STRETCH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    TOKENS: tl.constexpr = ROWS // GROUP_PADDED
    stretch = tl.program_id(0)
    listing = tl.load(stretch_blocks + stretch)  # number of the list: block · hk + head; -1 for no work
    if listing < 0:
        return
    kv_head = listing % hk
    block = blocks + listing // hk * 3
    offset = tl.program_id(1) * CHUNK
    key = tl.load(block).to(tl.int64) + offset
    first = tl.load(block + 1) + offset
    count = tl.minimum(tl.load(block + 2), SELECT_BLOCK) - offset
    begin = tl.load(list_starts + listing)
    begin += (stretch - tl.load(stretch_starts + listing)) * STRETCH
    end = tl.minimum(begin + STRETCH, tl.load(list_starts + listing + 1))

    column = tl.arange(0, CHUNK)
    exists = ((column < count) & (offset + column < SELECT_BLOCK))[:, None]
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    k_tile = k + (key * hk + kv_head) * D_QK + (column[:, None] * (hk * D_QK) + dims_qk)
    v_tile = v + (key * hk + kv_head) * D_V + (column[:, None] * (hk * D_V) + dims_v)
    k_block = tl.load(k_tile, mask=exists & (dims_qk < D_QK), other=0.0)
    v_block = tl.load(v_tile, mask=exists & (dims_v < D_V), other=0.0)

    rows = tl.arange(0, ROWS)
    place = rows // GROUP_PADDED
    head = rows % GROUP_PADDED
    dk_block = tl.full([CHUNK, D_QK_PADDED], 0.0, tl.float32)
    dv_block = tl.full([CHUNK, D_V_PADDED], 0.0, tl.float32)
    # Lists rise, so the block's own tokens, which do not see all of it, come first in the first stretch.
    bulk = begin
    if begin == tl.load(list_starts + listing):
        bulk = tl.minimum(begin + (SELECT_BLOCK + TOKENS - 1) // TOKENS * TOKENS, end)
    for entry in range(begin, bulk, TOKENS):
        inside = (entry + place < end) & (head < GROUP)
        token = tl.load(listed + entry + place, mask=inside, other=0).to(tl.int64)
        position = tl.load(positions + token * 2, mask=inside, other=0)
        row = (token * hk + kv_head) * GROUP + head
        q_block = tl.load(
            q + row[:, None] * D_QK + dims_qk, mask=inside[:, None] & (dims_qk < D_QK), other=0.0
        )
        do_block = tl.load(do + row[:, None] * D_V + dims_v, mask=inside[:, None] & (dims_v < D_V), other=0.0)
        row_lse = tl.load(lse + row, mask=inside, other=float("inf"))
        row_delta = tl.load(delta + row, mask=inside, other=0.0)
        row_gate = tl.load(gates + row, mask=inside, other=0.0)
        visible = (first + column)[:, None] <= position[None, :]
        dk_block, dv_block = backward_tile_keys(
            q_block, k_block, v_block, do_block, visible, row_lse, row_delta, row_gate,
            dk_block, dv_block, scale_log2,
        )  # fmt: skip
    for entry in range(bulk, end, TOKENS):
        inside = (entry + place < end) & (head < GROUP)
        token = tl.load(listed + entry + place, mask=inside, other=0).to(tl.int64)
        row = (token * hk + kv_head) * GROUP + head
        q_block = tl.load(
            q + row[:, None] * D_QK + dims_qk, mask=inside[:, None] & (dims_qk < D_QK), other=0.0
        )
        do_block = tl.load(do + row[:, None] * D_V + dims_v, mask=inside[:, None] & (dims_v < D_V), other=0.0)
        row_lse = tl.load(lse + row, mask=inside, other=float("inf"))
        row_delta = tl.load(delta + row, mask=inside, other=0.0)
        row_gate = tl.load(gates + row, mask=inside, other=0.0)
        dk_block, dv_block = backward_tile_keys(
            q_block, k_block, v_block, do_block, None, row_lse, row_delta, row_gate,
            dk_block, dv_block, scale_log2,
        )  # fmt: skip

    place_in_buffer = stretch.to(tl.int64) * SELECT_BLOCK + offset + column[:, None]
    written = offset + column[:, None] < SELECT_BLOCK
    tl.store(dk + place_in_buffer * D_QK + dims_qk, dk_block * scale, mask=written & (dims_qk < D_QK))
    tl.store(dv + place_in_buffer * D_V + dims_v, dv_block, mask=written & (dims_v < D_V))


@triton.jit(do_not_specialize=["hk"])
@no_type_check
def add_stretches_kernel(
    parts,
    out,
    stretch_starts,
    blocks,
    hk,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    SELECT_BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    listing = tl.program_id(0)
    kv_head = listing % hk
    block = blocks + listing // hk * 3
    column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)[:, None]
    dims = tl.arange(0, D_PADDED)[None, :]
    stored = (column < tl.load(block + 2)) & (dims < D)
    acc = tl.full([CHUNK, D_PADDED], 0.0, tl.float32)
    begin = tl.load(stretch_starts + listing)
    part = parts + (begin.to(tl.int64) * SELECT_BLOCK + column) * D + dims
    for _ in range(begin, tl.load(stretch_starts + listing + 1)):
        acc += tl.load(part, mask=stored, other=0.0)
        part += SELECT_BLOCK * D
    key = tl.load(block).to(tl.int64) + column
    tl.store(out + (key * hk + kv_head) * D + dims, acc.to(out.dtype.element_ty), mask=stored)


def dkv_options(
    dtype: torch.dtype, select_block: int, d_qk: int, d_v: int, memory: int, hopper: bool = True
) -> dict:
    """Rows and keys of a tile of `selected_dkv_kernel`, warps and pipeline depth."""
    if dtype == torch.float32:
        return {"ROWS": 32, "CHUNK": 16, "num_warps": 4, "num_stages": 1}
    rows, chunk = 32, min(64, padded(select_block))
    bytes_of = lambda stages: 2 * (chunk + stages * rows) * (d_qk + d_v)
    while bytes_of(2) > memory:
        rows = rows // 2
    return {"ROWS": rows, "CHUNK": chunk, "num_warps": 4 if hopper else 8, "num_stages": 2}


def selected_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    lse: Tensor,
    delta: Tensor,
    gates: Tensor,
    block_indices: Tensor,
    dq: Tensor,
    layout: Layout,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(dk, dv) of the selected branch; its part of dq is written to `dq`."""
    hq, d_qk = q.shape[1:]
    hk, d_v = v.shape[1:]
    group, n, select_block = hq // hk, block_indices.shape[2], layout.config.select_block
    group_padded = power_of_two(group)
    d_qk_padded, d_v_padded, memory = padded(d_qk), padded(d_v), shared_memory(q.device)
    hopper = is_hopper(q.device)
    shared = dict(
        GROUP=group, GROUP_PADDED=group_padded, SELECT_BLOCK=select_block,
        D_QK=d_qk, D_V=d_v, D_QK_PADDED=d_qk_padded, D_V_PADDED=d_v_padded,
    )  # fmt: skip
    positions, blocks = layout.positions(), layout.blocks()
    with torch.cuda.device_of(q):
        # The gradients of the outputs stay in shared memory beside the queries.
        options = tile_options(
            q.dtype, group, n, layout, d_qk_padded, d_v_padded, memory, extra_rows=d_v_padded, hopper=hopper
        )
        tiles = layout.tiles(options["TOKENS"])
        codes, counts = merged_lists(block_indices, layout, options["TOKENS"])
        selected_dq_kernel[(len(tiles) * hk,)](
            q, boxes(k, options["CHUNK"]), boxes(v, options["CHUNK"]), do, lse, delta, gates, tiles,
            codes, counts, dq, scale, scale * LOG2_E, len(tiles), hk, CODES=codes.shape[2],
            **shared, **options,
        )  # fmt: skip
        listed, list_starts, stretch_lists, stretch_starts = query_lists(block_indices, layout, STRETCH)
        options = dkv_options(q.dtype, select_block, d_qk_padded, d_v_padded, memory, hopper)
        options["ROWS"] = max(options["ROWS"], group_padded)
        chunks = triton.cdiv(select_block, options["CHUNK"])
        most = len(stretch_lists)
        dk_parts = torch.empty(most, select_block, d_qk, dtype=torch.float32, device=q.device)
        dv_parts = torch.empty(most, select_block, d_v, dtype=torch.float32, device=q.device)
        selected_dkv_kernel[(most, chunks)](
            q, k, v, do, lse, delta, gates, listed, list_starts, stretch_lists, stretch_starts, blocks,
            positions, dk_parts, dv_parts, scale, scale * LOG2_E, hk, STRETCH=STRETCH, **shared, **options,
        )  # fmt: skip
        dk, dv = torch.empty_like(k), torch.empty_like(v)
        chunk = options["CHUNK"]
        for parts, out, d, d_padded in ((dk_parts, dk, d_qk, d_qk_padded), (dv_parts, dv, d_v, d_v_padded)):
            add_stretches_kernel[(len(blocks) * hk, chunks)](
                parts, out, stretch_starts, blocks, hk, D=d, D_PADDED=d_padded,
                SELECT_BLOCK=select_block, CHUNK=chunk, num_warps=4,
            )  # fmt: skip
    return dk, dv
