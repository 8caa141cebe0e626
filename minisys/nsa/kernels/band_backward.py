"""Gradients of band.py's attention: dq from a pass over keys, dk and dv from a pass over queries.

    delta_i = do_i · o_i        dS = g · P ∘ (do vᵀ - delta)        dq = scale · dS k
    dv = (g · P)ᵀ do            dk = scale · dSᵀ q                  dg = delta

with the gate g of the branch and P = 2^(scale·log2(e)·q kᵀ - lse), computed anew. Two passes compute P twice,
7 products of tiles instead of 5, and need no atomic additions: every number is written by one program, in one
order, so that two runs agree bit for bit.

dk and dv of a compressed key gather from up to all tokens. So the tokens are cut into `splits` stretches,
each with a program and a float32 buffer of its own, and the buffers are added in order. Their number does not
grow with the sequence, and the workspace is linear in it.

Layout as in band.py; delta and gates are float32 ``[tokens, hq]``, of one branch.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from minisys.nsa.kernels.band import visible_keys
from minisys.nsa.kernels.layout import Layout
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

MAX_SPLITS = 16


@triton.jit
@no_type_check
def delta_kernel(
    do,
    o_cmp,
    o_slc,
    o_win,
    gates,
    deltas,
    row_gates,
    rows,
    D_V: tl.constexpr,
    D_V_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, D_V_PADDED)
    exists = row < rows
    stored = exists[:, None] & (dims < D_V)[None, :]
    offsets = row[:, None] * D_V + dims[None, :]
    gradient = tl.load(do + offsets, mask=stored, other=0.0).to(tl.float32)
    for branch in tl.static_range(3):
        output = o_cmp if branch == 0 else (o_slc if branch == 1 else o_win)
        delta = tl.sum(gradient * tl.load(output + offsets, mask=stored, other=0.0).to(tl.float32), axis=1)
        gate = tl.load(gates + row * 3 + branch, mask=exists, other=0.0).to(tl.float32)
        tl.store(deltas + branch * rows + row, delta, mask=exists)
        tl.store(row_gates + branch * rows + row, gate, mask=exists)


@triton.jit(do_not_specialize=["hk"])
@no_type_check
def band_dq_kernel(
    q,
    k,
    v,
    do,
    lse,
    delta,
    gates,
    dq,
    tiles,
    scale,
    scale_log2,
    hk,
    SPAN: tl.constexpr,
    STRIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    D_QK: tl.constexpr,
    D_QK_PADDED: tl.constexpr,
    D_V_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    ADD: tl.constexpr,
):
    tile = tiles + tl.program_id(0) // hk * 4
    kv_head = tl.program_id(0) % hk
    token, position, count, place, inside, first_row, row = tile_rows(
        tile, kv_head, hk, GROUP, GROUP_PADDED, ROWS
    )
    key_start = token - position if SPAN == 1 else tl.load(tile + 3)
    q_block = tl.reshape(q.load([token, kv_head * GROUP, 0]), [ROWS, D_QK_PADDED])
    do_block = tl.reshape(do.load([token, kv_head * GROUP, 0]), [ROWS, D_V_PADDED])
    row_lse = tl.load(lse + first_row + row, mask=inside, other=float("inf"))
    row_delta = tl.load(delta + first_row + row, mask=inside, other=0.0)

    end = visible_keys(position + place, SPAN, STRIDE)[:, None]
    begin = end - WINDOW
    last = visible_keys(position + count - 1, SPAN, STRIDE)
    full_last = visible_keys(position, SPAN, STRIDE)
    start, bulk = 0, 0
    if WINDOW:
        start = tl.maximum(full_last - WINDOW, 0)
        bulk = start + tl.cdiv(tl.maximum(last - WINDOW, 0) - start, KEYS) * KEYS
    tail = bulk + tl.maximum(full_last - bulk, 0) // KEYS * KEYS

    acc = tl.full([ROWS, D_QK_PADDED], 0.0, tl.float32)
    columns = tl.arange(0, KEYS)[None, :]
    if WINDOW:
        for first in range(start, bulk, KEYS):
            k_block = tl.reshape(k.load([key_start + first, kv_head, 0]), [KEYS, D_QK_PADDED])
            v_block = tl.reshape(v.load([key_start + first, kv_head, 0]), [KEYS, D_V_PADDED])
            visible = (first + columns < end) & (first + columns >= begin)
            acc = backward_tile_queries(
                q_block, k_block, v_block, do_block, visible, row_lse, row_delta, acc, scale_log2
            )
    for first in range(bulk, tail, KEYS):
        k_block = tl.reshape(k.load([key_start + first, kv_head, 0]), [KEYS, D_QK_PADDED])
        v_block = tl.reshape(v.load([key_start + first, kv_head, 0]), [KEYS, D_V_PADDED])
        acc = backward_tile_queries(
            q_block, k_block, v_block, do_block, None, row_lse, row_delta, acc, scale_log2
        )
    for first in range(tail, last, KEYS):
        k_block = tl.reshape(k.load([key_start + first, kv_head, 0]), [KEYS, D_QK_PADDED])
        v_block = tl.reshape(v.load([key_start + first, kv_head, 0]), [KEYS, D_V_PADDED])
        visible = first + columns < end
        if WINDOW:
            visible = visible & (first + columns >= begin)
        acc = backward_tile_queries(
            q_block, k_block, v_block, do_block, visible, row_lse, row_delta, acc, scale_log2
        )

    acc *= (tl.load(gates + first_row + row, mask=inside, other=0.0) * scale)[:, None]
    dims = tl.arange(0, D_QK_PADDED)[None, :]
    stored = inside[:, None] & (dims < D_QK)
    dq_tile = dq + first_row * D_QK + (row[:, None] * D_QK + dims)
    if ADD:
        acc += tl.load(dq_tile, mask=stored, other=0.0).to(tl.float32)
    tl.store(dq_tile, acc.to(dq.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=["hk", "num_keys", "splits"])
@no_type_check
def band_dkv_kernel(
    q,
    k,
    v,
    do,
    lse,
    delta,
    gates,
    dk,
    dv,
    key_tiles,
    scale,
    scale_log2,
    hk,
    num_keys,
    splits,
    SPAN: tl.constexpr,
    STRIDE: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    D_QK: tl.constexpr,
    D_V: tl.constexpr,
    D_QK_PADDED: tl.constexpr,
    D_V_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    TOKENS: tl.constexpr = ROWS // GROUP_PADDED
    tile = key_tiles + tl.program_id(0) // hk * 5
    kv_head = tl.program_id(0) % hk
    split = tl.program_id(1)
    key = tl.load(tile)
    number = tl.load(tile + 1)
    count = tl.load(tile + 2)
    token_start = tl.load(tile + 3)
    length = tl.load(tile + 4)
    k_block = tl.reshape(k.load([key, kv_head, 0]), [KEYS, D_QK_PADDED])
    v_block = tl.reshape(v.load([key, kv_head, 0]), [KEYS, D_V_PADDED])

    # Key j is visible from token j·STRIDE + SPAN - 1 on. Rows behind `stop` have lse = inf and weigh nothing.
    # Tokens bulk … tail - 1, in whole steps, see every key of the tile and need no mask.
    stretch = tl.cdiv(tl.cdiv(length, splits), TOKENS) * TOKENS
    stop = tl.minimum((split + 1) * stretch, length)
    start = tl.maximum(split * stretch, number * STRIDE + SPAN - 1)
    if WINDOW:
        stop = tl.minimum(stop, number + count - 1 + WINDOW)
    seen_by_all = tl.minimum(
        tl.maximum((number + count - 1) * STRIDE + SPAN - 1, start), tl.maximum(stop, start)
    )
    bulk = start + tl.cdiv(seen_by_all - start, TOKENS) * TOKENS
    tail = stop
    if WINDOW:
        tail = bulk + tl.maximum(tl.minimum(number + WINDOW, stop) - bulk, 0) // TOKENS * TOKENS
    columns = tl.arange(0, KEYS)
    first_visible = ((number + columns) * STRIDE + SPAN - 1)[:, None]

    rows = tl.arange(0, ROWS)
    place = rows // GROUP_PADDED
    head = rows % GROUP_PADDED
    row = place * (hk * GROUP) + head
    dk_block = tl.full([KEYS, D_QK_PADDED], 0.0, tl.float32)
    dv_block = tl.full([KEYS, D_V_PADDED], 0.0, tl.float32)
    for position in range(start, bulk, TOKENS):
        token = token_start + position
        inside = (position + place < stop) & (head < GROUP)
        first_row = (token.to(tl.int64) * hk + kv_head) * GROUP
        q_block = tl.reshape(q.load([token, kv_head * GROUP, 0]), [ROWS, D_QK_PADDED])
        do_block = tl.reshape(do.load([token, kv_head * GROUP, 0]), [ROWS, D_V_PADDED])
        row_lse = tl.load(lse + first_row + row, mask=inside, other=float("inf"))
        row_delta = tl.load(delta + first_row + row, mask=inside, other=0.0)
        row_gate = tl.load(gates + first_row + row, mask=inside, other=0.0)
        visible = first_visible <= (position + place)[None, :]
        if WINDOW:
            visible = visible & (first_visible + WINDOW > (position + place)[None, :])
        dk_block, dv_block = backward_tile_keys(
            q_block, k_block, v_block, do_block, visible, row_lse, row_delta, row_gate,
            dk_block, dv_block, scale_log2,
        )  # fmt: skip
    for position in range(bulk, tail, TOKENS):
        token = token_start + position
        inside = (position + place < stop) & (head < GROUP)
        first_row = (token.to(tl.int64) * hk + kv_head) * GROUP
        q_block = tl.reshape(q.load([token, kv_head * GROUP, 0]), [ROWS, D_QK_PADDED])
        do_block = tl.reshape(do.load([token, kv_head * GROUP, 0]), [ROWS, D_V_PADDED])
        row_lse = tl.load(lse + first_row + row, mask=inside, other=float("inf"))
        row_delta = tl.load(delta + first_row + row, mask=inside, other=0.0)
        row_gate = tl.load(gates + first_row + row, mask=inside, other=0.0)
        dk_block, dv_block = backward_tile_keys(
            q_block, k_block, v_block, do_block, None, row_lse, row_delta, row_gate,
            dk_block, dv_block, scale_log2,
        )  # fmt: skip
    if WINDOW:
        for position in range(tail, stop, TOKENS):
            token = token_start + position
            inside = (position + place < stop) & (head < GROUP)
            first_row = (token.to(tl.int64) * hk + kv_head) * GROUP
            q_block = tl.reshape(q.load([token, kv_head * GROUP, 0]), [ROWS, D_QK_PADDED])
            do_block = tl.reshape(do.load([token, kv_head * GROUP, 0]), [ROWS, D_V_PADDED])
            row_lse = tl.load(lse + first_row + row, mask=inside, other=float("inf"))
            row_delta = tl.load(delta + first_row + row, mask=inside, other=0.0)
            row_gate = tl.load(gates + first_row + row, mask=inside, other=0.0)
            visible = first_visible <= (position + place)[None, :]
            visible = visible & (first_visible + WINDOW > (position + place)[None, :])
            dk_block, dv_block = backward_tile_keys(
                q_block, k_block, v_block, do_block, visible, row_lse, row_delta, row_gate,
                dk_block, dv_block, scale_log2,
            )  # fmt: skip

    first_key = ((split.to(tl.int64) * num_keys + key) * hk) + kv_head
    exists = (columns < count)[:, None]
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    dk_tile = dk + first_key * D_QK + (columns[:, None] * (hk * D_QK) + dims_qk)
    dv_tile = dv + first_key * D_V + (columns[:, None] * (hk * D_V) + dims_v)
    tl.store(dk_tile, (dk_block * scale).to(dk.dtype.element_ty), mask=exists & (dims_qk < D_QK))
    tl.store(dv_tile, dv_block.to(dv.dtype.element_ty), mask=exists & (dims_v < D_V))


def dq_options(dtype: torch.dtype, d_qk: int, d_v: int, memory: int, hopper: bool = True) -> dict[str, int]:
    """Rows and keys of a tile of `band_dq_kernel`, warps and pipeline depth."""
    if dtype == torch.float32:
        return {"ROWS": 64, "KEYS": 16, "num_warps": 8, "num_stages": 1}
    rows, keys = 64, 64 if hopper else 32
    bytes_of = lambda stages: 2 * (rows * (d_qk + d_v) + stages * keys * (d_qk + d_v))
    while bytes_of(2) > memory:
        keys = keys // 2
    if not hopper:
        return {"ROWS": rows, "KEYS": keys, "num_warps": 8, "num_stages": 2}
    return {"ROWS": rows, "KEYS": keys, "num_warps": 4, "num_stages": 3 if bytes_of(3) <= memory else 2}


def dkv_options(
    dtype: torch.dtype, d_qk: int, d_v: int, memory: int, window: int, hopper: bool = True
) -> dict[str, int]:
    """Rows and keys of a tile of `band_dkv_kernel`, warps and pipeline depth."""
    if dtype == torch.float32:
        return {"ROWS": 64, "KEYS": 16, "num_warps": 8, "num_stages": 1}
    rows, keys = 32, 128 if window and hopper else 64
    bytes_of = lambda stages: 2 * (keys * (d_qk + d_v) + stages * rows * (d_qk + d_v))
    while bytes_of(3) > memory and keys > 16:
        keys = keys // 2
    while bytes_of(3) > memory and rows > 16:
        rows = rows // 2
    if not hopper:
        return {"ROWS": rows, "KEYS": keys, "num_warps": 8, "num_stages": 2}
    return {"ROWS": rows, "KEYS": keys, "num_warps": 8 if keys == 128 else 4, "num_stages": 3}


def branch_deltas(
    do: Tensor, o_cmp: Tensor, o_slc: Tensor, o_win: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor]:
    """do · o of every branch, the gradient of the gates, and the gates; float32 ``[3, tokens, hq]``."""
    tokens, hq, d_v = do.shape
    deltas, row_gates = (torch.empty(3, tokens, hq, dtype=torch.float32, device=do.device) for _ in range(2))
    rows, block = tokens * hq, 32
    with torch.cuda.device_of(do):
        delta_kernel[(triton.cdiv(rows, block),)](
            do, o_cmp, o_slc, o_win, gates, deltas, row_gates, rows,
            D_V=d_v, D_V_PADDED=padded(d_v), ROWS=block, num_warps=4,
        )  # fmt: skip
    return deltas, row_gates


def band_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    lse: Tensor,
    delta: Tensor,
    gates: Tensor,
    dq: Tensor,
    layout: Layout,
    scale: float,
    *,
    add: bool,
    span: int = 1,
    stride: int = 1,
    window: int = 0,
) -> tuple[Tensor, Tensor]:
    """(dk, dv) of a branch with its `delta` and `gates`; its part of dq is written to `dq`, or added with
    `add`."""
    hq, d_qk = q.shape[1:]
    num_keys, hk, d_v = v.shape
    group = hq // hk
    group_padded = power_of_two(group)
    d_qk_padded, d_v_padded, memory = padded(d_qk), padded(d_v), shared_memory(q.device)
    shared = dict(
        SPAN=span, STRIDE=stride, WINDOW=window, GROUP=group, GROUP_PADDED=group_padded,
        D_QK=d_qk, D_QK_PADDED=d_qk_padded, D_V_PADDED=d_v_padded,
    )  # fmt: skip
    hopper = is_hopper(q.device)
    options = dq_options(q.dtype, d_qk_padded, d_v_padded, memory, hopper)
    options["ROWS"] = max(options["ROWS"], group_padded)
    tiles = layout.tiles(options["ROWS"] // group_padded)
    with torch.cuda.device_of(q):
        band_dq_kernel[(len(tiles) * hk,)](
            boxes(q, options["ROWS"] // group_padded, group_padded), boxes(k, options["KEYS"]),
            boxes(v, options["KEYS"]), boxes(do, options["ROWS"] // group_padded, group_padded),
            lse, delta, gates, dq, tiles, scale, scale * LOG2_E, hk, ADD=add, **shared, **options,
        )  # fmt: skip
        if num_keys == 0:
            return torch.zeros_like(k), torch.zeros_like(v)
        options = dkv_options(q.dtype, d_qk_padded, d_v_padded, memory, window, hopper)
        options["ROWS"] = max(options["ROWS"], group_padded)
        key_tiles = layout.key_tiles(options["KEYS"], compressed=span > 1)
        splits = 1 if window else max(1, min(MAX_SPLITS, triton.cdiv(2048, len(key_tiles) * hk)))
        kind = q.dtype if splits == 1 else torch.float32
        dk = torch.empty(splits, num_keys, hk, d_qk, dtype=kind, device=q.device)
        dv = torch.empty(splits, num_keys, hk, d_v, dtype=kind, device=q.device)
        band_dkv_kernel[(len(key_tiles) * hk, splits)](
            boxes(q, options["ROWS"] // group_padded, group_padded), boxes(k, options["KEYS"]),
            boxes(v, options["KEYS"]), boxes(do, options["ROWS"] // group_padded, group_padded),
            lse, delta, gates, dk, dv, key_tiles, scale, scale * LOG2_E, hk, num_keys, splits,
            D_V=d_v, **shared, **options,
        )  # fmt: skip
    if splits == 1:
        return dk[0], dv[0]
    return dk.sum(0).to(q.dtype), dv.sum(0).to(q.dtype)
