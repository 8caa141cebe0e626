"""Native sparse attention, the bonus: the selected branch as a Triton kernel.

Letters as in nsa_assignment.py. The tests run the kernel on the CPU in Triton's interpreter, in float32. To
try it yourself, set the variable TRITON_INTERPRET=1 before Python starts. Triton is there on Linux with an
x86-64 processor only.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int

from minisys.nsa import NSAConfig


@triton.jit
def selected_kernel(
    q, k, v, block_indices, out, scale, t, hk, n,
    G: tl.constexpr, D_QK: tl.constexpr, D_V: tl.constexpr, BLOCK: tl.constexpr,
    G_TILE: tl.constexpr, QK_TILE: tl.constexpr, V_TILE: tl.constexpr, BLOCK_TILE: tl.constexpr,
):  # fmt: skip
    """One program: the G query heads of one group, at one query. All tensors are contiguous."""
    # BEGIN SOLUTION
    row = tl.program_id(0)  # (batch · t + query) · hk + group
    group = row % hk
    query = row // hk % t
    batch = row // (hk * t)
    heads, qk, dv = tl.arange(0, G_TILE), tl.arange(0, QK_TILE), tl.arange(0, V_TILE)
    in_group, in_qk, in_v = heads < G, qk < D_QK, dv < D_V
    q_tile = tl.load(q + (row * G + heads[:, None]) * D_QK + qk, mask=in_group[:, None] & in_qk, other=0.0)
    highest = tl.full([G_TILE], float("-inf"), tl.float32)
    weight_sum = tl.zeros([G_TILE], tl.float32)
    acc = tl.zeros([G_TILE, V_TILE], tl.float32)
    for i in range(n):
        number = tl.load(block_indices + row * n + i)
        if number >= 0:
            tokens = number * BLOCK + tl.arange(0, BLOCK_TILE)
            visible = (tl.arange(0, BLOCK_TILE) < BLOCK) & (tokens <= query)
            place = (batch * t + tokens) * hk + group
            k_tile = tl.load(k + place * D_QK + qk[:, None], mask=visible & in_qk[:, None], other=0.0)
            scores = tl.where(visible, tl.dot(q_tile, k_tile) * scale, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, axis=1))
            shift = tl.exp(highest - higher)
            weights = tl.exp(scores - higher[:, None])
            v_tile = tl.load(v + place[:, None] * D_V + dv, mask=visible[:, None] & in_v, other=0.0)
            acc = acc * shift[:, None] + tl.dot(weights, v_tile)
            weight_sum = weight_sum * shift + tl.sum(weights, axis=1)
            highest = higher
    acc = acc / tl.where(weight_sum > 0, weight_sum, 1.0)[:, None]
    tl.store(out + (row * G + heads[:, None]) * D_V + dv, acc, mask=in_group[:, None] & in_v)
    # END SOLUTION


def selected_attention(
    q: Float[torch.Tensor, "b t hq d_qk"],
    k_slc: Float[torch.Tensor, "b t hk d_qk"],
    v_slc: Float[torch.Tensor, "b t hk d_v"],
    block_indices: Int[torch.Tensor, "b t hk n"],
    config: NSAConfig,
    scale: float,
) -> Float[torch.Tensor, "b t hq d_v"]:
    """Bonus: the selected branch, computed by a Triton kernel, without its gate.

    A query sees the tokens of its blocks in `block_indices` (-1 stands for no block; the others are distinct
    and at or before its own), none after itself. Load each key and value once for all heads of a group.
    A query without any block gives zeros. You may change `selected_kernel` and its parameters as you like.
    """
    # BEGIN SOLUTION
    b, t, hq, d_qk = q.shape
    hk, d_v, n = k_slc.shape[2], v_slc.shape[3], block_indices.shape[3]
    tile = lambda size: max(16, triton.next_power_of_2(size))  # the least that tl.dot takes on a GPU
    out = torch.empty(b, t, hq, d_v, dtype=q.dtype, device=q.device)
    selected_kernel[(b * t * hk,)](
        q.contiguous(), k_slc.contiguous(), v_slc.contiguous(), block_indices.contiguous(), out,
        scale, t, hk, n,
        G=hq // hk, D_QK=d_qk, D_V=d_v, BLOCK=config.select_block,
        G_TILE=tile(hq // hk), QK_TILE=tile(d_qk), V_TILE=tile(d_v), BLOCK_TILE=tile(config.select_block),
    )  # fmt: skip
    return out
    # END SOLUTION
