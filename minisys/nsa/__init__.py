"""Native sparse attention (NSA), DeepSeek's trainable sparse attention (arXiv 2502.11089).

Read in this order: config.py (the numbers), compression.py (φ), reference.py (the whole algorithm in
plain PyTorch), attention.py (the public call), cache.py and decoding.py (one token at a time), module.py (the
layer), costs.py (what it saves).
"""

from minisys.nsa.attention import nsa_attention, select_blocks
from minisys.nsa.cache import NSACache
from minisys.nsa.compression import BlockCompressor, compress
from minisys.nsa.config import NSAConfig
from minisys.nsa.decoding import nsa_decode, nsa_step
from minisys.nsa.module import NativeSparseAttention

__all__ = [
    "BlockCompressor",
    "NSACache",
    "NSAConfig",
    "NativeSparseAttention",
    "compress",
    "nsa_attention",
    "nsa_decode",
    "nsa_step",
    "select_blocks",
]
