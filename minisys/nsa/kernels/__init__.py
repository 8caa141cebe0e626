"""Triton kernels of attention: dense causal flash attention, then the selected branch of NSA.

Read in this order: tiles.py (the online softmax, one tile of keys at a time), flash.py (dense attention),
selected.py (the same steps over the blocks that a query selected), attention.py (`backend="triton"`).

The kernels run on a CUDA GPU. With ``TRITON_INTERPRET=1`` in the environment before Triton is first imported,
the same source runs on the CPU through Triton's interpreter: slow, and enough to test small shapes or to
step through a kernel with a debugger. They compute the forward pass only.
"""

from minisys.nsa.kernels.flash import flash_attention
from minisys.nsa.kernels.selected import selected_attention
from minisys.nsa.kernels.tiles import INTERPRETED

__all__ = ["INTERPRETED", "flash_attention", "selected_attention"]
