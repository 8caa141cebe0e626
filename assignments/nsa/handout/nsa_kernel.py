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
    raise NotImplementedError


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
    raise NotImplementedError
