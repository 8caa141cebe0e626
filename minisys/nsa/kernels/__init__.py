"""Native sparse attention in Triton kernels, forward and backward.

Read in this order: tiles.py (the online softmax, one tile of keys at a time), flash.py (dense attention),
layout.py (tiles of tokens × heads of a group), band.py (compressed and window branch), importance.py (the top
n blocks), lists.py and selected.py (the selected branch), band_backward.py and selected_backward.py
(gradients), attention.py (``backend="triton"``, one operator). Decoding: decode.py says what a step is, then
decode_append.py, decode_compress.py, decode_scan.py, decode_choose.py and decode_step.py.

The kernels run on a CUDA GPU. With ``TRITON_INTERPRET=1`` in the environment before Triton is first imported,
the same source runs on the CPU through Triton's interpreter: slow, and enough to test small shapes or to
step through a kernel with a debugger.
"""

from minisys.nsa.kernels.flash import flash_attention
from minisys.nsa.kernels.selected import selected_attention
from minisys.nsa.kernels.tiles import INTERPRETED

__all__ = ["INTERPRETED", "flash_attention", "selected_attention"]
