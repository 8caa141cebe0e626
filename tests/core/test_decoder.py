"""The decoder: rotary positions, attention, cache, plug-ins, initialisation."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minisys.core.decoder import (
    Decoder,
    DecoderConfig,
    GroupedQueryAttention,
    KVCache,
    RMSNorm,
    SwiGLU,
    rotate,
    rotate_all,
)

CONFIG = DecoderConfig(
    vocab_size=50, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


@pytest.fixture
def model():
    return Decoder(CONFIG, generator=seeded()).double()


@pytest.fixture
def tokens():
    return torch.randint(CONFIG.vocab_size, (2, 13), generator=seeded(1))


# Rotary positions


def test_rotate_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(1, 1, 1, 4)
    out = rotate(x, torch.tensor([2]), base=100.0).flatten()
    angles = torch.tensor([2.0, 0.2], dtype=torch.float64)  # 2·100^0 and 2·100^(−1/2)
    expected = torch.view_as_real(torch.complex(x.flatten()[:2], x.flatten()[2:]) * torch.exp(1j * angles))
    torch.testing.assert_close(out, torch.cat([expected[:, 0], expected[:, 1]]), rtol=0, atol=1e-15)


def test_rotated_products_depend_on_the_distance_only():
    q, k = random(1, 9, 2, 8, seed=1), random(1, 9, 2, 8, seed=2)
    near, far = torch.arange(9), torch.arange(9) + 1000
    products = [
        torch.einsum("bthd,bshd->bhts", rotate(q, positions), rotate(k, positions))
        for positions in (near, far)
    ]
    torch.testing.assert_close(products[0], products[1], rtol=0, atol=1e-11)
    shifted = torch.einsum("bthd,bshd->bhts", rotate(q, near), rotate(k, far))
    assert (products[0] - shifted).abs().max() > 0.1


def test_rotating_several_at_once_is_rotating_each():
    x, y, positions = random(2, 5, 4, 6), random(2, 5, 1, 6, seed=1), torch.arange(3, 8)
    for rotated, alone in zip(rotate_all((x, y), positions, base=50.0), (x, y), strict=True):
        assert torch.equal(rotated, rotate(alone, positions, base=50.0))


def test_rotating_together_what_does_not_fit(no_runtime_types):
    x, y, positions = random(2, 5, 4, 6), random(2, 5, 1, 6, seed=1), torch.arange(5)
    with pytest.raises(ValueError, match=r"head_dim: got 4, expected 6"):
        rotate_all((x, y[..., :4]), positions)
    with pytest.raises(ValueError, match=r"x: got torch.float32, expected torch.float64, as the others"):
        rotate_all((x, y.float()), positions)
    with pytest.raises(ValueError, match="positions"):
        rotate_all((x, y[:, :4]), positions)


def test_rotate_keeps_lengths_and_position_zero():
    x = random(2, 5, 3, 6)
    out = rotate(x, torch.arange(5))
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1), rtol=0, atol=1e-14)
    assert torch.equal(out[:, 0], x[:, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rotate_computes_in_float32_or_wider(dtype):
    x = random(1, 4, 2, 8).to(dtype)
    positions = torch.tensor([0, 7, 900, 4001])
    out = rotate(x, positions)
    assert out.dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(out, rotate(x.to(wide), positions).to(dtype))


def test_rotate_bad_input(no_runtime_types):
    with pytest.raises(ValueError, match=r"x: got shape \(3, 2, 4\), expected 4 axes"):
        rotate(random(3, 2, 4), torch.arange(3))
    with pytest.raises(ValueError, match=r"positions: got shape \(4,\), expected \(3,\)"):
        rotate(random(1, 3, 2, 4), torch.arange(4))
    with pytest.raises(ValueError, match="head_dim: got 5, expected an even number"):
        rotate(random(1, 3, 2, 5), torch.arange(3))


# Norm and MLP


def test_rms_norm_is_torchs():
    ours, theirs = RMSNorm(6, eps=1e-5).double(), nn.RMSNorm(6, eps=1e-5).double()
    with torch.no_grad():
        ours.weight.copy_(random(6, seed=3))
        theirs.weight.copy_(ours.weight)
    x = random(2, 3, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-14)
    assert RMSNorm(6).bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_swiglu_is_its_equation():
    mlp = SwiGLU(6, 10).double()
    x = random(2, 3, 6)
    gate, up = x @ mlp.gate.weight.T, x @ mlp.up.weight.T
    expected = (gate * torch.sigmoid(gate) * up) @ mlp.down.weight.T
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-14)


# Attention


def plain_attention(layer, x, num_heads, head_dim):
    """The definition, with keys and values repeated for each query head and a mask written out."""
    b, t, _ = x.shape
    positions = torch.arange(t)
    q = rotate(layer.query(x).view(b, t, num_heads, head_dim), positions, layer.rotary_base)
    k = rotate(layer.key(x).view(b, t, -1, head_dim), positions, layer.rotary_base)
    v = layer.value(x).view(b, t, -1, head_dim)
    k, v = (tensor.repeat_interleave(num_heads // tensor.shape[2], dim=2) for tensor in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / head_dim**0.5
    scores = scores.masked_fill(positions[None, :] > positions[:, None], float("-inf"))
    return layer.output(torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).reshape(b, t, -1))


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_attention_equals_its_definition_with_repeated_heads(num_kv_heads):
    layer = GroupedQueryAttention(16, 4, num_kv_heads, 6, rotary_base=500.0).double()
    x = random(2, 11, 16)
    out = layer(x, torch.arange(11))
    torch.testing.assert_close(out, plain_attention(layer, x, 4, 6), rtol=0, atol=1e-14)


def test_grouped_heads_equal_multi_head_attention_with_repeated_weights():
    grouped = GroupedQueryAttention(16, 4, 2, 6).double()
    full = GroupedQueryAttention(16, 4, 4, 6).double()
    with torch.no_grad():
        for name in ("query", "output"):
            getattr(full, name).weight.copy_(getattr(grouped, name).weight)
        for name in ("key", "value"):
            heads = getattr(grouped, name).weight.view(2, 6, 16).repeat_interleave(2, dim=0)
            getattr(full, name).weight.copy_(heads.reshape(24, 16))
    x = random(2, 9, 16)
    torch.testing.assert_close(grouped(x, torch.arange(9)), full(x, torch.arange(9)), rtol=0, atol=1e-14)


def test_head_counts_are_checked(no_runtime_types):
    with pytest.raises(ValueError, match="num_heads: got 3, expected a multiple of num_kv_heads = 2"):
        GroupedQueryAttention(16, 3, 2, 4)
    with pytest.raises(ValueError, match="head_dim: got 5, expected an even number"):
        GroupedQueryAttention(16, 4, 2, 5)


# Decoder


def test_logits_have_the_shape_of_tokens_and_vocabulary(model, tokens):
    assert model(tokens).shape == (2, 13, 50)
    assert model(tokens.int()).shape == (2, 13, 50)


def test_the_future_does_not_change_the_past(model, tokens):
    before = model(tokens)
    changed = tokens.clone()
    changed[:, 8] = (changed[:, 8] + 1) % CONFIG.vocab_size
    after = model(changed)
    assert torch.equal(after[:, :8], before[:, :8])
    assert ((after - before)[:, 8:].abs().amax(-1) > 1e-6).all()  # and every later token sees the change


@pytest.mark.parametrize("pieces", [[13], [1] * 13, [5, 1, 7], [1, 12]])
def test_cached_logits_equal_uncached_ones(model, tokens, pieces):
    cache = model.new_cache(2, 13)
    parts = [model(piece, cache=cache) for piece in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=0, atol=1e-14)
    assert [layer.length for layer in cache] == [13, 13]


def test_a_full_cache_is_left_as_it_was(model, tokens):
    cache = model.new_cache(2, 10)
    model(tokens[:, :8], cache=cache)
    before = [layer.keys.clone() for layer in cache]
    with pytest.raises(ValueError, match="cache: got 13 tokens, expected at most max_t = 10"):
        model(tokens[:, 8:], cache=cache)
    assert [layer.length for layer in cache] == [8, 8]
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache, before, strict=True))
    whole = model(tokens[:, :10])[:, 8:]
    torch.testing.assert_close(model(tokens[:, 8:10], cache=cache), whole, rtol=0, atol=1e-14)


def test_cache_bad_input(no_runtime_types):
    with pytest.raises(ValueError, match="max_t: got 0"):
        KVCache(1, 0, 2, 4)
    cache = KVCache(1, 5, 2, 4)
    with pytest.raises(ValueError, match=r"keys: got shape \(1, 2, 4\), expected 4 axes"):
        cache.append(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match=r"keys: got shape \(2, 3, 2, 4\), expected \(1, 3, 2, 4\)"):
        cache.append(torch.zeros(2, 3, 2, 4), torch.zeros(2, 3, 2, 4))
    with pytest.raises(ValueError, match=r"values: got shape \(1, 2, 2, 4\), expected \(1, 3, 2, 4\)"):
        cache.append(torch.ones(1, 3, 2, 4), torch.ones(1, 2, 2, 4))
    assert cache.length == 0
    assert not cache.keys.any()


def test_gradients_reach_every_parameter_and_are_right(tokens):
    config = DecoderConfig(
        vocab_size=50, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=12
    )
    model = Decoder(config, generator=seeded()).double()

    def loss():
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    loss().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
        index = parameter.grad.abs().argmax()
        with torch.no_grad():
            entry = parameter.view(-1)[index : index + 1]
            entry += 1e-5
            above = loss()
            entry -= 2e-5
            below = loss()
            entry += 1e-5
        slope = (above - below) / 2e-5
        torch.testing.assert_close(parameter.grad.view(-1)[index], slope, rtol=1e-6, atol=1e-9)


def test_backward_is_deterministic(model, tokens):
    grads = []
    for _ in range(2):
        model.zero_grad()
        model(tokens).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*grads, strict=True))


def test_one_seed_gives_one_model_and_leaves_torchs_state_alone():
    state = torch.get_rng_state()
    first, second = Decoder(CONFIG, generator=seeded(5)), Decoder(CONFIG, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    third = Decoder(CONFIG)
    torch.manual_seed(1)
    fourth = Decoder(CONFIG)
    for one, two in ((first, second), (third, fourth)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(first.embedding.weight, third.embedding.weight)
    assert not torch.equal(first.blocks[0].mlp.up.weight, third.blocks[0].mlp.up.weight)


def test_initial_scales_follow_depth():
    config = DecoderConfig(num_layers=8)
    model = Decoder(config, generator=seeded())
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for block in model.blocks:
        uniform = 1 / (3 * config.dim) ** 0.5  # what nn.Linear draws, and num_heads · head_dim equals dim
        assert block.attention.query.weight.std().item() == pytest.approx(uniform, rel=0.02)
        assert block.attention.output.weight.std().item() == pytest.approx(uniform / 4, rel=0.02)
        down = 1 / (3 * config.mlp_dim) ** 0.5
        assert block.mlp.down.weight.std().item() == pytest.approx(down / 4, rel=0.02)


def test_parameter_count():
    attention = 32 * 32 * 2 + 32 * 16 * 2
    block = attention + 3 * 32 * 48 + 2 * 32
    tied = 2 * block + 50 * 32 + 32
    assert Decoder(CONFIG).num_parameters() == tied
    untied = DecoderConfig(**{**CONFIG.__dict__, "tie_embeddings": False})
    assert Decoder(untied).num_parameters() == tied + 50 * 32


def test_tied_and_untied_heads(tokens):
    untied = DecoderConfig(**{**CONFIG.__dict__, "tie_embeddings": False})
    model, tied = Decoder(untied).double(), Decoder(CONFIG).double()
    tied.load_state_dict({name: value for name, value in model.state_dict().items() if name != "head.weight"})
    assert not torch.equal(model(tokens), tied(tokens))
    with torch.no_grad():
        model.head.weight.copy_(model.embedding.weight)
    assert torch.equal(model(tokens), tied(tokens))


def test_plug_ins_are_called_as_documented_and_used(tokens):
    calls = []

    class Linear(nn.Linear):
        pass

    class Mean(nn.Module):  # an attention that averages the past and has no cache
        supports_cache = False

        def __init__(self, *sizes, linear, rotary_base, note):
            super().__init__()
            calls.append((sizes, rotary_base, note))
            self.output = linear(sizes[0], sizes[0], bias=False)

        def forward(self, x, positions, cache=None):
            assert positions.tolist() == list(range(x.shape[1]))
            return self.output(x.cumsum(1) / (positions + 1)[:, None])

    class Square(nn.Module):
        def __init__(self, dim, hidden, *, linear):
            super().__init__()
            self.up, self.down = linear(dim, hidden, bias=False), linear(hidden, dim, bias=False)

        def forward(self, x):
            return self.down(self.up(x).relu().square())

    model = Decoder(CONFIG, attention=functools.partial(Mean, note="n"), mlp=Square, linear=Linear).double()
    assert calls == [((32, 4, 2, 8), 10000.0, "n")] * 2
    assert sum(isinstance(module, Linear) for module in model.modules()) == 2 * 3
    assert model(tokens).shape == (2, 13, 50)
    model(tokens).sum().backward()
    assert all(block.attention.output.weight.grad.any() for block in model.blocks)
    assert all(block.mlp.up.weight.grad.any() for block in model.blocks)
    assert not model.supports_cache
    with pytest.raises(ValueError, match="attention: got Mean, expected one with a cache"):
        model.new_cache(1, 4)


def test_linear_reaches_the_default_layers():
    class Linear(nn.Linear):
        pass

    model = Decoder(CONFIG, linear=Linear)
    assert sum(isinstance(module, Linear) for module in model.modules()) == 2 * 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("dim", -1),
        ("num_layers", 1.5),
        ("mlp_dim", True),
        ("num_heads", 0),
        ("num_kv_heads", 3),
        ("head_dim", 7),
        ("rotary_base", 1.0),
        ("norm_eps", 0.0),
    ],
)
def test_config_fields_are_checked(field, value, no_runtime_types):
    name = "num_heads" if field == "num_kv_heads" else field
    with pytest.raises(ValueError, match=f"^{name}: got "):
        DecoderConfig(**{field: value})


def test_forward_bad_input(model, no_runtime_types):
    with pytest.raises(ValueError, match=r"tokens: got shape \(3,\), expected 2 axes"):
        model(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"tokens: got shape \(1, 0\), expected at least one token"):
        model(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="tokens: got 50, expected tokens below 50"):
        model(torch.tensor([[3, 50]]))
    with pytest.raises(ValueError, match="tokens: got -1, expected no token below 0"):
        model(torch.tensor([[3, -1]]))
    with pytest.raises(ValueError, match="cache: got 1 layers, expected 2"):
        model(torch.tensor([[3]]), cache=model.new_cache(1, 2)[:1])


def test_bfloat16_model_stays_close_to_float32(tokens):
    wide = Decoder(CONFIG, generator=seeded())
    narrow = Decoder(CONFIG, generator=seeded()).bfloat16()
    out = narrow(tokens)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wide(tokens), rtol=0, atol=0.01)
    cache = narrow.new_cache(2, 13)
    assert cache[0].keys.dtype == torch.bfloat16
    torch.testing.assert_close(narrow(tokens, cache=cache), out, rtol=0, atol=0)
