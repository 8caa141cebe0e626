"""The layer: fits the decoder, learns through every branch, and equals its parts."""

import functools

import pytest
import torch

from minisys.core.decoder import Decoder, DecoderConfig, rotate
from minisys.nsa import BlockCompressor, NativeSparseAttention, NSAConfig, compress, nsa_attention

SIZES = DecoderConfig(
    vocab_size=11, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=24
)


@pytest.fixture
def decoder(small_config):
    attention = functools.partial(NativeSparseAttention, config=small_config)
    return Decoder(SIZES, attention=attention, generator=torch.Generator().manual_seed(0)).double()


def tokens(t, b=2, seed=1):
    return torch.randint(0, 11, (b, t), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", [1, 3, 40])
def test_decoder_with_nsa_is_causal(decoder, t):
    x = tokens(t + 5)
    y = x.clone()
    y[:, t:] = (y[:, t:] + 1) % 11
    assert torch.equal(decoder(x)[:, :t], decoder(y)[:, :t])


def test_every_parameter_gets_a_gradient(decoder):
    decoder(tokens(40)).logsumexp(dim=-1).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_layer_is_projections_around_nsa_attention(small_config):
    torch.manual_seed(0)
    layer = NativeSparseAttention(16, 4, 2, 4, config=small_config, value_dim=6, scale=0.7).double()
    x, positions = torch.randn(2, 30, 16, dtype=torch.float64), torch.arange(30)
    inputs = layer.branches(x, positions)
    assert inputs["q"].shape == (2, 30, 4, 4)
    assert inputs["k_cmp"].shape == (2, 14, 2, 4)
    assert inputs["v_cmp"].shape == (2, 14, 2, 6)
    assert inputs["gates"].min() > 0
    assert inputs["gates"].max() < 1
    expected = nsa_attention(**inputs, config=small_config, scale=0.7).flatten(2) @ layer.output.weight.T
    assert torch.equal(layer(x, positions), expected)


def test_branches_have_keys_and_values_of_their_own(small_config):
    layer = NativeSparseAttention(16, 4, 2, 4, config=small_config)
    inputs = layer.branches(torch.randn(1, 20, 16), torch.arange(20))
    assert not torch.allclose(inputs["k_slc"], inputs["k_win"])
    assert not torch.allclose(inputs["v_slc"], inputs["v_win"])


def test_compressed_keys_are_rotated_to_the_end_of_their_block(small_config):
    torch.manual_seed(0)
    layer = NativeSparseAttention(16, 4, 2, 4, config=small_config).double()
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    keys = layer.keys["cmp"](x).unflatten(-1, (2, -1))
    ends = torch.tensor([3, 5, 7, 9, 11, 13, 15, 17, 19])
    expected = rotate(compress(keys, layer.compress_keys, config=small_config), ends)
    assert torch.equal(layer.branches(x, torch.arange(20))["k_cmp"], expected)


def test_attention_depends_on_relative_positions_only(small_config):
    torch.manual_seed(0)
    layer = NativeSparseAttention(16, 4, 2, 4, config=small_config).double()
    x = torch.randn(1, 40, 16, dtype=torch.float64)
    near, far = layer(x, torch.arange(40)), layer(x, torch.arange(40) + 1000)
    assert torch.allclose(near, far, rtol=1e-9, atol=1e-12)


def test_pluggable_linear_is_used_for_the_projections(small_config):
    made = []

    class Counted(torch.nn.Linear):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    NativeSparseAttention(16, 4, 2, 4, config=small_config, linear=Counted)
    assert len(made) == 8  # query, 3 keys, 3 values, output


# Compression.


def test_blocks_start_every_stride_and_hold_whole_blocks(small_config):
    x = torch.arange(11.0, dtype=torch.float64)[None, :, None, None]
    out = compress(x, lambda blocks: blocks.mean(-2), config=small_config)
    assert out.flatten().tolist() == [1.5, 3.5, 5.5, 7.5]  # tokens 0-3, 2-5, 4-7, 6-9


@pytest.mark.parametrize(("t", "tc"), [(1, 0), (31, 0), (32, 1), (47, 1), (48, 2), (65536, 4095)])
def test_number_of_compressed_blocks(t, tc):
    assert NSAConfig().num_compressed(t) == tc
    if t < 100:
        x = torch.randn(2, t, 3, 4)
        assert compress(x, BlockCompressor(4, 32), config=NSAConfig()).shape == (2, tc, 3, 4)


def test_phi_knows_the_place_in_the_block():
    torch.manual_seed(0)
    phi = BlockCompressor(4, 8).double()
    block = torch.randn(1, 8, 4, dtype=torch.float64)
    assert not torch.allclose(phi(block), phi(block.flip(-2)))


def test_phi_is_the_mlp_of_its_docstring():
    torch.manual_seed(0)
    phi = BlockCompressor(4, 8, hidden=5).double()
    block = torch.randn(8, 4, dtype=torch.float64)
    flat = (block + phi.positions).reshape(-1)
    hidden = torch.nn.functional.silu(phi.first.weight @ flat + phi.first.bias)
    assert torch.allclose(phi(block), phi.second.weight @ hidden + phi.second.bias, rtol=1e-14)
    assert BlockCompressor(4, 8).first.out_features == 8


def test_phi_gradients_against_finite_differences():
    config = NSAConfig(4, 2, 4, top_n=4)
    torch.manual_seed(0)
    phi = BlockCompressor(3, 4).double()
    x = torch.randn(1, 9, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: compress(x, phi, config=config), x)
