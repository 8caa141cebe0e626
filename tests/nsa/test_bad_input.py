"""Every wrong argument gives a ValueError that names it, what came and what was expected."""

import pytest
import torch

from minisys.nsa import (
    BlockCompressor,
    NativeSparseAttention,
    NSAConfig,
    compress,
    nsa_attention,
    select_blocks,
)
from minisys.nsa.costs import tokens_read

pytestmark = pytest.mark.usefixtures("no_runtime_types")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compress_stride": 12}, r"compress_block: got 32, expected a multiple of compress_stride \(12\)"),
        ({"select_block": 40}, r"select_block: got 40, expected a multiple of compress_stride \(16\)"),
        ({"window": 0}, "window: got 0, expected a whole number of at least 1"),
        ({"top_n": 2}, r"top_n: got 2, expected at least initial_blocks \+ local_blocks \(3\)"),
        ({"local_blocks": 0}, "local_blocks: got 0"),
        ({"initial_blocks": -1}, "initial_blocks: got -1, expected a whole number of at least 0"),
        ({"top_n": 16.0}, "top_n: got 16.0, expected a whole number"),
        ({"window": True}, "window: got True, expected a whole number"),
        ({"compress_stride": "16"}, "compress_stride: got '16', expected a whole number"),
    ],
)
def test_config(fields, message):
    with pytest.raises(ValueError, match=message):
        NSAConfig(**fields)


BAD = {
    "rank of q": (lambda x: x.update(q=x["q"][0]), r"q: got shape \(40, 4, 6\), expected 4 axes"),
    "rank of k_cmp": (lambda x: x.update(k_cmp=x["k_cmp"][0]), r"k_cmp: got shape .*, expected 4 axes"),
    "heads": (
        lambda x: x.update(q=x["q"][:, :, :3], gates=x["gates"][:, :, :3]),
        "q: got 3 query heads, .* 2 k",
    ),
    "head counts differ": (lambda x: x.update(k_slc=x["k_slc"][:, :, :1]), r"k_slc: got .*\(1, 40, 2, 6\)"),
    "tc": (lambda x: x.update(k_cmp=x["k_cmp"][:, 1:], v_cmp=x["v_cmp"][:, 1:]), "k_cmp: got tc = 18 .* 19"),
    "tc of values": (lambda x: x.update(v_cmp=x["v_cmp"][:, 1:]), r"v_cmp: got .*\(1, 19, 2, 5\)"),
    "d_qk": (lambda x: x.update(k_win=x["k_win"][..., :3]), r"k_win: got .*\(1, 40, 2, 6\)"),
    "d_v": (lambda x: x.update(v_win=x["v_win"][..., :3]), r"v_win: got .*\(1, 40, 2, 5\)"),
    "t": (lambda x: x.update(k_slc=x["k_slc"][:, :-1]), "k_slc: got"),
    "gates": (lambda x: x.update(gates=x["gates"][..., :2]), r"gates: got .*\(1, 40, 4, 3\)"),
    "dtype": (
        lambda x: x.update(v_slc=x["v_slc"].float()),
        "v_slc: got torch.float32, expected torch.float64",
    ),
    "integers": (lambda x: x.update({k: v.long() for k, v in x.items()}), "q: got torch.int64, .* floating"),
    "empty": (lambda x: x.update(q=x["q"][:, :0]), "q: got .* at least one token"),
    "batch": (lambda x: x.update(k_cmp=x["k_cmp"].expand(2, -1, -1, -1)), "k_cmp: got"),
    "backend": (
        lambda x: x.update(backend="cuda"),
        "backend: got 'cuda', expected one of 'auto', 'reference'",
    ),
    "triton on the CPU": (lambda x: x.update(backend="triton"), "backend: got 'triton' .* CUDA GPU"),
    "scale": (lambda x: x.update(scale=float("nan")), "scale: got nan, expected a finite number"),
    "indices shape": (
        lambda x: x.update(block_indices=torch.zeros(1, 40, 4, 2, dtype=torch.int64)),
        r"block_indices: got shape \(1, 40, 4, 2\), expected \(1, 40, 2, 2\)",
    ),
    "indices dtype": (
        lambda x: x.update(block_indices=torch.zeros(1, 40, 2, 2)),
        "block_indices: got torch.f",
    ),
    "indices range": (
        lambda x: x.update(block_indices=torch.full((1, 40, 2, 2), 5)),
        "block_indices: got numbers from 5 to 5, expected -1 to 4",
    ),
    "cu_seqlens falls": (
        lambda x: x.update(cu_seqlens=torch.tensor([0, 20, 10, 40])),
        r"cu_seqlens: got \[0, 20, 10, 40\], expected rising",
    ),
    "cu_seqlens repeats": (lambda x: x.update(cu_seqlens=torch.tensor([0, 20, 20, 40])), "rising"),
    "cu_seqlens end": (lambda x: x.update(cu_seqlens=torch.tensor([0, 39])), "cu_seqlens: .* end at t = 40"),
    "cu_seqlens start": (lambda x: x.update(cu_seqlens=torch.tensor([1, 40])), "cu_seqlens: .* start at 0"),
    "cu_seqlens dtype": (
        lambda x: x.update(cu_seqlens=torch.tensor([0.0, 40.0])),
        "cu_seqlens: got torch.float",
    ),
    "cu_seqlens rank": (
        lambda x: x.update(cu_seqlens=torch.tensor([[0, 40]])),
        "cu_seqlens: got torch.int64",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_attention(change, message, small_config, make_inputs):
    arguments = make_inputs(small_config)
    change(arguments)
    with pytest.raises(ValueError, match=message):
        nsa_attention(**arguments, config=small_config)


def test_packed_batch(small_config, make_inputs):
    with pytest.raises(ValueError, match="cu_seqlens: got batch 2, expected batch 1"):
        nsa_attention(**make_inputs(small_config, b=2), config=small_config, cu_seqlens=torch.tensor([0, 40]))


def test_select_blocks(small_config, make_inputs):
    inputs = make_inputs(small_config)
    with pytest.raises(ValueError, match="k_cmp: got tc = 10 compressed blocks, expected 19"):
        select_blocks(inputs["q"], inputs["k_cmp"][:, :10], config=small_config)


def test_compress(small_config):
    x = torch.randn(1, 10, 2, 3)
    with pytest.raises(ValueError, match=r"x: got shape \(10, 2, 3\), expected 4 axes"):
        compress(x[0], lambda blocks: blocks.mean(-2), config=small_config)
    with pytest.raises(ValueError, match=r"phi: got output of shape \(1, 4, 2, 4\), .*\(1, 4, 2, 3\)"):
        compress(x, lambda blocks: blocks[..., 0], config=small_config)
    with pytest.raises(ValueError, match=r"blocks: got shape \(1, 4, 2, 4, 3\), expected last axes \(4, 5\)"):
        compress(x, BlockCompressor(5, 4), config=small_config)
    with pytest.raises(ValueError, match="hidden: got 0"):
        BlockCompressor(5, 4, hidden=0)


def test_module(small_config):
    with pytest.raises(ValueError, match=r"num_heads: got 3, expected a multiple of num_kv_heads \(2\)"):
        NativeSparseAttention(16, 3, 2, 4, config=small_config)
    with pytest.raises(ValueError, match="head_dim: got 5, expected an even number"):
        NativeSparseAttention(16, 4, 2, 5, config=small_config)
    layer = NativeSparseAttention(16, 4, 2, 4, config=small_config)
    with pytest.raises(ValueError, match=r"x: got shape \(10, 16\)"):
        layer(torch.randn(10, 16), torch.arange(10))
    with pytest.raises(ValueError, match="cache: got dict, expected an NSACache"):
        layer(torch.randn(1, 10, 16), torch.arange(10), cache={})


def test_costs():
    with pytest.raises(ValueError, match="position: got -1"):
        tokens_read(-1, NSAConfig())
