"""Dense causal attention in one kernel: FlashAttention-2 (arXiv 2307.08691), forward.

    out_i = Σ_{j <= i} softmax_j(scale · q_i · k_j) v_j

One program takes BLOCK_Q queries of one head and walks over their keys, BLOCK_KV at a time, with the online
softmax of tiles.py. Its keys come in two stretches:

        keys 0 … first-1                  every query of the tile sees all of them: no mask
        keys first … first+BLOCK_Q-1      the triangle at the diagonal: query i sees key j if j <= i

and the keys after those are not read at all, which is the half that causality saves.

Layout: q ``[b, t, hq, d_qk]``, k ``[b, t, hk, d_qk]``, v ``[b, t, hk, d_v]``, out ``[b, t, hq, d_v]``, each
contiguous, so the next token of a head is h·head_dim numbers away. Query heads j·g … j·g + g - 1 read
key/value head j. Offsets that count tokens are 64-bit: b·t·h·head_dim passes 2³¹.

Cost: t²·hq·(d_qk + d_v) FLOPs, half of the full square. Device memory: q and out once,
(d_qk + d_v)·t·hq numbers, and keys and values once for each tile of queries, mostly from the L2 cache. At
t = 8192 with 64 heads of 128 that is 1.1 TFLOP over 0.3 GB: the arithmetic is the limit.

Left out: the backward pass, dropout and masks other than causal, and what Hopper adds (bulk tensor copies,
warps that specialise in loading), as the fastest kernels do. Head sizes that are no power of two waste the
padding: 192 costs as much as 256.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from minisys.nsa.kernels.tiles import (
    LOG2_E,
    attend_tile,
    check_inputs,
    checked_scale,
    padded,
    positive_scale,
    shared_memory,
)

LN_2 = tl.constexpr(math.log(2))


@triton.jit(do_not_specialize=["t", "hq", "hk"])  # a new length compiles nothing anew
@no_type_check
def flash_kernel(
    q,
    k,
    v,
    out,
    lse,
    scale_log2,
    t,
    hq,
    hk,
    D_QK: tl.constexpr,
    D_V: tl.constexpr,
    D_QK_PADDED: tl.constexpr,
    D_V_PADDED: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_KV: tl.constexpr,
):
    # Which tile this program computes. The last queries read the most keys, so they start first.
    tiles = tl.cdiv(t, BLOCK_Q)
    program = tl.program_id(0)
    first = (tiles - 1 - program % tiles) * BLOCK_Q
    head = program // tiles % hq
    batch = (program // tiles // hq).to(tl.int64)
    kv_head = head // (hq // hk)

    # Numbers from one token to the next.
    q_row = hq * D_QK
    k_row = hk * D_QK
    v_row = hk * D_V
    out_row = hq * D_V

    rows = tl.arange(0, BLOCK_Q)
    columns = tl.arange(0, BLOCK_KV)
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    queries = first + rows
    inside = (queries < t)[:, None]
    position = batch * t + first

    q_tile = q + position * q_row + head * D_QK + rows[:, None] * q_row + dims_qk
    q_block = tl.load(q_tile, mask=inside & (dims_qk < D_QK), other=0.0)

    # A tile's pointers are its first number, which moves down with every step, plus offsets that stay. A tile
    # of pointers that move would take a register pair each, and spill.
    k_tile = k + batch * t * k_row + kv_head * D_QK
    v_tile = v + batch * t * v_row + kv_head * D_V
    k_offsets = columns[:, None] * k_row + dims_qk
    v_offsets = columns[:, None] * v_row + dims_v

    row_max = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    row_sum = tl.full([BLOCK_Q], 0.0, tl.float32)
    acc = tl.full([BLOCK_Q, D_V_PADDED], 0.0, tl.float32)

    # Keys before the tile: every query sees them.
    for _ in range(0, first, BLOCK_KV):
        k_block = tl.load(k_tile + k_offsets, mask=dims_qk < D_QK, other=0.0)
        v_block = tl.load(v_tile + v_offsets, mask=dims_v < D_V, other=0.0)
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, None, row_max, row_sum, acc, scale_log2
        )
        k_tile += BLOCK_KV * k_row
        v_tile += BLOCK_KV * v_row

    # Keys at the diagonal. The rows of the tile see one to all of them.
    for start in range(first, tl.minimum(first + BLOCK_Q, t), BLOCK_KV):
        keys = start + columns
        exists = (keys < t)[:, None]
        k_block = tl.load(k_tile + k_offsets, mask=exists & (dims_qk < D_QK), other=0.0)
        v_block = tl.load(v_tile + v_offsets, mask=exists & (dims_v < D_V), other=0.0)
        causal = keys[None, :] <= queries[:, None]
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, causal, row_max, row_sum, acc, scale_log2
        )
        k_tile += BLOCK_KV * k_row
        v_tile += BLOCK_KV * v_row

    out_tile = out + position * out_row + head * D_V + rows[:, None] * out_row + dims_v
    tl.store(out_tile, (acc / row_sum[:, None]).to(out.dtype.element_ty), mask=inside & (dims_v < D_V))
    lse_tile = lse + position * hq + head + rows * hq
    tl.store(lse_tile, (row_max * scale_log2 + tl.log2(row_sum)) * LN_2, mask=queries < t)


def launch_options(dtype: torch.dtype, d_qk: int, d_v: int, shared_memory: int) -> dict[str, int]:
    """Tile sides, warps and pipeline depth for padded head sizes; `shared_memory` in bytes."""
    if dtype == torch.float32:  # no tensor cores, so every product takes registers
        return {"BLOCK_Q": 32, "BLOCK_KV": 16, "num_warps": 8, "num_stages": 1}
    block_q, block_kv = 128, 64
    # The queries stay in shared memory; each stage of the pipeline holds one tile of keys and of values.
    bytes_of = lambda stages: 2 * (block_q * d_qk + stages * block_kv * (d_qk + d_v))
    while bytes_of(2) > shared_memory:
        block_q, block_kv = block_q // 2, block_kv // 2
    return {
        "BLOCK_Q": block_q,
        "BLOCK_KV": block_kv,
        "num_warps": 8 if block_q == 128 else 4,
        "num_stages": 3 if bytes_of(3) <= shared_memory else 2,
    }


def flash_attention(
    q: Float[Tensor, "b t hq d_qk"],
    k: Float[Tensor, "b t hk d_qk"],
    v: Float[Tensor, "b t hk d_v"],
    *,
    scale: float | None = None,
    return_lse: bool = False,
) -> Float[Tensor, "b t hq d_v"] | tuple[Float[Tensor, "b t hq d_v"], Float[Tensor, "b t hq"]]:
    """Causal attention of every query to all tokens up to its own.

    Args:
        q: queries ``[b, t, hq, d_qk]``, float32, float16 or bfloat16. A tensor that is not contiguous is
            copied first.
        k, v: keys and values ``[b, t, hk, d_qk]``, ``[b, t, hk, d_v]`` in the dtype of `q`; hk divides hq.
        scale: factor on q·k; 1/√d_qk unless set.
        return_lse: also return the logarithm of each row's softmax denominator.

    Returns:
        ``[b, t, hq, d_v]`` in the dtype of `q`; with `return_lse` also float32 ``[b, t, hq]``,
        lse_i = ln Σ_{j <= i} exp(scale · q_i · k_j).

    Raises:
        ValueError: an argument does not fit, requires a gradient, or no kernel can run where it lies.
    """
    check_inputs(q, k, v, "k", "v")
    scale = checked_scale(scale, q)
    q, scale = positive_scale(q, scale)
    b, t, hq, d_qk = q.shape
    hk, d_v = v.shape[2:]
    out = torch.empty(b, t, hq, d_v, dtype=q.dtype, device=q.device)
    lse = torch.empty(b, t, hq, dtype=torch.float32, device=q.device)
    d_qk_padded, d_v_padded = padded(d_qk), padded(d_v)
    options = launch_options(q.dtype, d_qk_padded, d_v_padded, shared_memory(q.device))
    programs = triton.cdiv(t, options["BLOCK_Q"]) * hq * b
    if programs == 0:
        return (out, lse) if return_lse else out
    with torch.cuda.device_of(q):  # Triton launches on the current device
        flash_kernel[(programs,)](
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            out,
            lse,
            scale * LOG2_E,
            t,
            hq,
            hk,
            D_QK=d_qk,
            D_V=d_v,
            D_QK_PADDED=d_qk_padded,
            D_V_PADDED=d_v_padded,
            **options,
        )
    return (out, lse) if return_lse else out
