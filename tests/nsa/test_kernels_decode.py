"""The decoding kernels against float64: append with φ, the choice of blocks, the three branches."""

import copy
import functools

import pytest
import torch
from hypothesis import strategies as st

from minisys.core.decoder import Decoder, DecoderConfig, generate
from minisys.core.recorded import RecordedStep
from minisys.nsa import NativeSparseAttention, NSAConfig, nsa_decode
from minisys.nsa.decoding import decode_reference, query_positions
from minisys.nsa.reference import attention_weights, block_overlap

from . import kernel_cases as cases
from .cache_cases import CONFIGS, Problem
from .kernel_cases import DEVICE, INTERPRETED, WHOLE, error

from minisys.nsa.kernels import decode  # isort: skip  (skipped without Triton)
from minisys.nsa.kernels.decode import decode_triton  # isort: skip
from minisys.nsa.kernels.decode_step import what_to_do, what_to_do_in_one_group  # isort: skip
import triton  # isort: skip
import triton.language as tl  # isort: skip

STORED = ("k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win", "k_raw", "v_raw")
# A compressed key is rounded once after φ, and once more after it was turned.
COMPRESSED = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
by_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    cases.poison(monkeypatch)


def problem_of(config, **options):
    return Problem(config, **({"d_qk": 16, "d_v": 16, "dtype": torch.float32, "device": DEVICE} | options))


def filled(problem, lengths, **options):
    cache = problem.cache(**options)
    cache.prefill(**problem.new([0] * problem.batch, max(lengths))[0], lengths=lengths)
    return cache


def exact(cache):
    """The same cache in float64."""
    wide = copy.copy(cache)
    for name in STORED:
        setattr(wide, name, getattr(cache, name).double())
    return wide


def all_blocks(chosen, positions, config):
    """Forced and chosen blocks ``[b, t, hk, n]``, in any order, -1 for none."""
    own = (positions // config.select_block)[..., None, None].expand(*chosen.shape[:3], 1)
    number = torch.arange(config.initial_blocks, device=chosen.device)
    initial = torch.where(number <= own, number, -1)
    number = own - torch.arange(config.local_blocks, device=chosen.device)
    local = torch.where(number >= config.initial_blocks, number, -1)
    return torch.cat([initial, local, chosen.long()], dim=-1)


def importance_of(q, cache, scale, positions):
    """Float64 importance of every block, ``[b, t, hk, ts]``."""
    config, t = cache.config, cache.capacity
    tc = config.num_compressed(t)
    ends = torch.arange(tc, device=q.device) * config.compress_stride + config.compress_block - 1
    keys = cache.k_cmp[:, :, :tc].double().transpose(1, 2)
    p = attention_weights(q.double(), keys, (ends <= positions[..., None])[:, None, None], scale)
    return (p @ block_overlap(t, config, q.device).double()).sum(dim=2).transpose(1, 2)


def check_step(cache, q, gates, scale, counts=None, tolerance=None, **cuts):
    """Compare one step with float64 on what the cache holds; returns the output."""
    out, chosen = decode_triton(q, cache, gates, scale, counts, **cuts)
    check_output(out, chosen, cache, q, gates, scale, counts, tolerance)
    return out


def check_output(out, chosen, cache, q, gates, scale, counts=None, tolerance=None):
    config, dtype = cache.config, q.dtype
    asked = [q.shape[1]] * cache.batch if counts is None else counts
    positions = query_positions(cache, q.shape[1], asked)
    blocks = all_blocks(chosen, positions, config)
    clean = lambda x: x.double().nan_to_num()
    expected, _ = decode_reference(clean(q), exact(cache), clean(gates), scale, asked, blocks)
    assert out.dtype == dtype
    assert out.isfinite().all()
    if expected.any():
        assert error(out, expected) < (WHOLE[dtype] if tolerance is None else tolerance)
    else:
        assert not out.any()

    # No block was passed over for a less important one; near ties may fall either way.
    importance = importance_of(clean(q), cache, scale, positions)
    number = torch.arange(importance.shape[-1], device=q.device)
    own = (positions // config.select_block)[..., None, None]
    free = (number >= config.initial_blocks) & (number <= own - config.local_blocks)
    taken = (number == chosen[..., None]).any(dim=-2)
    assert not (taken & ~free).any()
    some = min(config.top_n - config.initial_blocks - config.local_blocks, importance.shape[-1])
    assert torch.equal(taken.sum(-1), free.sum(-1).expand(taken.shape[:-1]).clamp_max(some))
    least = importance.masked_fill(~taken, torch.inf).amin(-1)
    most = importance.masked_fill(~free | taken, -torch.inf).amax(-1)
    assert (most <= least * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@by_config
def test_one_token_after_the_other(config, dtype):
    problem = problem_of(config, t=42, dtype=dtype)
    cache, plain = filled(problem, [38, 38]), filled(problem, [38, 38])
    for position in range(38, 42):
        new, q, gates = problem.new([position] * 2, 1)
        cache.append(**new, start=position, backend="triton")
        plain.append(**new, backend="reference")
        check_step(cache, q, gates, problem.scale)
    assert cache.lengths.tolist() == plain.lengths.tolist() == [42, 42]
    for name in STORED[2:]:
        assert torch.equal(getattr(cache, name), getattr(plain, name)), name
    for name, whole in zip(STORED, problem.compressed(), strict=False):
        assert error(getattr(cache, name).transpose(1, 2), whole) < COMPRESSED[dtype], name


SHAPES = {
    "group of 16": {"hq": 16, "hk": 1},
    "group of 3": {"hq": 6},
    "one head a group": {"hq": 3, "hk": 3},
    "group of 33": {"hq": 33, "hk": 1},
    "odd head sizes": {"d_qk": 24, "d_v": 20},
    "tiny heads": {"d_qk": 2, "d_v": 1},
    "values wider than keys": {"d_qk": 16, "d_v": 40},
    "no positions": {"base": None, "d_qk": 5},
    "scale": {"scale": 0.3},
    "negative scale": {"scale": -0.5},
    "wide φ": {"hidden": 150},  # ten tiles of columns in float32, the last not full
    "batch": {"batch": 3},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16][: 1 if INTERPRETED else 2], ids=str)
def test_shapes(shape, dtype):
    problem = problem_of(CONFIGS["small"], t=44, dtype=dtype, **shape)
    cache = filled(problem, [41] * problem.batch)
    new, q, gates = problem.new([41] * problem.batch, 3)
    cache.append(**new, backend="triton")
    check_step(cache, q, gates, problem.scale)
    for name, whole in zip(STORED, problem.compressed(), strict=False):
        assert error(getattr(cache, name).transpose(1, 2), whole) < COMPRESSED[dtype], name


@cases.by_head_size
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_head_sizes_of_models_and_the_papers_blocks(d_qk, d_v, dtype):
    problem = problem_of(NSAConfig(top_n=6, window=100), batch=1, t=600, d_qk=d_qk, d_v=d_v, dtype=dtype)
    cache = filled(problem, [590])
    new, q, gates = problem.new([590], 2)
    cache.append(**new, backend="triton")
    check_step(cache, q, gates, problem.scale)


@cases.sweep(data=st.data())
def test_any_pattern_of_appends(data):
    """Rows of different lengths, several tokens at once, drafts taken back, PyTorch's append in between."""
    config = data.draw(st.sampled_from(list(CONFIGS.values())))
    dtype, batch = data.draw(st.sampled_from([torch.float32, torch.bfloat16])), data.draw(st.integers(1, 3))
    problem = problem_of(config, batch=batch, t=45, dtype=dtype, seed=data.draw(st.integers(0, 2**31)))
    cache = filled(
        problem, data.draw(st.lists(st.integers(0, 30), min_size=batch, max_size=batch)), max_append=7
    )
    for _ in range(2):
        lengths = cache.row_lengths
        counts = [data.draw(st.integers(0, min(problem.t - length, 7))) for length in lengths]
        new, q, gates = problem.new(lengths, max(counts))
        cache.append(
            **new, counts=counts, backend=data.draw(st.sampled_from(["triton", "triton", "reference"]))
        )
        assert cache.lengths.tolist() == cache.row_lengths
        if max(counts):
            check_step(cache, q, gates, problem.scale, counts)
        back = [data.draw(st.integers(0, min(count, 2))) for count in counts]
        cache.truncate([length - count for length, count in zip(cache.row_lengths, back, strict=True)])


@pytest.mark.parametrize("choices", [0, 1])
@pytest.mark.parametrize(
    ("splits", "window_parts", "chosen_parts"), [(1, 1, 1), (2, 3, 2), (3, 1, 5), (5, 2, 4), (16, 4, 3)]
)
def test_however_the_work_is_cut(splits, window_parts, chosen_parts, choices):
    config = NSAConfig(4, 2, 4, top_n=8, window=70)
    problem = problem_of(config, batch=1, t=300, hq=2, hk=1)
    cache = filled(problem, [300])
    _, q, gates = problem.new([299], 1)
    cuts = {"SPLITS": splits, "WINDOW_PARTS": window_parts, "CHOSEN_PARTS": chosen_parts, "CHOICES": choices}
    out = check_step(cache, q, gates, problem.scale, **cuts)
    assert torch.equal(out, check_step(cache, q, gates, problem.scale, **cuts))  # counters are back at zero
    assert error(check_step(cache, q, gates, problem.scale, **cuts, KEYS_FIRST=False), out) < 1e-6


@triton.jit
def list_programs(out, pairs, SPLITS: tl.constexpr, WINDOW_PARTS: tl.constexpr, CHOICES: tl.constexpr,
                  CHOSEN_PARTS: tl.constexpr, WAVE: tl.constexpr, KEYS_FIRST: tl.constexpr):  # fmt: skip
    program = tl.program_id(0)
    if KEYS_FIRST:
        pair, part = what_to_do_in_one_group(program, pairs, SPLITS, WINDOW_PARTS, CHOICES, CHOSEN_PARTS)
    else:
        pair, part = what_to_do(program, pairs, SPLITS, WINDOW_PARTS, CHOICES, CHOSEN_PARTS, WAVE)
    tl.store(out + 2 * program, pair)
    tl.store(out + 2 * program + 1, part)


@pytest.mark.parametrize(
    ("pairs", "splits", "window", "choices", "chosen", "wave"),
    [
        (4, 2, 1, 1, 2, 2), (5, 3, 2, 2, 4, 2), (3, 1, 1, 1, 1, 3), (7, 2, 1, 3, 3, 4), (6, 2, 2, 1, 2, 1),
        (1, 1, 1, 1, 1, 8), (4, 2, 1, 1, 2, None), (1, 1, 1, 1, 1, None), (5, 3, 2, 4, 5, None),
        (1, 1, 1, 0, 1, None), (4, 3, 2, 0, 5, None), (5, 2, 1, 0, 2, 2),
    ],
)  # fmt: skip
def test_every_program_waits_for_earlier_ones_only(pairs, splits, window, choices, chosen, wave):
    """Else a GPU full of programs that wait would wait for ever."""
    parts = splits + window + 1 + choices + 1 + chosen
    one_group = wave is None
    wave = wave or pairs
    programs = -(-pairs // wave) * wave * parts
    out = torch.full((programs, 2), -1, dtype=torch.int32, device=DEVICE)
    list_programs[(programs,)](out, pairs, splits, window, choices, chosen, wave, one_group)
    order = [(pair, part) for pair, part in out.tolist() if pair < pairs]
    assert sorted(order) == [(pair, part) for pair in range(pairs) for part in range(parts)]
    at = {job: i for i, job in enumerate(order)}
    forced = splits + window
    for pair in range(pairs):
        scans = [at[pair, part] for part in range(splits)]
        choice = [at[pair, forced + 1 + i] for i in range(choices)]
        readers = [at[pair, part] for part in range(forced + 2 + choices, parts)]
        assert max(scans) < min(choice + readers)
        assert max(scans) < at[pair, forced + 1 + choices]  # the sum
        assert max(choice, default=0) < min(readers)


@pytest.mark.parametrize("t", [300, 1200])
@pytest.mark.parametrize("choices", [0, 1, 3])
def test_a_choice_among_more_blocks_than_are_looked_at_together(choices, t):
    """150 blocks in one chunk, 600 in three, whose lists are merged; and one warp's list has all the best."""
    problem = problem_of(NSAConfig(2, 1, 2, top_n=9), batch=1, t=t, hq=2, hk=1)
    cache = filled(problem, [t])
    _, q, gates = problem.new([t - 2], 2)
    if choices == 0 and t > 512:
        with pytest.raises(ValueError, match="CHOICES: got 0, expected 1 or more, for 3 chunks"):
            check_step(cache, q, gates, problem.scale, CHOICES=choices)
        return
    check_step(cache, q, gates, problem.scale, CHOICES=choices)
    cache.k_cmp[0, 0, 40:80:4] = 4 * q[0, 0, 0]
    check_step(cache, q, gates, problem.scale, CHOICES=choices)


@pytest.mark.parametrize("length", [63, 64, 65, 72])
def test_a_block_that_begins_a_tile_without_compressed_keys(length):
    """The newest blocks lie in a tile of which no compressed key is complete."""
    config = NSAConfig(8, 2, 4, top_n=6)
    problem = problem_of(config, batch=1, t=80, hq=2, hk=1)
    cache = filled(problem, [length], capacity=length)
    _, q, gates = problem.new([length - 1], 1)
    check_step(cache, q, gates, problem.scale)


def test_ties_go_to_the_earlier_block():
    """Queries of zeros: every compressed key weighs the same, and a power of two of them adds up exactly."""
    config = NSAConfig(2, 2, 4, top_n=5)
    problem = problem_of(config, batch=1, t=64, hq=2, hk=1)
    cache = filled(problem, [64])
    _, q, gates = problem.new([63], 1)
    chosen = decode_triton(torch.zeros_like(q), cache, gates, problem.scale, None)[1]
    assert chosen.flatten().tolist() == [1, 2]
    assert (
        cases.error(
            nsa_decode(torch.zeros_like(q), cache, gates, backend="triton"),
            decode_reference(torch.zeros_like(q).double(), exact(cache), gates.double(), problem.scale, [1])[
                0
            ],
        )
        < 1e-6
    )


def test_weights_far_below_the_largest_still_order_the_blocks():
    """A key that takes all the attention, early on: the others weigh less than 1e-10 and keep their order."""
    config = NSAConfig(4, 2, 4, top_n=6)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        problem = problem_of(config, batch=1, t=300, hq=2, hk=1, dtype=dtype)
        cache = filled(problem, [300])
        _, q, gates = problem.new([299], 1)
        cache.k_cmp[0, 0, 3] = 8 * q[0, 0, 0]
        cache.k_cmp[0, 0, 4] = 8 * q[0, 0, 1]
        assert importance_of(q, cache, problem.scale, torch.tensor([[299]], device=DEVICE)).amin() < 1e-10
        check_step(cache, q, gates, problem.scale)


def test_rows_that_are_empty_or_short():
    problem = problem_of(CONFIGS["small"], batch=4)
    cache = filled(problem, [0, 1, 3, 40], capacity=48)
    problem.t = 48
    new, q, gates = problem.new([0, 1, 3, 36], 4)
    counts = [0, 1, 4, 0]
    cache.append(**new, counts=counts, backend="triton")
    assert cache.lengths.tolist() == [0, 2, 7, 40]
    check_step(cache, q, gates, problem.scale, counts)


def test_only_forced_blocks():
    problem = problem_of(NSAConfig(4, 2, 8, top_n=3, window=6))
    cache = filled(problem, [40, 39])
    _, q, gates = problem.new([39, 38], 1)
    check_step(cache, q, gates, problem.scale)


def test_what_the_query_does_not_read_may_be_anything():
    """NaN in every block that was not selected, and behind the end of the rows."""
    problem = problem_of(CONFIGS["small"], batch=1, t=64, hk=1, hq=2)
    cache = filled(problem, [57], capacity=70)
    _, q, gates = problem.new([56], 1)
    out, chosen = decode_triton(q, cache, gates, problem.scale, None)
    read = all_blocks(chosen, torch.tensor([[56]], device=DEVICE), problem.config)
    token = torch.arange(70, device=DEVICE)
    unread = ~torch.isin(token // 8, read) | (token > 56)
    cache.k_slc[:, :, unread] = torch.nan
    cache.v_slc[:, :, unread] = torch.nan
    tc = problem.config.num_compressed(57)
    cache.k_cmp[:, :, tc:] = torch.nan
    cache.v_cmp[:, :, tc:] = torch.nan
    assert torch.equal(decode_triton(q, cache, gates, problem.scale, None)[0], out)


def test_layouts_that_are_not_contiguous():
    problem = problem_of(CONFIGS["small"])
    cache, other = filled(problem, [30, 30]), filled(problem, [30, 30])
    new, q, gates = problem.new([30, 30], 3)
    cache.append(**new, backend="triton")
    twisted = lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)
    other.append(**{name: twisted(x) for name, x in new.items()}, backend="triton")
    assert torch.equal(cache.k_cmp, other.k_cmp)
    out = nsa_decode(q, cache, gates, backend="triton")
    assert torch.equal(out, nsa_decode(twisted(q), other, twisted(gates), backend="triton"))


def test_what_the_kernels_do_not_take(no_runtime_types):
    problem = problem_of(CONFIGS["small"], dtype=torch.float64)
    cache = problem.cache()
    new, q, gates = problem.new([0, 0], 1)
    with pytest.raises(
        ValueError, match="backend: got 'triton', expected 'auto' or 'reference'; the kernels"
    ):
        cache.append(**new, backend="triton")
    assert cache.length == 0
    cache.append(**new)  # auto
    with pytest.raises(ValueError, match=r"the kernels take .*, not torch.float64"):
        nsa_decode(q, cache, gates, backend="triton")

    problem = problem_of(CONFIGS["small"])
    cache = problem.cache()
    new = problem.new([0, 0], 1)[0]
    cache.compress_keys = cache.compress_keys.double()
    with pytest.raises(
        ValueError, match=r"compress_keys: got torch.float64 on .*, expected torch.float32 on"
    ):
        cache.append(**new, backend="triton")
    cache.compress_keys = lambda blocks: blocks.mean(-2)
    with pytest.raises(ValueError, match="backend: got 'triton', expected 'reference' for a φ that is no"):
        cache.append(**new, backend="triton")
    assert cache.lengths.tolist() == [0, 0]
    assert not cache.k_slc.any()
    long = problem_of(NSAConfig(1, 1, 128), d_qk=2, d_v=2).cache()
    assert "blocks of at most 64 strides" in decode.refusal(long)
    assert "heads of at most 256" in decode.refusal(problem_of(CONFIGS["small"], d_qk=258).cache())


@pytest.mark.skipif(not INTERPRETED, reason="a GPU takes the kernels")
def test_auto_takes_plain_pytorch_on_a_cpu(monkeypatch):
    monkeypatch.setattr(decode, "decode_triton", None)
    problem = problem_of(CONFIGS["small"])
    cache = filled(problem, [30, 30])
    assert nsa_decode(*problem.new([29, 29], 1)[1:2], cache, problem.new([29, 29], 1)[2]).isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3])
def test_a_recorded_step_replays_while_rows_grow(batch):
    """One graph for all lengths: append, φ every stride, choice and branches; some rows start shorter."""
    config = NSAConfig()
    problem = Problem(
        config, batch=batch, t=1400, hq=32, hk=2, d_qk=64, d_v=64, dtype=torch.bfloat16, device=DEVICE
    )
    starts = [1300 - 17 * row for row in range(batch)]
    cache, plain = filled(problem, starts), filled(problem, starts)
    new, q, gates = problem.new(starts, 1)
    static = {name: x.clone() for name, x in new.items()} | {"q": q.clone(), "gates": gates.clone()}

    def step():
        cache.append(**{name: static[name] for name in new}, backend="triton")
        return nsa_decode(static["q"], cache, static["gates"], backend="triton")

    step()  # compiles
    cache.truncate(starts)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    assert cache.row_lengths == cache.lengths.tolist() == starts
    for i in range(70):
        lengths = [start + i for start in starts]
        fresh, q, gates = problem.new(lengths, 1)
        for name, x in (fresh | {"q": q, "gates": gates}).items():
            static[name].copy_(x)
        cache.replayed()
        graph.replay()
        plain.append(**fresh, backend="triton")
        assert torch.equal(out, nsa_decode(q, plain, gates, backend="triton"))
        if i == 40:  # a draft of 3 tokens is refused and given again
            cache.truncate([length - 2 for length in lengths])
            for back in (2, 1, 0):
                again = problem.new([length - back for length in lengths], 1)[0]
                cache.truncate([length - back for length in lengths])
                for name, x in again.items():
                    static[name].copy_(x)
                cache.replayed()
                graph.replay()
    assert cache.row_lengths == cache.lengths.tolist() == [start + 70 for start in starts]
    for name in STORED:
        assert torch.equal(getattr(cache, name), getattr(plain, name)), name
    check_step(cache, q, gates, problem.scale)


@pytest.mark.gpu
def test_generation_by_replays_is_generation():
    """The whole decoder, over the ends of several strides and blocks; and a second prompt with it."""
    config = DecoderConfig(vocab_size=97, dim=256, num_layers=2, num_heads=32, num_kv_heads=2, head_dim=64)
    attention = functools.partial(NativeSparseAttention, config=NSAConfig(top_n=6, window=128))
    model = Decoder(config, attention=attention, generator=torch.Generator().manual_seed(0))
    model = model.to(DEVICE, torch.bfloat16).eval()
    prompt = torch.randint(97, (2, 500), device=DEVICE)
    step = lambda tokens, cache: model(tokens, cache=cache)[:, -1].argmax(-1, keepdim=True)
    for start in (500, 333):
        plain, replayed = model.new_cache(2, 700), model.new_cache(2, 700)
        with torch.no_grad():
            new = step(prompt[:, :start], plain)
            assert torch.equal(new, step(prompt[:, :start], replayed))
            recorded = RecordedStep(model, replayed, 2)
            assert replayed[0].lengths.tolist() == [start] * 2
            for _ in range(150):
                expected = model(new, cache=plain)
                assert torch.equal(recorded(new), expected)
                new = expected[:, -1].argmax(-1, keepdim=True)
        assert [layer.length for layer in replayed] == [layer.length for layer in plain]
        for name in STORED:
            assert torch.equal(getattr(replayed[1], name), getattr(plain[1], name)), name
    assert len(generate(model, prompt, 3, cuda_graph=True)[0]) == 503
    for layer in replayed:
        layer.replayed(700 - layer.length)
    with pytest.raises(ValueError, match="cache: got 701 tokens"):
        recorded(new)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("batch", "t"),
    [
        pytest.param(1, 8192, id="8k"),
        pytest.param(8, 65536, id="64k"),
        pytest.param(66, 65536, id="more than 2^31 numbers", marks=pytest.mark.large),
        pytest.param(1, 300_000, id="300k"),
    ],
)
def test_at_the_size_of_models(batch, t):
    generator = torch.Generator("cuda").manual_seed(0)
    small = Problem(NSAConfig(), batch=1, t=1, hq=64, hk=4, d_qk=128, d_v=128, hidden=256, base=10000.0,
                    dtype=torch.bfloat16, device=DEVICE)  # fmt: skip
    small.batch = batch
    cache = small.cache(capacity=t + 8)
    for name in STORED:
        getattr(cache, name).normal_(generator=generator)
    cache.replayed(t)
    cache.lengths.fill_(t)
    draw = lambda *shape: torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
    for _ in range(2):
        new = {name: draw(batch, 1, 4, 128) for name in small.tokens}
        cache.append(**new, backend="triton")
    last = batch - 1
    assert torch.equal(cache.k_slc[last, :, t + 1], new["k_slc"][last, 0])
    q, gates = draw(batch, 2, 64, 128), draw(batch, 2, 64, 3).sigmoid()
    out, chosen = decode_triton(q, cache, gates, 128**-0.5, None)
    one = copy.copy(cache)  # the last row, whose numbers lie behind 2^31
    one.batch, one.lengths, one._lengths = 1, cache.lengths[-1:], cache.row_lengths[-1:]
    for name in STORED:
        setattr(one, name, getattr(cache, name)[-1:])
    positions = query_positions(one, 2, [2])
    blocks = all_blocks(chosen[-1:], positions, cache.config)
    wide = exact(one)
    expected, _ = decode_reference(q[-1:].double(), wide, gates[-1:].double(), 128**-0.5, [2], blocks)
    assert error(out[-1:], expected) < WHOLE[torch.bfloat16]
    best = decode_reference(q[-1:].double(), wide, gates[-1:].double(), 128**-0.5, [2])[1]
    assert torch.equal(blocks.sort(dim=-1).values, best.sort(dim=-1).values)
