"""Attention of packed tiles to a band of keys, forward: the compressed and the window branch in one kernel.

    out_i = Σ_{j in band(i)} softmax_j(scale · q_i · k_j) v_j
    band(i) = { j : j·d + l - 1 <= i, j > i - w }

With a compressed key for every d tokens that summarises l of them (equation 7), the band is every block that
ends at or before the query. With l = d = 1 and a width w it is the sliding window, and without w dense causal
attention. A tile holds a few neighbouring tokens with all query heads of a group (layout.py); it walks over
the keys of its band with the online softmax of tiles.py. Only tiles at the edges of the band need a mask.

In a whole forward one program does both branches for its tile: the queries are loaded once, and only g_cmp ·
o_cmp + g_win · o_win is written where no gradient will be asked for (equation 5; selected.py adds its own).

Layout: q ``[tokens, hq, d_qk]``, k ``[keys, hk, d_qk]``, v ``[keys, hk, d_v]``, out ``[tokens, hq, d_v]``,
contiguous; lse float32 ``[tokens, hq]``, log2 Σ_j 2^(scale·log2(e)·q·k), +inf for a row that sees no key.

Cost: 2·(d_qk + d_v) FLOPs for each visible (query head, key), and keys and values once for each tile of 128
rows, from the L2 cache.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from minisys.nsa.kernels.layout import Layout
from minisys.nsa.kernels.tiles import (
    LOG2_E,
    attend_tile,
    boxes,
    finish_rows,
    first_guess,
    guess_failed,
    is_hopper,
    padded,
    power_of_two,
    shared_memory,
    tile_rows,
)


@triton.jit
@no_type_check
def visible_keys(position, SPAN: tl.constexpr, STRIDE: tl.constexpr):
    """Keys 0 … result - 1 end at or before `position`."""
    return tl.maximum((position + 1 - SPAN + STRIDE) // STRIDE, 0)


@triton.jit
@no_type_check
def walk_band(
    q_block, k, v, key_start, kv_head, start, bulk, tail, last, begin, end, row_max, scale_log2,
    WINDOW: tl.constexpr, KEYS: tl.constexpr, D_V_PADDED: tl.constexpr, GUESSED: tl.constexpr,
):  # fmt: skip
    """The softmax over keys start … last - 1 of a tile of rows; keys bulk … tail - 1 are visible to all."""
    ROWS: tl.constexpr = q_block.shape[0]
    D_QK_PADDED: tl.constexpr = q_block.shape[1]
    row_sum = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
    columns = tl.arange(0, KEYS)[None, :]
    if WINDOW:
        for first in range(start, bulk, KEYS):
            k_block = tl.reshape(k.load([key_start + first, kv_head, 0]), [KEYS, D_QK_PADDED])
            v_block = tl.reshape(v.load([key_start + first, kv_head, 0]), [KEYS, D_V_PADDED])
            visible = (first + columns < end) & (first + columns >= begin)
            row_max, row_sum, acc = attend_tile(
                q_block, k_block, v_block, visible, row_max, row_sum, acc, scale_log2, GUESSED
            )
    for first in range(bulk, tail, KEYS):
        k_block = tl.reshape(k.load([key_start + first, kv_head, 0]), [KEYS, D_QK_PADDED])
        v_block = tl.reshape(v.load([key_start + first, kv_head, 0]), [KEYS, D_V_PADDED])
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, None, row_max, row_sum, acc, scale_log2, GUESSED
        )
    for first in range(tail, last, KEYS):
        k_block = tl.reshape(k.load([key_start + first, kv_head, 0]), [KEYS, D_QK_PADDED])
        v_block = tl.reshape(v.load([key_start + first, kv_head, 0]), [KEYS, D_V_PADDED])
        visible = first + columns < end
        if WINDOW:
            visible = visible & (first + columns >= begin)
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, visible, row_max, row_sum, acc, scale_log2, GUESSED
        )
    return row_max, row_sum, acc


@triton.jit
@no_type_check
def attend_band(
    q_block, k, v, key_start, kv_head, position, count, place, inside, scale_log2, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, WINDOW: tl.constexpr, KEYS: tl.constexpr, D_V_PADDED: tl.constexpr,
    GUESS: tl.constexpr,
):  # fmt: skip
    """(output [rows, d_v] in float32, lse [rows]) of a tile, as `tile_rows` describes it."""
    ROWS: tl.constexpr = q_block.shape[0]
    D_QK_PADDED: tl.constexpr = q_block.shape[1]
    end = visible_keys(position + place, SPAN, STRIDE)[:, None]
    begin = end - WINDOW
    last = visible_keys(position + count - 1, SPAN, STRIDE)
    full_last = visible_keys(position, SPAN, STRIDE)  # keys before it are visible to every row
    # Keys bulk … tail - 1, in whole tiles, are visible to every row and need no mask.
    start, bulk = 0, 0
    if WINDOW:
        start = tl.maximum(full_last - WINDOW, 0)
        bulk = start + tl.cdiv(tl.maximum(last - WINDOW, 0) - start, KEYS) * KEYS
    tail = bulk + tl.maximum(full_last - bulk, 0) // KEYS * KEYS

    row_max = tl.full([ROWS], -float("inf"), tl.float32)
    if GUESS:
        k_block = tl.reshape(k.load([key_start + start, kv_head, 0]), [KEYS, D_QK_PADDED])
        columns = start + tl.arange(0, KEYS)[None, :]
        visible = columns < end
        if WINDOW:
            visible = visible & (columns >= begin)
        guess = first_guess(q_block, k_block, visible)
        row_base, row_sum, acc = walk_band(
            q_block, k, v, key_start, kv_head, start, bulk, tail, last, begin, end, guess, scale_log2,
            WINDOW, KEYS, D_V_PADDED, True,
        )  # fmt: skip
        if guess_failed(row_sum, inside):
            row_base, row_sum, acc = walk_band(
                q_block, k, v, key_start, kv_head, start, bulk, tail, last, begin, end, row_max, scale_log2,
                WINDOW, KEYS, D_V_PADDED, False,
            )  # fmt: skip
    else:
        row_base, row_sum, acc = walk_band(
            q_block, k, v, key_start, kv_head, start, bulk, tail, last, begin, end, row_max, scale_log2,
            WINDOW, KEYS, D_V_PADDED, False,
        )  # fmt: skip
    return finish_rows(acc, row_base, row_sum, scale_log2)


@triton.jit(do_not_specialize=["hk"])
@no_type_check
def band_kernel(
    q, k, v, out, lse, tiles, scale_log2, hk, SPAN: tl.constexpr, STRIDE: tl.constexpr,
    WINDOW: tl.constexpr, GROUP: tl.constexpr, GROUP_PADDED: tl.constexpr, D_V: tl.constexpr,
    D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    GUESS: tl.constexpr,
):  # fmt: skip
    tile = tiles + tl.program_id(0) // hk * 4
    kv_head = tl.program_id(0) % hk
    token, position, count, place, inside, first_row, row = tile_rows(
        tile, kv_head, hk, GROUP, GROUP_PADDED, ROWS
    )
    key_start = token - position if SPAN == 1 else tl.load(tile + 3)
    q_block = tl.reshape(q.load([token, kv_head * GROUP, 0]), [ROWS, D_QK_PADDED])
    acc, row_lse = attend_band(
        q_block, k, v, key_start, kv_head, position, count, place, inside, scale_log2, SPAN, STRIDE, WINDOW,
        KEYS, D_V_PADDED, GUESS,
    )  # fmt: skip
    dims = tl.arange(0, D_V_PADDED)[None, :]
    offsets = first_row * D_V + (row[:, None] * D_V + dims)
    tl.store(lse + first_row + row, row_lse, mask=inside)
    tl.store(out + offsets, acc.to(out.dtype.element_ty), mask=inside[:, None] & (dims < D_V))


@triton.jit(do_not_specialize=["hk"])
@no_type_check
def two_bands_kernel(
    q, k_cmp, v_cmp, k_win, v_win, gates, total, o_cmp, o_win, lse_cmp, lse_win, tiles, scale_log2, hk,
    SPAN: tl.constexpr, STRIDE: tl.constexpr, WINDOW: tl.constexpr, GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr, D_V: tl.constexpr, D_QK_PADDED: tl.constexpr, D_V_PADDED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, STORE: tl.constexpr, GUESS: tl.constexpr,
):  # fmt: skip
    tile = tiles + tl.program_id(0) // hk * 4
    kv_head = tl.program_id(0) % hk
    token, position, count, place, inside, first_row, row = tile_rows(
        tile, kv_head, hk, GROUP, GROUP_PADDED, ROWS
    )
    q_block = tl.reshape(q.load([token, kv_head * GROUP, 0]), [ROWS, D_QK_PADDED])
    dims = tl.arange(0, D_V_PADDED)[None, :]
    stored = inside[:, None] & (dims < D_V)
    offsets = first_row * D_V + (row[:, None] * D_V + dims)
    gate = gates + (first_row + row) * 3

    acc, row_lse = attend_band(
        q_block, k_cmp, v_cmp, tl.load(tile + 3), kv_head, position, count, place, inside, scale_log2, SPAN,
        STRIDE, 0, KEYS, D_V_PADDED, GUESS,
    )  # fmt: skip
    tl.store(lse_cmp + first_row + row, row_lse, mask=inside)
    if STORE:
        tl.store(o_cmp + offsets, acc.to(o_cmp.dtype.element_ty), mask=stored)
    acc *= tl.load(gate, mask=inside, other=0.0).to(tl.float32)[:, None]
    # It waits in memory, as registers are what limits the programs on a multiprocessor.
    tl.store(total + offsets, acc.to(total.dtype.element_ty), mask=stored)
    tl.debug_barrier()  # every warp has stored

    acc, row_lse = attend_band(
        q_block, k_win, v_win, token - position, kv_head, position, count, place, inside, scale_log2, 1, 1,
        WINDOW, KEYS, D_V_PADDED, GUESS,
    )  # fmt: skip
    if STORE:
        tl.store(lse_win + first_row + row, row_lse, mask=inside)
        tl.store(o_win + offsets, acc.to(o_win.dtype.element_ty), mask=stored)
    acc *= tl.load(gate + 2, mask=inside, other=0.0).to(tl.float32)[:, None]
    acc += tl.load(total + offsets, mask=stored, other=0.0).to(tl.float32)
    tl.store(total + offsets, acc.to(total.dtype.element_ty), mask=stored)


def launch_options(
    dtype: torch.dtype, d_qk: int, d_v: int, memory: int, hopper: bool = True
) -> dict[str, int | bool]:
    """Rows and keys of a tile, warps, pipeline depth and whether to guess, for padded head sizes; `memory` in
    bytes."""
    if dtype == torch.float32:  # no tensor cores, so every product takes registers
        return {"ROWS": 64, "KEYS": 16, "num_warps": 8, "num_stages": 1, "GUESS": True}
    rows, keys, stages = 64, 32, 3
    bytes_of = lambda stages: 2 * (rows * d_qk + stages * keys * (d_qk + d_v))
    while bytes_of(2) > memory:
        keys = keys // 2
    if not hopper:
        return {"ROWS": rows, "KEYS": keys, "num_warps": 8, "num_stages": 2, "GUESS": False}
    stages = stages if bytes_of(stages) <= memory else 2
    guess = dtype == torch.bfloat16  # float16 is too narrow for weights far above 1
    return {"ROWS": rows, "KEYS": keys, "num_warps": 4, "num_stages": stages, "GUESS": guess}


def _launch(q: Tensor, k: Tensor, v: Tensor, layout: Layout, replaced: dict | None) -> tuple[Tensor, dict]:
    """(tiles, compile-time arguments and options) for tensors of these sizes."""
    group = q.shape[1] // k.shape[1]
    group_padded = power_of_two(group)
    d_qk, d_v = padded(q.shape[2]), padded(v.shape[2])
    memory, hopper = shared_memory(q.device), is_hopper(q.device)
    options = launch_options(q.dtype, d_qk, d_v, memory, hopper) | (replaced or {})
    options["ROWS"] = max(options["ROWS"], group_padded)
    sizes = {"GROUP": group, "GROUP_PADDED": group_padded, "D_V": v.shape[2]}
    padding = {"D_QK_PADDED": d_qk, "D_V_PADDED": d_v}
    return layout.tiles(options["ROWS"] // group_padded), sizes | padding | options


def band_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    *,
    span: int = 1,
    stride: int = 1,
    window: int = 0,
    options: dict | None = None,
) -> tuple[Tensor, Tensor]:
    """(out, lse) of a branch, from aligned tensors; `window` 0 is none; `options` replace the tuned ones."""
    tokens, hq, _ = q.shape
    hk, d_v = v.shape[1:]
    out = q.new_empty(tokens, hq, d_v)
    lse = q.new_empty(tokens, hq, dtype=torch.float32)
    tiles, sizes = _launch(q, k, v, layout, options)
    keys, group_padded = sizes["KEYS"], sizes["GROUP_PADDED"]
    with torch.cuda.device_of(q):
        band_kernel[(len(tiles) * hk,)](
            boxes(q, sizes["ROWS"] // group_padded, group_padded), boxes(k, keys), boxes(v, keys), out, lse,
            tiles, scale * LOG2_E, hk, SPAN=span, STRIDE=stride, WINDOW=window, **sizes,
        )  # fmt: skip
    return out, lse


def two_bands_forward(
    q: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    k_win: Tensor,
    v_win: Tensor,
    gates: Tensor,
    layout: Layout,
    scale: float,
    *,
    store: bool = True,
    options: dict | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(g_cmp · o_cmp + g_win · o_win, o_cmp, o_win, lse_cmp, lse_win), from aligned tensors.

    Without `store` o_cmp, o_win and lse_win come back empty. `options` replace the tuned ones.
    """
    tokens, hq, _ = q.shape
    hk, d_v = v_win.shape[1:]
    kept = tokens if store else 0
    total = q.new_empty(tokens, hq, d_v)
    o_cmp, o_win = (q.new_empty(kept, hq, d_v) for _ in range(2))
    lse_cmp, lse_win = (q.new_empty(size, hq, dtype=torch.float32) for size in (tokens, kept))
    # Three programs share a multiprocessor, for one register that is spilled.
    fits = padded(d_v) <= 128 and q.dtype != torch.float32 and is_hopper(q.device)
    most_registers = {"maxnreg": 168} if fits else {}
    tiles, sizes = _launch(q, k_win, v_win, layout, most_registers | (options or {}))
    keys, group_padded = sizes["KEYS"], sizes["GROUP_PADDED"]
    config = layout.config
    with torch.cuda.device_of(q):
        two_bands_kernel[(len(tiles) * hk,)](
            boxes(q, sizes["ROWS"] // group_padded, group_padded),
            *(boxes(x, keys) for x in (k_cmp, v_cmp, k_win, v_win)), gates, total, o_cmp, o_win, lse_cmp,
            lse_win, tiles, scale * LOG2_E, hk, SPAN=config.compress_block, STRIDE=config.compress_stride,
            WINDOW=config.window, STORE=store, **sizes,
        )  # fmt: skip
    return total, o_cmp, o_win, lse_cmp, lse_win
