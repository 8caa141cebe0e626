"""A recorded step, as far as it goes without a GPU; tests/nsa/test_kernels_decode.py replays one."""

import pytest
import torch

from minisys.core.decoder import Decoder, DecoderConfig, generate
from minisys.core.recorded import RecordedStep, check_recordable

CONFIG = DecoderConfig(
    vocab_size=61, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48
)


@pytest.fixture
def model():
    return Decoder(CONFIG, generator=torch.Generator().manual_seed(0)).eval()


def test_what_cannot_be_recorded_is_named(model):
    cache = model.new_cache(1, 8)
    with pytest.raises(ValueError, match="model: got weights on cpu, expected a model on a CUDA GPU"):
        RecordedStep(model, cache, 1)
    with pytest.raises(ValueError, match="model: got layers with a KVCache, expected layers whose cache can"):
        check_recordable(cache, torch.device("cuda"))
    prompt = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="cuda_graph: got True, expected False without a cache"):
        generate(model, prompt, 2, use_cache=False, cuda_graph=True)
    with pytest.raises(ValueError, match="model: got weights on cpu"):
        generate(model, prompt, 2, cuda_graph=True)
    assert torch.equal(generate(model, prompt, 0, cuda_graph=True), prompt)


def test_positions_may_be_given(model):
    """What a recorded step does: the host's count stands still, the GPU's goes on."""
    tokens = torch.arange(12).view(2, 6)
    cache, other = model.new_cache(2, 6), model.new_cache(2, 6)
    for first, last in ((0, 4), (4, 5), (5, 6)):
        expected = model(tokens[:, first:last], cache=cache)
        got = model(tokens[:, first:last], cache=other, positions=torch.arange(first, last))
        assert torch.equal(got, expected)
    assert not torch.equal(model(tokens[:, :2]), model(tokens[:, :2], positions=torch.tensor([3, 9])))


def test_positions_are_as_many_as_tokens(model, no_runtime_types):
    with pytest.raises(ValueError, match=r"positions: got shape \(2,\), expected \(3,\) \[t\]"):
        model(torch.zeros(1, 3, dtype=torch.long), positions=torch.arange(2))
