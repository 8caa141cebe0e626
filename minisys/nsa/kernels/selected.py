"""The selected branch of native sparse attention in one kernel (arXiv 2502.11089, section 3.4), forward.

    out_i = Σ_{j in blocks(i), j <= i} softmax_j(scale · q_i · k_j) v_j

Flash attention gives a program many queries of one head, because neighbouring queries read the same keys.
Here every query has blocks of its own. What does share them is the group of query heads above one key/value
head (equation 10). So the rows of a tile are

        a few neighbouring query tokens (4 of them with g = 16) × the g query heads of one group

and the program walks over the blocks that any of the tokens selected, each once (lists.py), with the online
softmax of tiles.py. A block is hidden from the tokens that did not select it. Tokens that choose alike share
most loads; the initial and the local blocks are always shared.

What a tile of one token costs and what more tokens change, with g = 16, heads of 128 and bfloat16: 16 rows
are less than Hopper's matrix instruction takes (64), and the 32 KB of a block serve 0.5 MFLOP, so the limit
is the L2 cache: n·l'·(d_qk + d_v) numbers for each token and key/value head, 137 GB at 65,536 tokens. Four
tokens fill the instruction and load each block once: with random choices, the worst case, a fifth fewer
bytes, and rows that work in vain on blocks of their neighbours.

The last branch to run also adds up: o = Σ_c g_c · o_c (equation 5). band.py has left the sum of the other
two, which this kernel asks for at its start and reads at its end.

Layout: q ``[tokens, hq, d_qk]``, k ``[tokens, hk, d_qk]``, v ``[tokens, hk, d_v]``, block numbers ``[tokens,
hk, n]``, rising, -1 behind them. Block j covers tokens j·l' … j·l' + l' - 1 of its sequence. Offsets that
count numbers are 64-bit. Keys and values have to be finite: a hidden key weighs 0, and 0 · NaN is NaN.

Cost: 2·(d_qk + d_v)·hq FLOPs for each of the up to n·l' tokens that a query reads; linear in t.
"""

import functools
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from minisys.core.checks import check, check_rank, check_shape
from minisys.nsa.config import NSAConfig
from minisys.nsa.kernels.layout import Layout
from minisys.nsa.kernels.lists import MAX_CODES, max_tokens, merged_lists, ordered_blocks
from minisys.nsa.kernels.tiles import (
    LOG2_E,
    aligned,
    attend_tile,
    boxes,
    check_inputs,
    checked_scale,
    finish_rows,
    is_hopper,
    pad_heads,
    padded,
    positive_scale,
    power_of_two,
    prefetch_rows,
    shared_memory,
    tile_rows,
)


@triton.jit(do_not_specialize=["num_tiles", "hk"])  # a new length compiles nothing anew
@no_type_check
def selected_kernel(
    q,
    k,
    v,
    tiles,
    codes,
    counts,
    out,
    lse,
    gates,
    total,
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
    STORE: tl.constexpr,
    COMBINE: tl.constexpr,
):
    # Neighbouring programs read the same key/value head, so that the L2 cache serves them.
    tile_number = tl.program_id(0) % num_tiles
    kv_head = tl.program_id(0) // num_tiles
    tile = tiles + tile_number * 4
    token, position, _, place, inside, first_row, row = tile_rows(
        tile, kv_head, hk, GROUP, GROUP_PADDED, ROWS
    )
    row += first_row
    start = token - position  # of the sequence
    tile_codes = codes + (tile_number.to(tl.int64) * hk + kv_head) * CODES
    # Blocks that end at or before the tile's first token come first; only those behind need the causal mask.
    num_codes = tl.load(counts + (tile_number * hk + kv_head) * 2)
    num_past = tl.load(counts + (tile_number * hk + kv_head) * 2 + 1)
    dims_qk = tl.arange(0, D_QK_PADDED)[None, :]
    dims_v = tl.arange(0, D_V_PADDED)[None, :]
    q_block = tl.load(q + row[:, None] * D_QK + dims_qk, mask=inside[:, None] & (dims_qk < D_QK), other=0.0)
    offsets = row[:, None] * D_V + dims_v
    stored = inside[:, None] & (dims_v < D_V)
    query = (position + place)[:, None]

    if COMBINE:
        prefetch_rows(total, row, inside, D_V, D_V_PADDED)

    CHUNKS: tl.constexpr = (SELECT_BLOCK + CHUNK - 1) // CHUNK
    column = tl.arange(0, CHUNK)
    row_max = tl.full([ROWS], -float("inf"), tl.float32)
    row_sum = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, D_V_PADDED], 0.0, tl.float32)
    for step in range(num_past * CHUNKS):
        code = tl.load(tile_codes + step // CHUNKS)
        offset = step % CHUNKS * CHUNK  # of the chunk in its block
        first = (code >> TOKENS) * SELECT_BLOCK + offset
        k_block = tl.reshape(k.load([start + first, kv_head, 0]), [CHUNK, D_QK_PADDED])
        v_block = tl.reshape(v.load([start + first, kv_head, 0]), [CHUNK, D_V_PADDED])
        visible = (((code >> place) & 1) != 0)[:, None]
        if SELECT_BLOCK % CHUNK != 0:
            visible = visible & (offset + column < SELECT_BLOCK)[None, :]
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, visible, row_max, row_sum, acc, scale_log2
        )
    for step in range(num_past * CHUNKS, num_codes * CHUNKS):
        code = tl.load(tile_codes + step // CHUNKS)
        offset = step % CHUNKS * CHUNK
        first = (code >> TOKENS) * SELECT_BLOCK + offset
        k_block = tl.reshape(k.load([start + first, kv_head, 0]), [CHUNK, D_QK_PADDED])
        v_block = tl.reshape(v.load([start + first, kv_head, 0]), [CHUNK, D_V_PADDED])
        visible = (((code >> place) & 1) != 0)[:, None] & (first + column[None, :] <= query)
        if SELECT_BLOCK % CHUNK != 0:
            visible = visible & (offset + column < SELECT_BLOCK)[None, :]
        row_max, row_sum, acc = attend_tile(
            q_block, k_block, v_block, visible, row_max, row_sum, acc, scale_log2
        )
    acc, row_lse = finish_rows(acc, row_max, row_sum, scale_log2)
    if STORE:
        tl.store(out + offsets, acc.to(out.dtype.element_ty), mask=stored)
        tl.store(lse + row, row_lse, mask=inside)
    if COMBINE:
        gate = tl.load(gates + row * 3 + 1, mask=inside, other=0.0).to(tl.float32)
        acc = acc * gate[:, None] + tl.load(total + offsets, mask=stored, other=0.0).to(tl.float32)
        tl.store(total + offsets, acc.to(total.dtype.element_ty), mask=stored)


@functools.lru_cache(maxsize=64)
def tile_options(
    dtype: torch.dtype,
    group: int,
    n: int,
    layout: Layout,
    d_qk: int,
    d_v: int,
    memory: int,
    extra_rows: int = 0,
    hopper: bool = True,
) -> dict[str, int]:
    """Tokens, rows and keys of a tile, warps and pipeline depth for padded head sizes; `memory` in bytes.

    `extra_rows` numbers a row stay in shared memory beside the queries.
    """
    group_padded = power_of_two(group)
    select_block = layout.config.select_block
    most = max(1, min(max_tokens(layout), MAX_CODES // power_of_two(max(1, n))))
    if dtype == torch.float32:  # no tensor cores, so every product takes registers
        tokens = min(max(1, 16 // group_padded), most)
        chunk, warps, stages = 16, 4, 1
    else:
        tokens = min(max(1, 64 // group_padded), most)
        chunk, warps = min(64, padded(select_block)), 4 if hopper else 8
        rows = max(16, tokens * group_padded)
        # The queries stay in shared memory; each stage of the pipeline holds one tile of keys and of values.
        bytes_of = lambda stages: 2 * (rows * (d_qk + extra_rows) + stages * chunk * (d_qk + d_v)) + 512
        while bytes_of(2) > memory:
            chunk = chunk // 2
        # A third stage only where two programs still share a multiprocessor: each hides the other's waiting.
        stages = 3 if bytes_of(3) <= memory // 2 else 2
    rows = max(16, tokens * group_padded)
    return {"TOKENS": tokens, "ROWS": rows, "CHUNK": chunk, "num_warps": warps, "num_stages": stages}


def selected_forward(
    q: Float[Tensor, "tokens hq d_qk"],
    k: Float[Tensor, "tokens hk d_qk"],
    v: Float[Tensor, "tokens hk d_v"],
    block_indices: Int[Tensor, "tokens hk n"],
    layout: Layout,
    scale: float,
    *,
    combine: tuple[Tensor, Tensor] | None = None,
    store: bool = True,
    options: dict | None = None,
) -> tuple[Float[Tensor, "kept hq d_v"], Float[Tensor, "kept hq"]]:
    """(out, lse) for aligned tensors and block numbers as `ordered_blocks` gives them; lse as in band.py;
    `options` replace the tuned ones.

    `combine` (total, gates) adds the branch under its gate to `total`. Without `store` the branch's own
    output and lse are not kept, and come back empty.
    """
    tokens, hq, d_qk = q.shape
    hk, d_v = v.shape[1:]
    group, n, select_block = hq // hk, block_indices.shape[2], layout.config.select_block
    kept = tokens if store else 0
    out = torch.empty(kept, hq, d_v, dtype=q.dtype, device=q.device)
    lse = torch.empty(kept, hq, dtype=torch.float32, device=q.device)
    total, gates = combine or (out, out)
    d_qk_padded, d_v_padded, memory = padded(d_qk), padded(d_v), shared_memory(q.device)
    hopper = is_hopper(q.device)
    tuned = tile_options(q.dtype, group, n, layout, d_qk_padded, d_v_padded, memory, hopper=hopper)
    options = tuned | (options or {})
    tiles = layout.tiles(options["TOKENS"])
    codes, counts = merged_lists(block_indices, layout, options["TOKENS"])
    with torch.cuda.device_of(q):  # Triton launches on the current device
        selected_kernel[(len(tiles) * hk,)](
            q, boxes(k, options["CHUNK"]), boxes(v, options["CHUNK"]), tiles, codes, counts, out, lse,
            gates, total, scale * LOG2_E, len(tiles), hk, CODES=codes.shape[2], D_QK=d_qk,
            D_V=d_v, D_QK_PADDED=d_qk_padded, D_V_PADDED=d_v_padded, GROUP=group,
            GROUP_PADDED=power_of_two(group), SELECT_BLOCK=select_block, STORE=store,
            COMBINE=combine is not None, **options,
        )  # fmt: skip
    return out, lse


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
    q, scale = positive_scale(q, checked_scale(scale, q))
    if b == 0:
        return q.new_empty(b, t, q.shape[2], v_slc.shape[3])
    layout = Layout(tuple((i * t, i * t + t) for i in range(b)), config, q.device)
    flat_q, flat_k, flat_v = (aligned(x.flatten(0, 1)) for x in pad_heads(q, k_slc, v_slc))
    out, _ = selected_forward(
        flat_q, flat_k, flat_v, ordered_blocks(block_indices).flatten(0, 1), layout, scale
    )
    return out[..., : v_slc.shape[3]].unflatten(0, (b, t))
