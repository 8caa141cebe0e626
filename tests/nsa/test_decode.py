"""Decoding: what a step reads, bad input, and generation by the core decoder with and without a cache."""

import functools

import pytest
import torch

from minisys.core.decoder import Decoder, DecoderConfig
from minisys.core.sampling import generate
from minisys.nsa import NativeSparseAttention, NSAConfig, nsa_decode, nsa_step
from minisys.nsa.cache import TOKENS
from minisys.nsa.decoding import decode_reference
from minisys.nsa.reference import select_blocks_reference

from .cache_cases import CONFIGS, Problem

SIZES = DecoderConfig(
    vocab_size=11,
    dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=24,
    tie_embeddings=False,
)


def filled(problem, t=None):
    cache = problem.cache()
    cache.prefill(**problem.new([0] * problem.batch, problem.t if t is None else t)[0])
    return cache


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("t", [1, 2, 7, 20])
def test_several_tokens_at_once_are_the_last_rows_of_the_whole(config, t):
    problem = Problem(config, t=41)
    cache, (_, q, gates) = filled(problem), problem.new([41 - t] * 2, t)
    torch.testing.assert_close(nsa_decode(q, cache, gates), problem.whole()[:, -t:], rtol=0, atol=1e-12)


def test_blocks_are_those_of_the_reference():
    problem = Problem(CONFIGS["small"], t=40)
    cache = filled(problem)
    _, q, gates = problem.new([30, 30], 10)
    blocks = decode_reference(q, cache, gates, problem.scale, [10, 10])[1]
    expected = select_blocks_reference(problem.q, problem.compressed()[0], problem.config, problem.scale)
    assert torch.equal(blocks, expected[:, -10:])


def test_a_step_reads_its_blocks_its_window_and_nothing_else():
    """NaN wherever the query has no business: a gather of the whole would show."""
    problem = Problem(CONFIGS["small"], batch=1, t=64, hk=1, hq=2)
    cache = filled(problem)
    _, q, gates = problem.new([63], 1)
    expected, blocks = decode_reference(q, cache, gates, problem.scale, [1])
    unread = ~torch.isin(torch.arange(64) // 8, blocks)
    assert unread.sum() == 64 - 4 * 8
    cache.k_slc[:, :, unread] = torch.nan
    cache.v_slc[:, :, unread] = torch.nan
    torch.testing.assert_close(nsa_decode(q, cache, gates), expected, rtol=0, atol=1e-14)


def test_gates_weigh_the_branches():
    problem = Problem(CONFIGS["small"], t=40)
    cache = filled(problem)
    _, q, gates = problem.new([39, 39], 1)
    one = [nsa_decode(q, cache, gates * torch.eye(3, dtype=gates.dtype)[branch]) for branch in range(3)]
    torch.testing.assert_close(sum(one), nsa_decode(q, cache, gates), rtol=0, atol=1e-14)
    assert all(part.abs().max() > 0 for part in one)


def test_no_gradient_flows_through_a_cache():
    problem = Problem(CONFIGS["small"], t=40)
    cache = filled(problem, 39)
    new, q, gates = problem.new([39, 39], 1)
    new["k_slc"].requires_grad_()
    cache.append(**new)
    out = nsa_decode(q.requires_grad_(), cache, gates)
    assert not out.requires_grad
    assert not cache.k_slc.requires_grad


BAD = {
    "nothing there": (lambda a: a.update(empty=True), "q: got 2 tokens of row 0, expected at most the 0"),
    "rank": (lambda a: a.update(q=a["q"][0]), r"q: got shape \(2, 4, 6\), expected 4 axes"),
    "batch": (lambda a: a.update(q=a["q"][:1]), r"q: got shape \(1, 2, 4, 6\), expected \(2, 2, 4, 6\)"),
    "d_qk": (lambda a: a.update(q=a["q"][..., :4]), "q: got shape"),
    "heads": (lambda a: a.update(q=a["q"][:, :, :3]), "q: got 3 query heads, expected a multiple of the 2"),
    "gates": (lambda a: a.update(gates=a["gates"][..., :2]), r"gates: got .*\(2, 2, 4, 3\)"),
    "dtype": (lambda a: a.update(q=a["q"].float()), "q: got torch.float32, expected torch.float64"),
    "scale": (lambda a: a.update(scale=float("inf")), "scale: got inf, expected a finite number"),
    "counts": (lambda a: a.update(counts=[3, 0]), r"counts: got \[3, 0\], expected numbers from 0 to 2"),
    "backend": (lambda a: a.update(backend="sdpa"), "backend: got 'sdpa', expected one of 'auto'"),
    "triton": (lambda a: a.update(backend="triton"), "backend: got 'triton'.*'auto' or 'reference'"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(change, message, no_runtime_types):
    problem = Problem(CONFIGS["small"], t=40)
    _, q, gates = problem.new([38, 38], 2)
    arguments = {"q": q, "gates": gates}
    change(arguments)
    cache = problem.cache() if arguments.pop("empty", False) else filled(problem)
    with pytest.raises(ValueError, match=message):
        nsa_decode(cache=cache, **arguments)


@pytest.mark.parametrize("t", [1, 3])
def test_a_step_is_append_and_decode(t):
    problem = Problem(CONFIGS["small"], t=41)
    cache, (new, q, gates) = filled(problem, 41 - t), problem.new([41 - t] * 2, t)
    out = nsa_step(q, cache, gates, **new, start=41 - t)
    assert cache.row_lengths == cache.lengths.tolist() == [41, 41]
    torch.testing.assert_close(out, problem.whole()[:, -t:], rtol=0, atol=1e-12)


BAD_STEPS = {
    "query": (lambda a: a.update(q=a["q"][..., :4]), "q: got shape"),
    "gates": (lambda a: a.update(gates=a["gates"][..., :2]), "gates: got"),
    "key": (lambda a: a.update(k_slc=a["k_slc"][:1]), "k_slc: got shape"),
    "start": (lambda a: a.update(start=30), r"start: got 30, expected the next positions, \[38, 38\]"),
    "fewer tokens": (lambda a: a.update({n: x[:, :1] for n, x in a.items() if n in TOKENS}),
                     "k_raw: got 1 tokens, expected 2, as many as q"),
    "backend": (lambda a: a.update(backend="sdpa"), "backend: got 'sdpa', expected one of 'auto'"),
    "scale": (lambda a: a.update(scale=float("nan")), "scale: got nan, expected a finite number"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_STEPS.values(), ids=BAD_STEPS.keys())
def test_a_bad_step_leaves_the_cache_as_it_was(change, message, no_runtime_types):
    problem = Problem(CONFIGS["small"], t=40)
    new, q, gates = problem.new([38, 38], 2)
    arguments = {"q": q, "gates": gates, **new}
    change(arguments)
    cache, other = filled(problem, 38), filled(problem, 38)
    with pytest.raises(ValueError, match=message):
        nsa_step(cache=cache, **arguments)
    assert cache.row_lengths == cache.lengths.tolist() == [38, 38]
    assert torch.equal(cache.k_slc, other.k_slc)
    assert torch.equal(cache.k_raw, other.k_raw)


def test_queries_older_than_the_rings(no_runtime_types):
    problem = Problem(CONFIGS["small"], t=40)
    cache = problem.cache(max_append=3)
    cache.prefill(**problem.tokens)
    _, q, gates = problem.new([36, 36], 4)
    with pytest.raises(ValueError, match="q: got 4 tokens of row 0, expected at most 3: the rings hold"):
        nsa_decode(q, cache, gates)


# The layer and the decoder.


@pytest.fixture(params=["auto", "sdpa"])
def decoder(request, small_config):
    attention = functools.partial(NativeSparseAttention, config=small_config, backend=request.param)
    model = Decoder(SIZES, attention=attention, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        model.embedding.weight *= 20  # far from uniform, so that a wrong cache shows in the tokens
        for block in model.blocks:
            block.attention.output.weight *= 10
    return model


def tokens(t, b=2, seed=1):
    return torch.randint(0, 11, (b, t), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pieces", [[40], [1] * 40, [3, 1, 36], [25, 7, 1, 1, 6]], ids=str)
def test_cached_logits_equal_uncached_ones(decoder, pieces):
    x = tokens(40)
    cache = decoder.new_cache(2, 40)
    for layer in cache:
        assert layer.max_append >= 7
    parts = [decoder(piece, cache=cache) for piece in x.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), decoder(x), rtol=0, atol=1e-12)
    assert [layer.length for layer in cache] == [40, 40]


def test_chunks_longer_than_an_append(decoder, monkeypatch):
    x = tokens(60)
    monkeypatch.setattr(
        NativeSparseAttention, "new_cache", with_max_append(NativeSparseAttention.new_cache, 8)
    )
    cache = decoder.new_cache(2, 60)
    assert cache[0].max_append == 8
    parts = [decoder(piece, cache=cache) for piece in x.split([10, 50], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), decoder(x), rtol=0, atol=1e-12)


def with_max_append(new_cache, count):
    return lambda layer, batch, max_t: new_cache(layer, batch, max_t, max_append=count)


@pytest.mark.parametrize("prompt", [1, 20])
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.8, "top_k": 5}], ids=str)
def test_generation_is_the_same_with_and_without_a_cache(decoder, prompt, options):
    start, seeded = tokens(prompt), lambda: torch.Generator().manual_seed(3)
    assert decoder.supports_cache
    cached = generate(decoder, start, 24, generator=seeded(), **options)
    plain = generate(decoder, start, 24, generator=seeded(), use_cache=False, **options)
    assert torch.equal(cached, plain)
    assert len(set(cached[:, prompt:].flatten().tolist())) > 2


def test_a_cached_step_reads_one_token(decoder):
    seen = []
    decoder.embedding.register_forward_hook(lambda module, arguments, out: seen.append(out.shape[1]))
    generate(decoder, tokens(9), 4)
    assert seen == [9, 1, 1, 1]


def test_a_full_cache_is_left_as_it_was(decoder):
    x, cache = tokens(13), decoder.new_cache(2, 10)
    decoder(x[:, :8], cache=cache)
    before = [layer.k_slc.clone() for layer in cache]
    with pytest.raises(ValueError, match="cache: got 13 tokens, expected at most capacity = 10"):
        decoder(x[:, 8:], cache=cache)
    assert [layer.length for layer in cache] == [8, 8]
    assert all(torch.equal(layer.k_slc, keys) for layer, keys in zip(cache, before, strict=True))
    with pytest.raises(ValueError, match="cache: got 11 tokens, expected at most capacity = 10"):
        decoder(x[:, :11], cache=decoder.new_cache(2, 10))


def test_positions_that_are_not_the_next(decoder):
    layer, cache = decoder.blocks[0].attention, decoder.new_cache(2, 10)[0]
    with pytest.raises(ValueError, match="positions: got 3 first, expected 0, the next of the cache"):
        layer(torch.randn(2, 2, 16, dtype=torch.float64), torch.arange(3, 5), cache=cache)


def test_a_layer_in_bfloat16_keeps_a_cache_of_bfloat16(decoder):
    narrow, x = decoder.to(torch.bfloat16), tokens(30)
    cache = narrow.new_cache(2, 30)
    assert cache[0].k_cmp.dtype == torch.bfloat16
    logits = torch.cat([narrow(piece, cache=cache) for piece in x.split([20, 1, 9], dim=1)], dim=1)
    assert logits.isfinite().all()


def test_a_cache_holds_a_third_of_what_three_branches_have():
    layer = NativeSparseAttention(16, 4, 2, 4, config=NSAConfig())
    cache = layer.new_cache(1, 65536)
    dense = 2 * 65536 * 2 * 4 * 4  # keys and values, 2 heads of 4 numbers of 4 bytes
    assert 1.0625 < cache.nbytes / dense < 1.08
