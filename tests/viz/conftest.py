"""A small model with native sparse attention, and a text for it."""

import functools

import pytest
import torch

from minisys.core.decoder import Decoder, DecoderConfig
from minisys.nsa import NativeSparseAttention, NSAConfig

CONFIG = NSAConfig(
    compress_block=8, compress_stride=4, select_block=16, top_n=4, initial_blocks=1, local_blocks=2, window=12
)
SIZES = DecoderConfig(dim=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=16)


@pytest.fixture(scope="session")
def config():
    return CONFIG


@pytest.fixture(scope="session")
def model():
    generator = torch.Generator().manual_seed(0)
    attention = functools.partial(NativeSparseAttention, config=CONFIG, value_dim=6)
    return Decoder(SIZES, attention=attention, generator=generator)


@pytest.fixture(scope="session")
def dense_model():
    return Decoder(SIZES, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def text():
    """500 bytes: 31 whole selection blocks and a piece; some are no text, one looks like markup."""
    line = b"def f(x):\n    return '</script><!--<script>' + x  # \xc3\xa9\t\x00\n"
    return (line * 10)[:500]
