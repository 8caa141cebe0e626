"""The cache: whatever the pattern of appends, decoding gives what the whole sequence gives."""

import copy

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from minisys.nsa import NSACache, NSAConfig, nsa_decode

from .cache_cases import CONFIGS, Problem

by_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def held(cache):
    """Everything that a cache holds, to see whether it changed."""
    tensors = {name: x.clone() for name, x in vars(cache).items() if isinstance(x, torch.Tensor)}
    return tensors, cache.row_lengths, list(cache._least)


def same(before, after):
    return before[1:] == after[1:] and all(torch.equal(x, after[0][name]) for name, x in before[0].items())


def fed(problem, cache, ends, counts=None):
    """Append up to `ends`, in pieces that the cache takes."""
    while cache.row_lengths != ends:
        held_now = cache.row_lengths
        counts = [min(end - now, cache.max_append) for end, now in zip(ends, held_now, strict=True)]
        cache.append(**problem.new(held_now, max(counts))[0], counts=counts)
    return cache


@by_config
@pytest.mark.parametrize("first", [0, 1, 13])
def test_one_token_after_the_other(config, first):
    problem = Problem(config)
    cache, expected = problem.cache(), problem.whole()
    if first:
        cache.prefill(**problem.new([0, 0], first)[0])
    for position in range(first, problem.t):
        new, q, gates = problem.new([position] * 2, 1)
        cache.append(**new, start=position)
        out = nsa_decode(q, cache, gates)
        torch.testing.assert_close(out, expected[:, position : position + 1], rtol=0, atol=1e-12)
    assert cache.length == problem.t


# Looking for a smaller example that fails would take minutes.
@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
@given(data=st.data())
def test_any_pattern_of_prefill_appends_and_truncation(data):
    """Rows of different lengths, several tokens at once, drafts that are taken back and given again."""
    config = data.draw(st.sampled_from(list(CONFIGS.values())))
    group, hk = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.integers(1, 2))
    problem = Problem(
        config, batch=data.draw(st.integers(1, 3)), t=data.draw(st.integers(1, 45)), hq=group * hk, hk=hk,
        base=data.draw(st.sampled_from([None, 100.0])), scale=data.draw(st.sampled_from([None, -0.6])),
        seed=data.draw(st.integers(0, 2**31)),
    )  # fmt: skip
    expected = problem.whole()
    cache = problem.cache(max_append=data.draw(st.integers(1, 9)))
    lengths = data.draw(st.lists(st.integers(0, problem.t), min_size=problem.batch, max_size=problem.batch))
    cache.prefill(**problem.new([0] * problem.batch, max(lengths))[0], lengths=lengths)
    high = list(lengths)
    for _ in range(data.draw(st.integers(1, 6))):
        lengths = cache.row_lengths
        most = [min(problem.t - length, cache.max_append) for length in lengths]
        counts = [data.draw(st.integers(0, count)) for count in most]
        new, q, gates = problem.new(lengths, max(counts))
        cache.append(**new, counts=counts)
        high = [max(h, length + count) for h, length, count in zip(high, lengths, counts, strict=True)]
        out = nsa_decode(q, cache, gates, scale=problem.scale, counts=counts)
        for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
            exact = expected[row, length : length + count]
            torch.testing.assert_close(out[row, :count], exact, rtol=0, atol=1e-12)
            assert not out[row, count:].any()
        least = [max(0, h - cache.max_append) for h in high]
        keep = [
            data.draw(st.integers(min(low, length), length))
            for low, length in zip(least, cache.row_lengths, strict=True)
        ]
        cache.truncate(keep)
        high = [h if k else 0 for h, k in zip(high, keep, strict=True)]
        assert cache.row_lengths == cache.lengths.tolist() == keep


@by_config
def test_compressed_keys_are_those_of_the_whole_sequence(config):
    problem = Problem(config)
    cache = fed(problem, problem.cache(max_append=5), [40, 33])
    for name, exact in zip(("k_cmp", "v_cmp"), problem.compressed(), strict=True):
        for row, length in enumerate([40, 33]):
            tc = config.num_compressed(length)
            stored = getattr(cache, name)[row, :, :tc].transpose(0, 1)
            torch.testing.assert_close(stored, exact[row, :tc], rtol=0, atol=1e-13)


def test_phi_runs_once_for_each_block():
    """Amortised: no append computes a block again, and most compute none."""
    problem, calls = Problem(CONFIGS["small"], batch=1), []

    def counted(blocks):
        calls.append(blocks.shape[1])
        return blocks.mean(-2)

    cache = problem.cache()
    cache.compress_values = counted
    for position in range(40):
        cache.append(**problem.new([position], 1)[0])
    assert calls == [1] * CONFIGS["small"].num_compressed(40)


def test_any_phi_compresses():
    problem = Problem(CONFIGS["small"])
    mean = lambda blocks: blocks.mean(-2)
    once, stepwise = problem.cache(), problem.cache()
    for cache in (once, stepwise):
        cache.compress_keys = cache.compress_values = mean
    once.prefill(**problem.tokens)
    fed(problem, stepwise, [40, 40])
    for name in ("k_cmp", "v_cmp", "k_slc", "v_slc"):
        torch.testing.assert_close(getattr(once, name), getattr(stepwise, name), rtol=0, atol=1e-14)


def test_prefill_takes_compressed_keys_that_are_there():
    problem = Problem(CONFIGS["small"])
    cache, given = problem.cache(), problem.compressed()
    cache.prefill(**problem.tokens, compressed=tuple(x * 3 for x in given))
    assert torch.equal(cache.k_cmp, given[0].transpose(1, 2) * 3)


def test_what_stands_behind_a_row_is_never_read():
    problem = Problem(CONFIGS["small"])
    cache = problem.cache()
    cache.prefill(**problem.new([25, 35], 15)[0], lengths=[15, 5])  # NaN behind the 5
    new, q, gates = problem.new([30, 39], 3)
    cache.append(**new, counts=[3, 1])
    assert nsa_decode(q.nan_to_num(), cache, gates.nan_to_num(), counts=[3, 1]).isfinite().all()


def test_rings_have_a_fixed_size_and_rows_their_capacity():
    config = NSAConfig()
    phi = lambda blocks: blocks.mean(-2)
    cache = NSACache(1, 1000, 2, 8, 4, config=config, compress_keys=phi, compress_values=phi, max_append=16)
    assert cache.k_win.shape == (1, 2, 512 + 15, 8)
    assert cache.v_raw.shape == (1, 2, 32 + 15, 4)
    assert cache.v_cmp.shape == (1, 2, 61, 4)
    assert cache.k_slc.shape == (1, 2, 1000, 8)
    assert cache.nbytes == 4 * 2 * 12 * (527 + 47 + 61 + 1000)


# Bad input leaves the cache as it was.


def change(name, f):
    return lambda arguments: arguments["new"].update({name: f(arguments["new"][name])})


BAD_APPENDS = {
    "too many at once": (lambda a: a.update(t=6), "k_slc: got 6 tokens, expected at most max_append = 5"),
    "no room": (lambda a: a.update(t=4), "cache: got 41 tokens, expected at most capacity = 40"),
    "no room in one row": (
        lambda a: a.update(t=4, counts=[4, 0]),
        "cache: got 41 tokens, expected at most capacity = 40",
    ),
    "later than next": (lambda a: a.update(start=38), r"start: got 38, expected the next .*\[37, 30\]"),
    "before next": (lambda a: a.update(start=[37, 29]), r"start: got \[37, 29\], expected the next"),
    "shapes differ": (change("v_win", lambda x: x[:, :1]), r"v_win: got shape \(2, 1, 2, 5\)"),
    "batch": (change("k_raw", lambda x: x[:1]), r"k_raw: got shape \(1, 2, 2, 6\), expected \(2, 2, 2, 6\)"),
    "heads": (change("k_win", lambda x: x[:, :, :1]), "k_win: got"),
    "rank": (change("k_raw", lambda x: x[0]), r"k_raw: got shape \(2, 2, 6\), expected 4 axes"),
    "dtype": (change("v_slc", lambda x: x.float()), "v_slc: got torch.float32, expected torch.float64"),
    "counts": (lambda a: a.update(counts=[1, 3]), r"counts: got \[1, 3\], expected numbers from 0 to 2"),
    "negative count": (lambda a: a.update(counts=[1, -1]), r"counts: got \[1, -1\]"),
    "counts of other rows": (lambda a: a.update(counts=[1]), "counts: got 1 numbers, expected 2, one a row"),
    "backend": (lambda a: a.update(backend="sdpa"), "backend: got 'sdpa', expected one of 'auto'"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD_APPENDS.values(), ids=BAD_APPENDS.keys())
def test_a_bad_append_changes_nothing(spoil, message, no_runtime_types):
    problem = Problem(CONFIGS["small"], t=60)
    cache = fed(problem, problem.cache(capacity=40, max_append=5), [37, 30])
    arguments = {"t": 2}
    arguments["new"] = problem.new([37, 30], 2)[0]
    spoil(arguments)
    if arguments["t"] != 2:
        arguments["new"] = problem.new([37, 30], arguments["t"])[0]
    arguments.pop("t")
    before = held(cache)
    with pytest.raises(ValueError, match=message):
        cache.append(**arguments.pop("new"), **arguments)
    assert same(before, held(cache))


def test_a_bad_prefill_changes_nothing(no_runtime_types):
    problem = Problem(CONFIGS["small"], t=60)
    cache = problem.cache(capacity=40)
    before = held(cache)
    with pytest.raises(ValueError, match="cache: got 60 tokens, expected at most capacity = 40"):
        cache.prefill(**problem.tokens)
    with pytest.raises(ValueError, match=r"lengths: got \[3, 31\], expected numbers from 0 to 30"):
        cache.prefill(**problem.new([0, 0], 30)[0], lengths=[3, 31])
    x = problem.tokens["k_raw"][:, :1]
    with pytest.raises(ValueError, match=r"compressed: got shape \(2, 1, 2, 6\), expected \(2, 14, 2, 6\)"):
        cache.prefill(**problem.new([0, 0], 30)[0], compressed=(x, x))
    assert same(before, held(cache))
    cache.prefill(**problem.new([0, 0], 30)[0])
    before = held(cache)
    with pytest.raises(ValueError, match=r"cache: got \[30, 30\] tokens, expected an empty cache"):
        cache.prefill(**problem.new([30, 30], 3)[0])
    assert same(before, held(cache))


def test_a_bad_truncation_changes_nothing(no_runtime_types):
    problem = Problem(CONFIGS["small"])
    cache = fed(problem, problem.cache(max_append=5), [37, 4])
    before = held(cache)
    for lengths, message in [
        (38, "lengths: got 38 in row 0, expected 0 to the 37 tokens"),
        ([37, 5], "lengths: got 5 in row 1"),
        ([31, 4], "lengths: got 31 in row 0, expected 0 or at least 32: the rings hold no token"),
        ([-1, 0], "lengths: got -1"),
        ([37], "lengths: got 1 rows, expected 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            cache.truncate(lengths)
    assert same(before, held(cache))
    cache.truncate([32, 0])  # drafts of 5 tokens back, and an emptied row
    assert cache.row_lengths == [32, 0]


def test_replays_move_the_hosts_copy_only(no_runtime_types):
    cache = Problem(CONFIGS["small"]).cache(capacity=3)
    cache.replayed()
    cache.replayed(2)
    assert cache.row_lengths == [3, 3]
    assert cache.lengths.tolist() == [0, 0]  # that is the graph's
    with pytest.raises(ValueError, match="cache: got 4 tokens, expected at most capacity = 3"):
        cache.replayed()


def test_rows_of_different_length_have_no_common_one():
    problem = Problem(CONFIGS["small"])
    cache = fed(problem, problem.cache(), [3, 4])
    with pytest.raises(ValueError, match=r"length: got \[3, 4\], expected rows of one length"):
        cache.length  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch: got 0, expected a whole number of at least 1"),
        ({"capacity": 2.0}, "capacity: got 2.0"),
        ({"max_append": 0}, "max_append: got 0"),
        ({"d_qk": 5}, "d_qk: got 5, expected an even number"),
    ],
)
def test_bad_sizes(options, message, no_runtime_types):
    sizes = {"batch": 1, "capacity": 8, "num_kv_heads": 1, "d_qk": 4, "d_v": 4} | options
    phi = lambda blocks: blocks.mean(-2)
    with pytest.raises(ValueError, match=message):
        NSACache(**sizes, config=NSAConfig(), compress_keys=phi, compress_values=phi, rotary_base=10.0)


def test_a_copy_goes_its_own_way():
    """What one does to branch off: the cache is plain tensors."""
    problem = Problem(CONFIGS["small"])
    cache = fed(problem, problem.cache(), [10, 10])
    other = copy.deepcopy(cache)
    other.append(**problem.new([10, 10], 1)[0])
    assert (cache.length, other.length) == (10, 11)
