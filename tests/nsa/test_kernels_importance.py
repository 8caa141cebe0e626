"""Block selection in its kernel against `select_blocks_reference`: importance, top n, ties, forced blocks.

Float32 scores and float64 scores may order two blocks differently whose importance differs in the seventh
digit. So numbers are compared first, and where they differ the blocks taken must be ties: their importance
within 1e-3 of that of the blocks left out.
"""

import pytest
import torch
from hypothesis import strategies as st

from minisys.nsa import NSAConfig
from minisys.nsa.packing import sequence_bounds
from minisys.nsa.reference import (
    attention_weights,
    block_importance,
    compressed_mask,
    select_blocks_reference,
)

from . import kernel_cases as cases
from .kernel_cases import DEVICE, DTYPES, INTERPRETED, SMALL, draw

from minisys.nsa.kernels.attention import select_blocks_triton  # isort: skip  (skipped without Triton)

pytestmark = cases.FAILED_GUESSES


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    cases.poison(monkeypatch)


def draw_qk(config, b=1, t=40, hq=4, hk=2, d=16, dtype=torch.float32, seed=0):
    return draw(b, t, hq, d, dtype=dtype, seed=seed), draw(
        b, config.num_compressed(t), hk, d, dtype=dtype, seed=seed + 1
    )


def check_blocks(config, q, k_cmp, scale=0.25, differ=0.0):
    """The kernel's blocks are the reference's, but for ties in up to a share `differ` of the rows."""
    q64, k64 = q.double(), k_cmp.double()
    got = select_blocks_triton(q, k_cmp, config, scale)
    expected = select_blocks_reference(q64, k64, config, scale)
    assert got.dtype == torch.int64
    assert got.shape == expected.shape
    different = (got != expected).any(-1)
    assert different.double().mean() <= differ
    weights = attention_weights(q64, k64, compressed_mask(q.shape[1], config, q.device), scale)
    importance = block_importance(weights, config)
    for place in different.nonzero().tolist():
        place = tuple(place)
        taken, wanted = (set(x[place].tolist()) - {-1} for x in (got, expected))
        assert len(taken) == len(wanted)
        assert got[place].tolist()[: len(taken)] == sorted(taken)
        worst = min(importance[place][block] for block in taken - wanted)
        best = max(importance[place][block] for block in wanted - taken)
        assert worst > best * (1 - 1e-3) - 1e-30, place  # float32 knows no smaller number
    return got


@cases.by_dtype
@pytest.mark.parametrize("group", [1, 3, 16, 64])
def test_groups(group, dtype):
    q, k_cmp = draw_qk(SMALL, t=75 if group < 64 else 40, hq=group, hk=1, dtype=dtype)
    check_blocks(SMALL, q, k_cmp)


CONFIGS = {
    "top_n no power of two": NSAConfig(4, 2, 8, 5, 1, 2),
    "one block": NSAConfig(4, 2, 8, 1, 0, 1),
    "no initial block": NSAConfig(4, 2, 8, 3, 0, 2),
    "several initial blocks": NSAConfig(4, 2, 8, 6, 3, 1),
    "only forced blocks": NSAConfig(4, 2, 8, 3, 1, 2),
    "three pieces a block": NSAConfig(4, 2, 6, 4, 1, 1),
    "blocks side by side": NSAConfig(4, 4, 8, 4, 1, 1),
    "a key for every token": NSAConfig(1, 1, 4, 4, 1, 1),
    "compressed longer than selected": NSAConfig(12, 2, 4, 6, 1, 1),
    "compressed as long as the stride and the block": NSAConfig(4, 4, 4, 4, 1, 1),
    "more blocks than there are": NSAConfig(4, 2, 8, 16, 1, 2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_configs(config):
    q, k_cmp = draw_qk(config, t=75)
    got = check_blocks(config, q, k_cmp)
    own = torch.arange(75, device=DEVICE) // config.select_block
    for offset in range(config.local_blocks):  # forced, where they exist
        block = (own - offset).clamp_min(0)[None, :, None, None]
        assert (got == block).any(-1).all()
    for block in range(config.initial_blocks):
        assert (got[:, block * config.select_block :] == block).any(-1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_many_stretches(dtype):
    """More blocks than the kernel looks at in one go, and several tiles of queries and of keys."""
    config = NSAConfig(2, 1, 2, 6, 1, 1)
    q, k_cmp = draw_qk(config, t=300 if INTERPRETED else 3000, hq=1, hk=1, dtype=dtype)
    got = check_blocks(config, q, k_cmp, differ=0.01)
    assert got.max() > 128


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_go_to_the_earlier_block(dtype):
    """Equal keys make all whole blocks equally important. Of quarters any order of products is exact."""
    config = NSAConfig(2, 2, 4, 5, 0, 1)
    t = 150  # more than one stretch of blocks for the 16-bit types
    q, _ = draw_qk(config, t=t, hq=1, hk=1, dtype=dtype)
    k_cmp = draw(1, 1, 1, 16, dtype=dtype).expand(1, config.num_compressed(t), 1, 16)
    q, k_cmp = ((4 * x).round() / 4 for x in (q, k_cmp))
    got = select_blocks_triton(q, k_cmp, config, 0.25)[0, :, 0]
    for token in range(t):
        own = token // 4
        whole = [*range(min(4, own)), own]
        assert got[token].tolist() == whole + [-1] * (5 - len(whole)), token


def test_the_most_important_blocks_win():
    """Keys that point along the queries, planted in blocks 3 and 9 of 20."""
    config = NSAConfig(4, 4, 8, 5, 1, 2)
    q = torch.ones(1, 160, 2, 16, device=DEVICE)
    k_cmp = torch.zeros(1, 40, 1, 16, device=DEVICE)
    k_cmp[:, 7] = 0.5
    k_cmp[:, 18] = 1.0
    assert select_blocks_triton(q, k_cmp, config, 1.0)[0, -1, 0].tolist() == [0, 3, 9, 18, 19]
    assert select_blocks_triton(q, k_cmp, config, -1.0)[0, -1, 0].tolist() == [0, 1, 2, 18, 19]


def test_scale_zero_takes_the_earliest():
    q, k_cmp = draw_qk(NSAConfig(4, 4, 8, 4, 0, 1), t=80)
    assert (
        select_blocks_triton(q, k_cmp, NSAConfig(4, 4, 8, 4, 0, 1), 0.0)[0, -1]
        == torch.tensor([0, 1, 2, 9], device=DEVICE)
    ).all()


@pytest.mark.parametrize("t", [1, 3, 4, 7, 8, 9])
def test_the_first_tokens(t):
    """No compressed block ends before the fourth token; fewer blocks than top_n exist."""
    q, k_cmp = draw_qk(SMALL, b=2, t=t)
    got = check_blocks(SMALL, q, k_cmp)
    assert (got[..., 2:] == -1).all()


def test_packed_sequences_are_apart():
    lengths = [3, 20, 1, 9]
    q = draw(1, sum(lengths), 4, 16)
    counts = [SMALL.num_compressed(t) for t in lengths]
    k_cmp = draw(1, sum(counts), 2, 16, seed=1)
    bounds = sequence_bounds(cases.packed(lengths)["cu_seqlens"], q)
    got = select_blocks_triton(q, k_cmp, SMALL, 0.3, bounds)
    keys = k_cmp.split(counts, dim=1)
    for (start, end), own_keys in zip(bounds, keys, strict=True):
        alone = select_blocks_triton(q[:, start:end], own_keys, SMALL, 0.3)
        assert torch.equal(got[:, start:end], alone)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # of a key that no query sees, then masked
def test_large_scores():
    """Probabilities of zero and one: no overflow, no NaN, still the reference's blocks."""
    q, k_cmp = draw_qk(SMALL, t=60)
    check_blocks(SMALL, 30 * q, 30 * k_cmp, scale=1.0, differ=0.1)


@cases.sweep(
    t=st.integers(1, 90),
    group=st.sampled_from([1, 2, 5]),
    stride=st.integers(1, 4),
    pieces=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    forced=st.tuples(st.integers(0, 2), st.integers(1, 3)),
    more=st.integers(0, 6),
    d=st.sampled_from([5, 16]),
    seed=st.integers(0, 2**31),
)
def test_any_shape(t, group, stride, pieces, forced, more, d, seed):
    config = NSAConfig(pieces[0] * stride, stride, pieces[1] * stride, sum(forced) + more, *forced)
    q, k_cmp = draw_qk(config, t=t, hq=2 * group, d=d, seed=seed)
    check_blocks(config, q, k_cmp, differ=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("t", "group", "d"), [(3000, 16, 128), (3000, 4, 192), (2000, 64, 64)])
def test_at_the_size_of_models(t, group, d, dtype):
    config = NSAConfig()
    q, k_cmp = draw_qk(config, t=t, hq=2 * group, d=d, dtype=dtype)
    check_blocks(config, q, k_cmp, scale=d**-0.5, differ=0.01)
