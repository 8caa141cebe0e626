"""Sampling and generation."""

import pytest
import torch
from torch import nn

from minisys.core.decoder import Decoder, DecoderConfig, generate, sample

CONFIG = DecoderConfig(
    vocab_size=30, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=24
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model():
    model = Decoder(CONFIG, generator=seeded()).double()
    with torch.no_grad():
        model.embedding.weight *= 20  # far from uniform, so that a wrong cache shows in the tokens
    return model


@pytest.fixture
def prompt():
    return torch.randint(30, (3, 5), generator=seeded(1))


def draw(logits, count=4000, **options):
    """How often each token is drawn."""
    rows = torch.tensor(logits).expand(count, -1)
    return torch.bincount(sample(rows, generator=seeded(2), **options), minlength=len(logits)) / count


def test_greedy_takes_the_largest_and_the_lowest_of_equal_ones():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    assert sample(logits, temperature=0.0).tolist() == [1, 1, 0]
    assert sample(logits, temperature=0.0, top_k=2, top_p=0.1).tolist() == [1, 1, 0]


def test_frequencies_follow_softmax_and_temperature():
    logits = [1.0, 0.0, 2.0, -1.0]
    for temperature in (0.5, 1.0, 3.0):
        expected = (torch.tensor(logits) / temperature).softmax(0)
        torch.testing.assert_close(draw(logits, temperature=temperature), expected, rtol=0, atol=0.025)


def test_top_k_keeps_exactly_k_also_among_equal_ones():
    frequencies = draw([1.0, 0.0, 2.0, -1.0], top_k=2)
    expected = torch.tensor([1.0, 2.0]).softmax(0)
    torch.testing.assert_close(frequencies[[0, 2]], expected, rtol=0, atol=0.025)
    assert frequencies[[1, 3]].sum() == 0
    assert (draw([1.0, 1.0, 1.0], top_k=2) > 0).tolist() == [True, True, False]


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    for top_p, kept in ((0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)):
        frequencies = draw(logits, top_p=top_p)
        assert (frequencies > 0).tolist() == [index < kept for index in range(4)], top_p


def test_top_p_counts_within_what_top_k_left():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().tolist()
    # Of the first two, 4/7 and 3/7: one alone reaches 0.5, though 0.4 would not.
    assert (draw(logits, top_k=2, top_p=0.5) > 0).tolist() == [True, False, False, False]
    assert (draw(logits, top_p=0.5) > 0).tolist() == [True, True, False, False]


def test_tiny_temperatures_do_not_overflow():
    assert sample(torch.tensor([[1.0, 2.0, 0.0]]), temperature=1e-9).tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"top_k": 0}, "top_k: got 0, expected None or 1 to 3"),
        ({"top_k": 4}, "top_k: got 4, expected None or 1 to 3"),
        ({"top_p": 0.0}, "top_p: got 0.0"),
        ({"top_p": 1.5}, "top_p: got 1.5"),
    ],
)
def test_sampling_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sample(torch.zeros(1, 3), **options)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {}, {"temperature": 0.7, "top_k": 9, "top_p": 0.9}]
)
def test_generation_is_the_same_with_and_without_a_cache(model, prompt, options):
    cached = generate(model, prompt, 20, generator=seeded(3), **options)
    plain = generate(model, prompt, 20, generator=seeded(3), use_cache=False, **options)
    assert cached.shape == (3, 25)
    assert cached.dtype == torch.int64
    assert torch.equal(cached, plain)
    assert torch.equal(cached[:, :5], prompt)
    assert len(set(cached[0].tolist())) > 2


def test_greedy_generation_is_the_argmax_of_each_prefix(model, prompt):
    tokens = generate(model, prompt, 6, temperature=0.0)
    for t in range(5, 11):
        assert torch.equal(tokens[:, t], model(tokens[:, :t])[:, -1].argmax(-1))


def test_a_cache_reads_each_token_once(model, prompt):
    read = []
    hook = model.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0].shape[1]))
    generate(model, prompt, 4)
    generate(model, prompt, 4, use_cache=False)
    hook.remove()
    assert read == [5, 1, 1, 1, 5, 6, 7, 8]


def test_generation_repeats_with_the_seed_and_changes_without(model, prompt):
    first, again, other = (generate(model, prompt, 20, generator=seeded(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    without = generate(model, prompt, 20)
    torch.manual_seed(0)
    assert torch.equal(generate(model, prompt, 20), without)


def test_attention_without_a_cache_reads_the_whole_prefix(prompt):
    class Mean(nn.Module):
        def __init__(self, dim, *sizes, linear, rotary_base):
            super().__init__()

        def forward(self, x, positions, cache=None):
            assert cache is None
            return x.cumsum(1) / (positions + 1)[:, None]

    model = Decoder(CONFIG, attention=Mean, generator=seeded())
    assert generate(model, prompt, 3, temperature=0.0).shape == (3, 8)


def test_generate_edges(model, prompt, no_runtime_types):
    assert torch.equal(generate(model, prompt, 0), prompt)
    assert not generate(model, prompt, 1).requires_grad
    with pytest.raises(ValueError, match="max_new_tokens: got -1"):
        generate(model, prompt, -1)
    with pytest.raises(ValueError, match=r"tokens: got shape \(5,\)"):
        generate(model, prompt[0], 1)
