"""Native sparse attention in plain PyTorch: the oracle (arXiv 2502.11089, sections 3.2 and 3.3).

    o_t = Σ_c g_t^c · Attn(q_t, K^c, V^c),   c in (compressed, selected, window)          equation 5

* compressed: attends to K̃_cmp, one learned key for each block of tokens (equation 7, compression.py).
* selected:   reads the raw tokens of the top_n blocks that the compressed branch found important
              (equations 8 to 12). All query heads of a group share their blocks (equation 10).
* window:     reads the last `window` tokens.

Keys and values are independent per branch. Layout ``[b, t, h, head_dim]``, hq = g·hk query heads:
query heads ``j·g … j·g + g - 1`` share key/value head j. Runs in any floating dtype, float64 included.

Cost: it builds full score matrices, so 2·t²·hq·(d_qk + d_v) FLOPs and t²·hq numbers of memory for each of
the last two branches, as much as dense attention. That is what makes it easy to read and to trust;
the kernels exist to not do this.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minisys.nsa.config import NSAConfig


def masked_softmax(
    scores: Float[Tensor, "*lead t s"], mask: Bool[Tensor, "*broadcast t s"]
) -> Float[Tensor, "*lead t s"]:
    """Softmax over the visible keys; a row that sees none is all zeros, and so are its gradients."""
    sees_none = ~mask.any(dim=-1, keepdim=True)
    weights = scores.masked_fill(~(mask | sees_none), -torch.inf).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)


def attention_weights(
    q: Float[Tensor, "b t hq d_qk"],
    k: Float[Tensor, "b s hk d_qk"],
    mask: Bool[Tensor, "*broadcast t s"],
    scale: float,
) -> Float[Tensor, "b hk g t s"]:
    """Probabilities softmax(scale · q kᵀ) under `mask`, by group: query head j·g + i is ``[:, j, i]``."""
    grouped = q.unflatten(2, (k.shape[2], -1))  # [b, t, hk, g, d_qk]
    return masked_softmax(torch.einsum("btkgd,bskd->bkgts", grouped, k) * scale, mask)


def weighted_values(
    weights: Float[Tensor, "b hk g t s"], v: Float[Tensor, "b s hk d_v"]
) -> Float[Tensor, "b t hq d_v"]:
    """Σ_s weights · v, with the heads of all groups side by side again."""
    return torch.einsum("bkgts,bskd->btkgd", weights, v).flatten(2, 3)


def compressed_mask(t: int, config: NSAConfig, device: torch.device | None = None) -> Bool[Tensor, "t tc"]:
    """Query t sees compressed block i if the block ends at or before it: i·d + l - 1 <= t."""
    queries = torch.arange(t, device=device)[:, None]
    ends = torch.arange(config.num_compressed(t), device=device) * config.compress_stride
    return ends + config.compress_block - 1 <= queries


def window_mask(t: int, config: NSAConfig, device: torch.device | None = None) -> Bool[Tensor, "t t"]:
    """Query t sees the last `window` tokens, its own included."""
    distance = torch.arange(t, device=device)[:, None] - torch.arange(t, device=device)
    return (distance >= 0) & (distance < config.window)


def selected_mask(block_indices: Int[Tensor, "b t hk n"], config: NSAConfig) -> Bool[Tensor, "b hk 1 t t"]:
    """Query t sees the tokens of its blocks at or before itself; -1 stands for no block."""
    b, t, hk, _ = block_indices.shape
    blocks = config.num_selectable(t)
    chosen = torch.zeros(b, t, hk, blocks + 1, dtype=torch.bool, device=block_indices.device)
    # -1 goes to an extra column that is cut off: scatter knows no "nowhere".
    chosen.scatter_(-1, block_indices.long().where(block_indices >= 0, blocks), True)
    tokens = torch.arange(t, device=block_indices.device)
    by_token = chosen[..., tokens // config.select_block]  # [b, t, hk, t]
    return (by_token & (tokens <= tokens[:, None])[:, None]).transpose(1, 2)[:, :, None]


def block_overlap(t: int, config: NSAConfig, device: torch.device | None = None) -> Int[Tensor, "tc ts"]:
    """How many stride-long pieces of compressed block i lie in selection block j.

    Equation 9 read by overlap. Compressed block i is made of pieces i … i + l/d - 1, and piece p lies in
    selection block p // (l'/d), so with l = 32, d = 16, l' = 64 the column j is
    Σ_{m<4} Σ_{n<2} [i = 4j + m - n].
    """
    first = torch.arange(config.num_compressed(t), device=device)
    pieces = first[:, None] + torch.arange(config.compress_block // config.compress_stride, device=device)
    owners = pieces // (config.select_block // config.compress_stride)  # [tc, l/d]
    return (owners[..., None] == torch.arange(config.num_selectable(t), device=device)).sum(dim=1)


def block_importance(p_cmp: Float[Tensor, "b hk g t tc"], config: NSAConfig) -> Float[Tensor, "b t hk ts"]:
    """Importance of every selection block, summed over the heads of a group (equations 9 and 10)."""
    overlap = block_overlap(p_cmp.shape[-2], config, p_cmp.device).to(p_cmp.dtype)
    return (p_cmp @ overlap).sum(dim=2).transpose(1, 2)


def top_blocks(
    importance: Float[Tensor, "b t hk ts"],
    config: NSAConfig,
    positions: Int[Tensor, "b t"] | None = None,
) -> Int[Tensor, "b t hk top_n"]:
    """Numbers of the blocks each query reads, ascending, -1 where fewer exist (equations 11 and 12).

    The initial blocks and the local ones (the query's own and those just before) are always in;
    the most important of the rest fill up to top_n; ties go to the earlier block. `positions` says where
    the queries stand in their sequences; at 0, 1, … t - 1 unless given.
    """
    t, blocks = importance.shape[1], importance.shape[-1]
    number = torch.arange(blocks, device=importance.device)
    if positions is None:
        positions = torch.arange(t, device=importance.device)
    own = positions[..., None] // config.select_block  # [t, 1] or [b, t, 1]
    forced = (number < config.initial_blocks) | (number > own - config.local_blocks)
    future = (number > own)[..., None, :]
    ranked = importance.masked_fill(forced[..., None, :], torch.inf).masked_fill(future, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)[..., : config.top_n]
    order = order.masked_fill(order > own[..., None], blocks)  # future blocks sort behind all others
    missing = config.top_n - order.shape[-1]
    ascending = torch.nn.functional.pad(order, (0, max(0, missing)), value=blocks).sort(dim=-1).values
    return ascending.masked_fill(ascending == blocks, -1)


def select_blocks_reference(
    q: Float[Tensor, "b t hq d_qk"], k_cmp: Float[Tensor, "b tc hk d_qk"], config: NSAConfig, scale: float
) -> Int[Tensor, "b t hk top_n"]:
    """Block numbers of one unpacked batch: softmax over compressed keys, importance, top_n."""
    with torch.no_grad():  # the choice is discrete; φ learns through the compressed branch
        p_cmp = attention_weights(q, k_cmp, compressed_mask(q.shape[1], config, q.device), scale)
        return top_blocks(block_importance(p_cmp, config), config)


def nsa_reference(
    q: Float[Tensor, "b t hq d_qk"],
    k_cmp: Float[Tensor, "b tc hk d_qk"],
    v_cmp: Float[Tensor, "b tc hk d_v"],
    k_slc: Float[Tensor, "b t hk d_qk"],
    v_slc: Float[Tensor, "b t hk d_v"],
    k_win: Float[Tensor, "b t hk d_qk"],
    v_win: Float[Tensor, "b t hk d_v"],
    gates: Float[Tensor, "b t hq 3"],
    config: NSAConfig,
    scale: float,
    block_indices: Int[Tensor, "b t hk n"] | None = None,
) -> Float[Tensor, "b t hq d_v"]:
    """The whole of native sparse attention on one unpacked batch (equation 5)."""
    t, device = q.shape[1], q.device
    p_cmp = attention_weights(q, k_cmp, compressed_mask(t, config, device), scale)
    if block_indices is None:
        block_indices = top_blocks(block_importance(p_cmp.detach(), config), config)
    p_slc = attention_weights(q, k_slc, selected_mask(block_indices, config), scale)
    p_win = attention_weights(q, k_win, window_mask(t, config, device), scale)
    return (
        gates[..., 0:1] * weighted_values(p_cmp, v_cmp)
        + gates[..., 1:2] * weighted_values(p_slc, v_slc)
        + gates[..., 2:3] * weighted_values(p_win, v_win)
    )
