"""The counts in costs.py against the masks of the reference and against the paper's table."""

import pytest
import torch

from minisys.nsa import NSACache, NSAConfig
from minisys.nsa.costs import (
    cache_bytes,
    compression_flops,
    query_bytes,
    query_flops,
    sequence_flops,
    step_bytes,
    tokens_read,
)
from minisys.nsa.reference import compressed_mask, selected_mask, top_blocks, window_mask

CONFIGS = [
    NSAConfig(4, 2, 8, top_n=4, window=6),
    NSAConfig(6, 3, 3, top_n=3, initial_blocks=0, local_blocks=1, window=20),
    NSAConfig(8, 4, 16, top_n=3, window=5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_tokens_read_are_the_ones_in_the_masks(config):
    t = 70
    importance = torch.rand(1, t, 1, config.num_selectable(t), generator=torch.Generator().manual_seed(0))
    selected = selected_mask(top_blocks(importance, config), config)[0, 0, 0].sum(dim=1)
    compressed, window = compressed_mask(t, config).sum(dim=1), window_mask(t, config).sum(dim=1)
    for position in range(t):
        read = tokens_read(position, config)
        assert (read.compressed, read.selected, read.window) == (
            compressed[position],
            selected[position],
            window[position],
        )


@pytest.mark.parametrize(("t", "paper"), [(8192, 2048), (16384, 2560), (32768, 3584), (65536, 5632)])
def test_tokens_read_when_decoding_as_in_the_papers_table_4(t, paper):
    """The paper counts t/16 compressed tokens; exactly it is one less, since a block spans two strides."""
    assert tokens_read(t - 1, NSAConfig()).total == paper - 1


def test_flops_and_bytes_by_hand():
    config = NSAConfig()
    flops = query_flops(8191, config, d_qk=192, d_v=128, hq=64)
    assert flops["compressed"] == 2 * (192 + 128) * 64 * 511
    assert flops["selected"] == 2 * (192 + 128) * 64 * 1024
    assert flops["nsa"] == 2 * (192 + 128) * 64 * 2047
    assert flops["dense"] == 2 * (192 + 128) * 64 * 8192
    read = query_bytes(8191, config, d_qk=192, d_v=128, hk=4)
    assert read["window"] == (192 + 128) * 4 * 2 * 512
    assert read["dense"] == (192 + 128) * 4 * 2 * 8192


def test_sequence_flops_are_the_sum_over_queries():
    config = CONFIGS[0]
    sizes = {"d_qk": 4, "d_v": 6, "hq": 2}
    total = sequence_flops(50, config, **sizes)
    assert total["dense"] == 2 * (4 + 6) * 2 * (50 * 51 // 2)
    for name in total:
        assert total[name] == sum(query_flops(p, config, **sizes)[name] for p in range(50))


def test_compression_flops_by_hand():
    config = NSAConfig(4, 2, 8, top_n=4)
    # t = 7: 2 blocks of 2 heads; φ of keys: 2·(4·3)·6 + 2·6·3, of values: 2·(4·5)·10 + 2·10·5
    assert compression_flops(7, config, d_qk=3, d_v=5, hk=2) == 2 * 2 * (144 + 36 + 400 + 100)


def test_bytes_of_a_step_by_hand():
    config = NSAConfig()
    sizes = {"d_qk": 128, "d_v": 128, "hk": 4}
    step = step_bytes(65536, config, **sizes, batch=8)
    token = (128 + 128) * 4 * 2
    assert step["compressed"] == 8 * 4095 * token
    assert step["selected"] == 8 * 1024 * token
    assert step["window"] == 8 * 512 * token
    assert step["append"] == 8 * 3 * token
    # φ of keys and of values: [256, 32·128] and [128, 256]; 33 tokens read or written a row, once in 16 steps
    assert step["compression"] == (2 * 2 * (256 * 4096 + 128 * 256) + 8 * 33 * token) / 16
    assert step["nsa"] == sum(step[x] for x in ("compressed", "selected", "window", "append", "compression"))
    assert step["dense"] == 8 * 65537 * token
    assert 91e6 < step["compressed"] + step["selected"] + step["window"] < 93e6


def test_bytes_of_a_cache_are_those_that_it_holds():
    config, t = NSAConfig(), 4096
    phi = lambda blocks: blocks.mean(-2)
    cache = NSACache(1, t, 2, 16, 8, config=config, compress_keys=phi, compress_values=phi, max_append=1)
    held = cache_bytes(t, config, d_qk=16, d_v=8, hk=2, element_bytes=4)
    assert held["nsa"] == cache.nbytes
    assert held["dense"] == t * 24 * 2 * 4
    assert 1 < held["nsa"] / held["dense"] < 1.2
