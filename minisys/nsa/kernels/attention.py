"""`nsa_attention` with ``backend="triton"``: the selected branch through its kernel, forward only.

The other two branches still take the paths that exist: compressed as in reference.py, whose scores selection
needs, and window through PyTorch's fused attention (fused.py).
"""

from jaxtyping import Float, Int
from torch import Tensor

from minisys.nsa.config import NSAConfig
from minisys.nsa.fused import fused_attention
from minisys.nsa.kernels.selected import selected_forward
from minisys.nsa.kernels.tiles import check_inputs, check_no_gradient
from minisys.nsa.reference import (
    attention_weights,
    block_importance,
    compressed_mask,
    top_blocks,
    weighted_values,
    window_mask,
)


def nsa_triton(
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
    """`nsa_reference` with the selected branch computed by `selected_attention`'s kernel.

    Raises:
        ValueError: a head is too large for the kernel, or a tensor requires a gradient.
    """
    check_inputs(q, k_slc, v_slc, "k_slc", "v_slc")
    check_no_gradient(k_cmp=k_cmp, v_cmp=v_cmp, k_win=k_win, v_win=v_win, gates=gates)
    t, device = q.shape[1], q.device
    p_cmp = attention_weights(q, k_cmp, compressed_mask(t, config, device), scale)
    if block_indices is None:
        block_indices = top_blocks(block_importance(p_cmp, config), config)
    return (
        gates[..., 0:1] * weighted_values(p_cmp, v_cmp)
        + gates[..., 1:2] * selected_forward(q, k_slc, v_slc, block_indices, config, scale)
        + gates[..., 2:3] * fused_attention(q, k_win, v_win, window_mask(t, config, device), scale)
    )
