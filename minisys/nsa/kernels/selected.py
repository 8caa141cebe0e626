"""The selected branch of native sparse attention in one kernel (arXiv 2502.11089, section 3.4), forward.

    out_i = Σ_{j in blocks(i), j <= i} softmax_j(scale · q_i · k_j) v_j

Flash attention gives a program many queries of one head, because neighbouring queries read the same keys.
Here they do not: every query has blocks of its own. What does share them is the group of query heads above
one key/value head (equation 10), so one program takes

        one query token, one key/value head, and the g query heads of its group as the rows of a tile,

and walks over the token's blocks with the online softmax of tiles.py. `tl.dot` wants 16 rows: a smaller
group is padded, and a group above 64 heads is split over several programs (`parts`).

Layout: q ``[b, t, hq, d_qk]``, k_slc ``[b, t, hk, d_qk]``, v_slc ``[b, t, hk, d_v]``, each contiguous, and
block numbers ``[b, t, hk, n]``, -1 for none. Block j covers tokens j·l' … j·l' + l' - 1 of its sequence.
Order is free and a repeated number counts once: before the launch each row is sorted, with -1 made a number
that no query reaches. The kernel then reads blocks until one starts after its query, and hides a block that
equals the one before it. No branch in the loop keeps loads from running ahead. Offsets that count tokens are
64-bit.

Cost: 2·(d_qk + d_v)·hq FLOPs for each of the up to n·l' tokens that a query reads; linear in t. Every
program reads its blocks itself, n·l'·(d_qk + d_v) numbers for each token and key/value head: with 4
key/value heads of 128, n = 16 and l' = 64 that is 2.1 MB a token in bfloat16, mostly served by the L2 cache.
This traffic is the limit, because a program computes only g FLOPs for each byte (of bfloat16) that it reads.
Head sizes that are no power of two and groups below 16 waste the padding.

Left out: the backward pass, and packing several queries that share blocks into one tile, which would fill
Hopper's 64-row matrix instructions and read a shared block once.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from minisys.core.checks import check, check_rank, check_shape
from minisys.nsa.config import NSAConfig
from minisys.nsa.kernels.tiles import (
    LOG2_E,
    attend_tile,
    check_inputs,
    checked_scale,
    padded,
    shared_memory,
)

MAX_ROWS = 64  # query heads in one tile
MAX_CHUNK = 64  # keys in one tile; a longer selection block is read in several


@triton.jit(do_not_specialize=["t", "hk", "group", "parts", "n"])  # a new length compiles nothing anew
@no_type_check
def selected_kernel(
    q,
    k,
    v,
    block_numbers,
    out,
    scale_log2,
    t,
    hk,
    group,
    parts,
    n,
    D_QK: tl.constexpr,
    D_V: tl.constexpr,
    D_QK_PADDED: tl.constexpr,
    D_V_PADDED: tl.constexpr,
    SELECT_BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    N_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    # Which token, key/value head and part of its group this program computes.
    program = tl.program_id(0)
    token = program % t
    kv_head = program // t % hk
    part = program // t // hk % parts
    batch = (program // t // hk // parts).to(tl.int64)

    # Numbers from one token to the next.
    k_row = hk * D_QK
    v_row = hk * D_V

    heads = part * ROWS + tl.arange(0, ROWS)[:, None]
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    inside = heads < group
    token_and_head = (batch * t + token) * hk + kv_head

    q_tile = q + token_and_head * group * D_QK + heads * D_QK + dims_qk
    q_block = tl.load(q_tile, mask=inside & (dims_qk < D_QK), other=0.0)

    # Block numbers rise, so the blocks that start at or before the token are the first `count` of them.
    numbers = block_numbers + token_and_head * n
    slot = tl.arange(0, N_PADDED)
    reached = tl.load(numbers + slot, mask=slot < n, other=t) <= token // SELECT_BLOCK
    count = tl.sum(reached.to(tl.int32))

    # A tile's pointers are its first number, which each step computes, plus offsets that stay.
    column = tl.arange(0, CHUNK)
    k_start = k + batch * t * k_row + kv_head * D_QK
    v_start = v + batch * t * v_row + kv_head * D_V
    k_offsets = column[:, None] * k_row + dims_qk
    v_offsets = column[:, None] * v_row + dims_v

    row_max = tl.full([ROWS], -float("inf"), tl.float32)
    row_sum = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)

    # A block's first token is visible and in its first chunk, so every row sees a key in the first step.
    for step in range(count * CHUNKS):
        which = step // CHUNKS
        block = tl.load(numbers + which)
        before = tl.load(numbers + which - 1, mask=which > 0, other=-1)
        offset = step % CHUNKS * CHUNK  # of the chunk in its block
        first = block * SELECT_BLOCK + offset
        visible = (offset + column < SELECT_BLOCK) & (first + column <= token) & (block != before)
        k_tile = k_start + first.to(tl.int64) * k_row
        v_tile = v_start + first.to(tl.int64) * v_row
        k_block = tl.load(k_tile + k_offsets, mask=visible[:, None] & (dims_qk < D_QK), other=0.0)
        v_block = tl.load(v_tile + v_offsets, mask=visible[:, None] & (dims_v < D_V), other=0.0)
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, visible[None, :], row_max, row_sum, acc, scale_log2
        )

    # A token without blocks never entered the loop: 0/1 is its exact zero.
    row_sum = tl.where(count == 0, 1.0, row_sum)
    out_tile = out + token_and_head * group * D_V + heads * D_V + dims_v
    tl.store(out_tile, (acc / row_sum[:, None]).to(out.dtype.element_ty), mask=inside & (dims_v < D_V))


def launch_options(
    dtype: torch.dtype, group: int, select_block: int, d_qk: int, d_v: int, shared_memory: int
) -> dict[str, int]:
    """Tile sides, warps and pipeline depth for padded head sizes; `shared_memory` in bytes."""
    if dtype == torch.float32:  # no tensor cores, so every product takes registers
        return {"ROWS": 16, "CHUNK": 16, "num_warps": 4, "num_stages": 1}
    rows, chunk = min(MAX_ROWS, padded(group)), min(MAX_CHUNK, padded(select_block))
    # The queries stay in shared memory; each stage of the pipeline holds one tile of keys and of values.
    bytes_of = lambda stages: 2 * (rows * d_qk + stages * chunk * (d_qk + d_v))
    while bytes_of(2) > shared_memory:
        chunk = chunk // 2
    # A third stage only where two programs still share a multiprocessor: each hides the other's waiting.
    stages = 3 if bytes_of(3) <= shared_memory // 2 else 2
    return {"ROWS": rows, "CHUNK": chunk, "num_warps": 4, "num_stages": stages}


def rising(block_indices: Int[Tensor, "b t hk n"], none: int) -> Int[Tensor, "b t hk n"]:
    """Each row's block numbers in rising order, with `none`, which is above them all, in place of -1."""
    return torch.where(block_indices < 0, none, block_indices).sort(dim=-1).values


def selected_forward(
    q: Float[Tensor, "b t hq d_qk"],
    k_slc: Float[Tensor, "b t hk d_qk"],
    v_slc: Float[Tensor, "b t hk d_v"],
    block_indices: Int[Tensor, "b t hk n"],
    config: NSAConfig,
    scale: float,
) -> Float[Tensor, "b t hq d_v"]:
    """`selected_attention` on arguments that were checked."""
    b, t, hq, d_qk = q.shape
    hk, d_v = v_slc.shape[2:]
    group, n = hq // hk, block_indices.shape[3]
    out = torch.empty(b, t, hq, d_v, dtype=q.dtype, device=q.device)
    d_qk_padded, d_v_padded, memory = padded(d_qk), padded(d_v), shared_memory(q.device)
    options = launch_options(q.dtype, group, config.select_block, d_qk_padded, d_v_padded, memory)
    parts = triton.cdiv(group, options["ROWS"])
    programs = t * hk * parts * b
    if programs == 0:
        return out
    with torch.cuda.device_of(q):  # Triton launches on the current device
        selected_kernel[(programs,)](
            q.contiguous(),
            k_slc.contiguous(),
            v_slc.contiguous(),
            rising(block_indices, none=config.num_selectable(t)),
            out,
            scale * LOG2_E,
            t,
            hk,
            group,
            parts,
            n,
            D_QK=d_qk,
            D_V=d_v,
            D_QK_PADDED=d_qk_padded,
            D_V_PADDED=d_v_padded,
            SELECT_BLOCK=config.select_block,
            CHUNKS=triton.cdiv(config.select_block, options["CHUNK"]),
            N_PADDED=triton.next_power_of_2(max(1, n)),
            **options,
        )
    return out


def selected_attention(
    q: Float[Tensor, "b t hq d_qk"],
    k_slc: Float[Tensor, "b t hk d_qk"],
    v_slc: Float[Tensor, "b t hk d_v"],
    block_indices: Int[Tensor, "b t hk n"],
    *,
    config: NSAConfig,
    scale: float | None = None,
) -> Float[Tensor, "b t hq d_v"]:
    """Causal attention of every query to the tokens of its selected blocks.

    Args:
        q: queries ``[b, t, hq, d_qk]``, float32, float16 or bfloat16. A tensor that is not contiguous is
            copied first.
        k_slc, v_slc: keys and values ``[b, t, hk, d_qk]``, ``[b, t, hk, d_v]`` in the dtype of `q`.
        block_indices: int32 or int64 ``[b, t, hk, n]``, as `select_blocks` gives them: -1 for none. Order
            does not matter, a repeated block counts once, and tokens after the query are never read.
        config: its select_block is the length of a block.
        scale: factor on q·k; 1/√d_qk unless set.

    Returns:
        ``[b, t, hq, d_v]`` in the dtype of `q`; zeros for a query without a block that it can see.

    Raises:
        ValueError: an argument does not fit, requires a gradient, or no kernel can run where it lies.
    """
    check_inputs(q, k_slc, v_slc, "k_slc", "v_slc")
    check_rank("block_indices", block_indices, "b t hk n")
    b, t, hk, n = *k_slc.shape[:3], block_indices.shape[3]
    check_shape("block_indices", block_indices, (b, t, hk, n), "b t hk n")
    dtype, device = block_indices.dtype, block_indices.device
    check(dtype in (torch.int32, torch.int64), "block_indices", dtype, "torch.int32 or torch.int64")
    check(device == q.device, "block_indices", device, f"{q.device}, the device of q")
    if block_indices.numel():
        low, high = torch.stack(block_indices.aminmax()).tolist()
        blocks = config.num_selectable(t)
        check(
            low >= -1 and high < blocks,
            "block_indices",
            f"numbers from {low} to {high}",
            f"-1 to {blocks - 1} for {t} tokens",
        )
    return selected_forward(q, k_slc, v_slc, block_indices, config, checked_scale(scale, q))
