"""Append and step in one launch (decode_short.py), against float64 and against two launches."""

import pytest
import torch
from hypothesis import strategies as st

from minisys.nsa import NSAConfig, nsa_decode, nsa_step

from . import kernel_cases as cases
from .cache_cases import CONFIGS, Problem
from .kernel_cases import DEVICE, WHOLE, error
from .test_kernels_decode import (  # noqa: F401 (_poisoned is a fixture)
    SHAPES,
    STORED,
    _poisoned,
    all_blocks,
    check_output,
    check_step,
    filled,
    problem_of,
)

from minisys.nsa.kernels import decode  # isort: skip  (skipped without Triton)
from minisys.nsa.kernels.decode import can_be_short, decode_triton  # isort: skip
from minisys.nsa.kernels.decode_short_launch import short_step_triton  # isort: skip

TAKEN = {name: config for name, config in CONFIGS.items() if name != "window of one"}  # 3 strides a block
# Not taken: heads that are no multiple of 16 bytes, groups of more than 32.
SHORT_SHAPES = {
    name: {**shape, "d_qk": 8} if name == "no positions" else shape
    for name, shape in SHAPES.items()
    if name not in ("group of 33", "tiny heads")
}


def check_short_step(cache, new, q, gates, scale, **cuts):
    """One step, compared with float64 on what the cache holds after it; returns the output."""
    assert can_be_short(cache)
    ends = [length + 1 for length in cache.row_lengths]
    out, chosen = short_step_triton(q, cache, gates, new, scale, **cuts)
    cache._moved(ends)
    assert cache.lengths.tolist() == ends
    check_output(out, chosen, cache, q, gates, scale)
    return out


def check_same(cache, other):
    for name in STORED:
        assert torch.equal(getattr(cache, name), getattr(other, name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", TAKEN.values(), ids=TAKEN.keys())
def test_one_step_after_the_other(config, dtype):
    problem = problem_of(config, t=42, dtype=dtype)
    cache, plain = filled(problem, [35, 37]), filled(problem, [35, 37])
    for i in range(3):
        new, q, gates = problem.new([35 + i, 37 + i], 1)
        check_short_step(cache, new, q, gates, problem.scale)
        plain.append(**new, backend="triton")
        check_same(cache, plain)


def test_the_first_tokens():
    problem = problem_of(CONFIGS["small"], t=40)
    cache, plain = problem.cache(), problem.cache()
    for position in range(5):
        new, q, gates = problem.new([position] * 2, 1)
        check_short_step(cache, new, q, gates, problem.scale)
        plain.append(**new, backend="triton")
        check_same(cache, plain)


@pytest.mark.parametrize("shape", SHORT_SHAPES.values(), ids=SHORT_SHAPES.keys())
def test_shapes(shape):
    problem = problem_of(CONFIGS["small"], t=44, **shape)
    rows = [41] * problem.batch
    cache, plain = filled(problem, rows), filled(problem, rows)
    new, q, gates = problem.new(rows, 1)  # completes a block
    check_short_step(cache, new, q, gates, problem.scale)
    plain.append(**new, backend="triton")
    check_same(cache, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [575, 590])
def test_the_papers_blocks(dtype, length):
    problem = problem_of(NSAConfig(top_n=6, window=100), batch=1, t=600, d_qk=128, d_v=128, dtype=dtype)
    cache = filled(problem, [length])
    new, q, gates = problem.new([length], 1)
    check_short_step(cache, new, q, gates, problem.scale)


@pytest.mark.parametrize(("window_parts", "chosen_parts"), [(1, 1), (3, 2), (2, 4)])
def test_however_the_work_is_cut(window_parts, chosen_parts):
    problem = problem_of(NSAConfig(4, 2, 4, top_n=7, window=70), batch=1, t=300, hq=2, hk=1)
    cache = filled(problem, [290])
    for i in range(2):
        new, q, gates = problem.new([290 + i], 1)
        cuts = {"WINDOW_PARTS": window_parts, "CHOSEN_PARTS": chosen_parts}
        out = check_short_step(cache, new, q, gates, problem.scale, **cuts)
        assert error(out, decode_triton(q, cache, gates, problem.scale, None)[0]) < 1e-6


@cases.sweep(data=st.data())
def test_any_pattern_of_steps_and_appends(data):
    """Rows of different lengths, steps and appends of several tokens in turn, drafts taken back."""
    config = data.draw(st.sampled_from(list(TAKEN.values())))
    batch = data.draw(st.integers(1, 3))
    problem = problem_of(config, batch=batch, t=45, seed=data.draw(st.integers(0, 2**31)))
    lengths = st.lists(st.integers(0, 30), min_size=batch, max_size=batch)
    cache = filled(problem, data.draw(lengths), max_append=7)
    for _ in range(3):
        lengths = cache.row_lengths
        if data.draw(st.booleans()):
            new, q, gates = problem.new(lengths, 1)
            check_short_step(cache, new, q, gates, problem.scale)
        else:
            counts = [data.draw(st.integers(0, 3)) for _ in lengths]
            new, q, gates = problem.new(lengths, max(counts))
            cache.append(**new, counts=counts, backend=data.draw(st.sampled_from(["triton", "reference"])))
        back = [data.draw(st.integers(0, min(length - before, 2)))
                for length, before in zip(cache.row_lengths, lengths, strict=True)]  # fmt: skip
        cache.truncate([length - count for length, count in zip(cache.row_lengths, back, strict=True)])
        assert cache.lengths.tolist() == cache.row_lengths


def test_only_forced_blocks():
    problem = problem_of(NSAConfig(4, 2, 8, top_n=3, window=6))
    cache = filled(problem, [39, 38])
    new, q, gates = problem.new([39, 38], 1)
    check_short_step(cache, new, q, gates, problem.scale)


def test_what_the_query_does_not_read_may_be_anything():
    """NaN in blocks that are not selected, behind the end of the row, and where the new token goes."""
    problem = problem_of(CONFIGS["small"], batch=1, t=64, hk=1, hq=2)
    cache, other = filled(problem, [57], capacity=70), filled(problem, [57], capacity=70)
    new, q, gates = problem.new([57], 1)  # completes a block
    out, chosen = short_step_triton(q, cache, gates, new, problem.scale)
    read = all_blocks(chosen, torch.tensor([[57]], device=DEVICE), problem.config)
    token = torch.arange(70, device=DEVICE)
    unread = ~torch.isin(token // 8, read) | (token >= 57)
    in_window = torch.arange(57 - 5, 57, device=DEVICE) % other.k_win.shape[2]
    slots = torch.arange(other.k_win.shape[2], device=DEVICE)
    for k in "kv":
        getattr(other, f"{k}_slc")[:, :, unread] = torch.nan
        getattr(other, f"{k}_cmp")[:, :, problem.config.num_compressed(57) :] = torch.nan
        getattr(other, f"{k}_win")[:, :, ~torch.isin(slots, in_window)] = torch.nan
    assert torch.equal(short_step_triton(q, other, gates, new, problem.scale)[0], out)


def test_nsa_step_takes_it_for_one_token_of_short_rows(monkeypatch):
    monkeypatch.setattr(decode, "is_short", can_be_short)
    launched = []

    def launch(*arguments):
        launched.append(1)
        return short_step_triton(*arguments)

    monkeypatch.setattr("minisys.nsa.kernels.decode_short_launch.short_step_triton", launch)
    problem = problem_of(CONFIGS["small"], t=44)
    cache, plain = filled(problem, [33, 33]), filled(problem, [33, 33])
    position = 33
    for count in (1, 2, 1, 1):
        new, q, gates = problem.new([position] * 2, count)
        out = nsa_step(q, cache, gates, **new, start=position, backend="triton")
        plain.append(**new, backend="triton")
        assert error(out, nsa_decode(q, plain, gates, backend="triton")) < 1e-6
        check_same(cache, plain)
        position += count
        assert cache.row_lengths == cache.lengths.tolist() == [position] * 2
    assert len(launched) == 3


def test_which_rows_are_short():
    small = problem_of(CONFIGS["small"])
    assert can_be_short(small.cache())
    assert not can_be_short(problem_of(CONFIGS["window of one"]).cache())
    assert not can_be_short(problem_of(CONFIGS["small"], d_qk=6).cache())
    assert not can_be_short(problem_of(CONFIGS["small"], d_v=136).cache())
    assert not can_be_short(small.cache(capacity=100_000))
    paper = problem_of(NSAConfig(), batch=1, hk=4, d_qk=128, d_v=128, dtype=torch.bfloat16)
    assert can_be_short(paper.cache(capacity=16384))
    assert not can_be_short(paper.cache(capacity=16385))


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3])
def test_a_recorded_step_replays_while_rows_grow(batch):
    """One graph, with drafts taken back and appends by other launches in between."""
    problem = Problem(
        NSAConfig(), batch=batch, t=1400, hq=32, hk=2, d_qk=64, d_v=64, dtype=torch.bfloat16, device=DEVICE
    )
    starts = [1300 - 17 * row for row in range(batch)]
    cache, plain = filled(problem, starts), filled(problem, starts)
    assert decode.is_short(cache)
    new, q, gates = problem.new(starts, 1)
    static = {name: x.clone() for name, x in (new | {"q": q, "gates": gates}).items()}
    step = lambda: nsa_step(cache=cache, **static, backend="triton")
    step()  # compiles
    cache.truncate(starts)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    assert cache.row_lengths == cache.lengths.tolist() == starts

    def replay(lengths):
        fresh, q, gates = problem.new(lengths, 1)
        for name, x in (fresh | {"q": q, "gates": gates}).items():
            static[name].copy_(x)
        cache.replayed()
        graph.replay()
        return fresh, q, gates

    for i in range(70):
        lengths = [start + i for start in starts]
        if i % 9 == 8:
            fresh = problem.new(lengths, 1)[0]
            cache.append(**fresh, backend="triton" if i % 2 else "reference")
            plain.append(**fresh, backend="triton")
            continue
        fresh, q, gates = replay(lengths)
        plain.append(**fresh, backend="triton")
        assert error(out, nsa_decode(q, plain, gates, backend="triton").double()) < WHOLE[torch.bfloat16]
        if i == 40:  # a draft of 3 tokens is refused and given again
            for back in (2, 1, 0):
                cache.truncate([length - back for length in lengths])
                replay([length - back for length in lengths])
    assert cache.row_lengths == cache.lengths.tolist() == [start + 70 for start in starts]
    for name in STORED:
        assert error(getattr(cache, name), getattr(plain, name).double()) < 1e-3, name
    check_step(cache, q, gates, problem.scale)


@pytest.mark.gpu
@pytest.mark.parametrize(("batch", "t"), [(1, 8192), (2, 8192), (1, 16384)])
def test_at_the_size_of_models(batch, t):
    """Forty steps with fresh numbers, two or three of which complete a block; caches are equal to the bit."""
    generator = torch.Generator("cuda").manual_seed(batch + t)
    small = Problem(NSAConfig(), batch=1, t=1, hq=64, hk=4, d_qk=128, d_v=128, hidden=256, base=10000.0,
                    dtype=torch.bfloat16, device=DEVICE)  # fmt: skip
    small.batch = batch
    cache, plain = small.cache(capacity=t), small.cache(capacity=t)
    assert decode.is_short(cache)
    for name in STORED:
        getattr(plain, name).copy_(getattr(cache, name).normal_(generator=generator))
    for one in (cache, plain):
        one.replayed(t - 40)
        one.lengths.fill_(t - 40)
    draw = lambda *shape: torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
    for _ in range(40):
        new = {name: draw(batch, 1, 4, 128) for name in small.tokens}
        q, gates = draw(batch, 1, 64, 128), draw(batch, 1, 64, 3).sigmoid()
        out = nsa_step(q, cache, gates, **new, backend="triton")
        plain.append(**new, backend="triton")
        expected, chosen = decode_triton(q, plain, gates, 128**-0.5, None)
        assert error(out, expected.double()) < WHOLE[torch.bfloat16]
        check_same(cache, plain)
    check_output(out, chosen, cache, q, gates, 128**-0.5)
