"""The reference's masks handed to PyTorch's fused attention: same result, no score matrices.

`scaled_dot_product_attention` never writes the scores of the selected and the window branch; what is left is
one boolean mask a group, ``[b·hk, 1, t, t]``. It still computes every product that the mask then hides,
2·t²·hq·(d_qk + d_v) FLOPs a branch, as much as dense attention. Good enough to train a small model with.
The compressed branch stays plain: its scores are t²/stride numbers a head, and selection needs them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minisys.nsa.config import NSAConfig
from minisys.nsa.reference import (
    attention_weights,
    block_importance,
    compressed_mask,
    selected_mask,
    top_blocks,
    weighted_values,
    window_mask,
)


def fused_attention(
    q: Float[Tensor, "b t hq d_qk"],
    k: Float[Tensor, "b t hk d_qk"],
    v: Float[Tensor, "b t hk d_v"],
    mask: Bool[Tensor, "*broadcast t t"],
    scale: float,
) -> Float[Tensor, "b t hq d_v"]:
    """softmax(scale · q kᵀ) v under `mask` ``[t, t]`` or ``[b, hk, 1, t, t]``; a row without keys is zero."""
    b, t, hk = k.shape[:3]
    sees_none = ~mask.any(dim=-1, keepdim=True)
    shared = (mask | sees_none).expand(b, hk, 1, t, t).flatten(0, 1)  # one mask for the heads of a group
    by_group = lambda x: x.unflatten(2, (hk, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1)  # [b·hk, g, t, d]
    grouped = by_group(q)
    keys, values = (by_group(x).expand(-1, grouped.shape[1], -1, -1) for x in (k, v))
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=shared, scale=scale
    )
    out = out.unflatten(0, (b, hk)).masked_fill(sees_none, 0.0)  # [b, hk, g, t, d_v]
    return out.permute(0, 3, 1, 2, 4).flatten(2, 3)


def nsa_fused(
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
    """`nsa_reference` with fused selected and window branches."""
    t, device = q.shape[1], q.device
    p_cmp = attention_weights(q, k_cmp, compressed_mask(t, config, device), scale)
    if block_indices is None:
        block_indices = top_blocks(block_importance(p_cmp.detach(), config), config)
    return (
        gates[..., 0:1] * weighted_values(p_cmp, v_cmp)
        + gates[..., 1:2] * fused_attention(q, k_slc, v_slc, selected_mask(block_indices, config), scale)
        + gates[..., 2:3] * fused_attention(q, k_win, v_win, window_mask(t, config, device), scale)
    )
