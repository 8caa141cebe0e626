"""The selected branch in its kernel, forward, against the float64 reference."""

import pytest
import torch
from hypothesis import strategies as st

from minisys.nsa import NSAConfig

from . import kernel_cases as cases
from .kernel_cases import DEVICE, DTYPES, INTERPRETED, TOLERANCE, blocks_of, draw_blocks, draw_qkv, error

from minisys.nsa.kernels import flash_attention, selected_attention  # isort: skip  (skipped without Triton)
from minisys.nsa.kernels.selected import ordered_blocks  # isort: skip

pytestmark = cases.FAILED_GUESSES


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    cases.poison(monkeypatch)


@cases.by_dtype
@cases.by_shape
def test_selected(shape, dtype):
    config = blocks_of(4)
    q, k, v = draw_qkv(dtype=dtype, **{"t": 8} | shape)
    blocks = draw_blocks(config, b=q.shape[0], t=q.shape[1], hk=k.shape[2])
    blocks[:, -1] = (q.shape[1] - 1) // 4  # so that the reference is not all zeros
    out = selected_attention(q, k, v, blocks, config=config)
    assert out.dtype == dtype
    assert error(out, cases.selected(q, k, v, blocks, config)) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("select_block", "dtype"),
    [(length, torch.float32) for length in (1, 6, 16, 64, 100)]
    + [(length, torch.float16) for length in (16, 64, 100, 128)],
)
def test_blocks_of_any_length(select_block, dtype):
    """Padded, or read in chunks: of 16 keys for float32, of 64 for the other types. No length divides t."""
    config = blocks_of(select_block)
    q, k, v = draw_qkv(t=211, hq=2, hk=1, dtype=dtype)
    blocks = draw_blocks(config, t=211, hk=1, n=3)
    if INTERPRETED:  # it takes its time
        blocks[:, torch.arange(211) % 30 != 0] = -1
    out = selected_attention(q, k, v, blocks, config=config)
    assert error(out, cases.selected(q, k, v, blocks, config)) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("group", "dtype"),
    [(g, torch.float32) for g in (1, 3, 16, 17)] + [(g, torch.float16) for g in (16, 64, 65, 130)],
)
def test_groups_of_any_size(group, dtype):
    """Padded, or split over programs: above 16 heads for float32, above 64 for the other types."""
    config = blocks_of(4)
    q, k, v = draw_qkv(t=6, hq=2 * group, hk=2, dtype=dtype)
    blocks = draw_blocks(config, t=6)
    out = selected_attention(q, k, v, blocks, config=config)
    assert error(out, cases.selected(q, k, v, blocks, config)) < TOLERANCE[dtype]


@cases.by_head_size
@cases.by_dtype
def test_head_sizes_of_models(d_qk, d_v, dtype):
    config = blocks_of(16)
    q, k, v = draw_qkv(t=18, hq=2, hk=1, d_qk=d_qk, d_v=d_v, dtype=dtype)
    blocks = draw_blocks(config, t=18, hk=1)
    out = selected_attention(q, k, v, blocks, config=config)
    assert error(out, cases.selected(q, k, v, blocks, config)) < TOLERANCE[dtype]


@pytest.mark.parametrize("scale", [0.9, -0.5])
def test_scale(scale):
    config = blocks_of(8)
    q, k, v = draw_qkv(t=20)
    blocks = draw_blocks(config, t=20)
    out = selected_attention(q, k, v, blocks, config=config, scale=scale)
    assert error(out, cases.selected(q, k, v, blocks, config, scale)) < 1e-6


def test_a_query_without_blocks_is_exactly_zero():
    config = blocks_of(8)
    q, k, v = draw_qkv(t=20)
    blocks = torch.full((1, 20, 2, 3), -1, device=DEVICE)
    blocks[:, :8] = 1  # a block of the future is none either
    blocks[:, 12:, 0, 1] = 0
    out = selected_attention(q, k, v, blocks, config=config)
    sees = torch.zeros(20, 4, dtype=torch.bool, device=DEVICE)
    sees[12:, :2] = True
    assert (out[0][~sees] == 0).all()
    assert (out[0][sees].abs().sum(dim=-1) > 0).all()
    assert (selected_attention(q, k, v, blocks[..., :0], config=config) == 0).all()


def test_order_and_repeats_of_blocks_change_nothing():
    config = blocks_of(2)
    q, k, v = draw_qkv(t=12)
    once = torch.tensor([0, 2, 3, 5, -1, -1], device=DEVICE).expand(1, 12, 2, 6)
    mixed = torch.tensor([3, -1, 0, 5, 2, 3, 5, 3], dtype=torch.int32, device=DEVICE).expand(1, 12, 2, 8)
    out = selected_attention(q, k, v, once, config=config)
    assert torch.equal(out, selected_attention(q, k, v, mixed, config=config))
    assert error(out, cases.selected(q, k, v, once, config)) < 1e-6
    assert ordered_blocks(mixed)[0, 0, 0].tolist() == [0, 2, 3, 5, -1, -1, -1, -1]


def test_equal_scores_give_the_mean():
    config = blocks_of(4)
    q, k, v = draw_qkv(t=12)
    blocks = torch.tensor([0, 2], device=DEVICE).expand(1, 12, 2, 2)
    out = selected_attention(q, torch.ones_like(k), v, blocks, config=config)
    mean = v[0, [0, 1, 2, 3, 8, 9, 10, 11]].double().mean(dim=0).repeat_interleave(2, dim=0)
    assert error(out[0, 11], mean) < 1e-6


def test_neither_the_future_nor_other_blocks_count():
    """Whatever stands there weighs exactly nothing, where it is loaded along with a neighbour's."""
    config = blocks_of(8)
    q, k, v = draw_qkv(t=30)
    blocks = torch.tensor([1, 2, 3], device=DEVICE).repeat(1, 30, 2, 1)
    blocks[:, 21:] = -1
    before = selected_attention(q, k, v, blocks, config=config)
    for x in (k, v):
        x[:, :8] = 1e30
        x[:, 21:] = -1e30
    assert torch.equal(selected_attention(q, k, v, blocks, config=config), before)


def test_all_blocks_are_dense_attention():
    config = blocks_of(6)
    q, k, v = draw_qkv(t=17, hq=6)
    every = torch.arange(3, device=DEVICE).expand(1, 17, 2, 3)
    dense_out = flash_attention(q, k, v)
    assert error(selected_attention(q, k, v, every, config=config), dense_out.double()) < 1e-6


@cases.sweep(
    b=st.integers(1, 2),
    t=st.integers(1, 30),
    group=st.sampled_from([1, 3, 7, 16]),
    select_block=st.sampled_from([4, 8, 12]),
    n=st.integers(1, 6),
    d=st.sampled_from([5, 16]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_shape(b, t, group, select_block, n, d, dtype, seed):
    config = blocks_of(select_block)
    q, k, v = draw_qkv(b, t, group, 1, d, d + 3, dtype=dtype, seed=seed)
    blocks = draw_blocks(config, b, t, 1, n, seed)
    blocks[:, :, :, 0] = 0
    out = selected_attention(q, k, v, blocks, config=config)
    assert error(out, cases.selected(q, k, v, blocks, config)) < TOLERANCE[dtype]


@pytest.mark.gpu
@cases.by_model_size
def test_selected_at_the_size_of_models(b, t, d_qk, d_v):
    """64 query heads on 4 key/value heads, bfloat16; the last queries are compared, all are finite."""
    config = NSAConfig()
    generator, q, k, v = cases.big_inputs(b, t, d_qk, d_v)
    owner = torch.arange(t, device="cuda") // config.select_block
    blocks = torch.randint(
        config.num_selectable(t), (b, t, 4, config.top_n), generator=generator, device="cuda"
    )
    blocks[..., 0] = 0
    blocks[..., 1] = owner[:, None]
    out = selected_attention(q, k, v, blocks, config=config)
    assert out.isfinite().all()
    chosen = (blocks[-1, -64:, :, :, None] == owner).any(dim=2).transpose(0, 1)  # [hk, 64, t]
    causal = torch.arange(t, device="cuda") <= torch.arange(t - 64, t, device="cuda")[:, None]
    assert cases.tail_error(out, q, k, v, chosen & causal) < TOLERANCE[torch.bfloat16]


BAD_BLOCKS = {
    "rank": (lambda x: x[0], r"got shape \(20, 2, 4\), expected 4 axes"),
    "heads": (lambda x: x[:, :, :1], r"got shape \(1, 20, 1, 4\), expected \(1, 20, 2, 4\)"),
    "dtype": (lambda x: x.double(), "got torch.float64, expected torch.int32 or torch.int64"),
    "too high": (lambda x: x.abs() + 1, "got numbers from 1 to 3, expected -1 to 2 for 20 tokens"),
    "too low": (lambda x: x - 1, "got numbers from -2 to 1, expected -1 to 2"),
}


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize(("change", "message"), BAD_BLOCKS.values(), ids=BAD_BLOCKS.keys())
def test_bad_block_indices(change, message):
    with pytest.raises(ValueError, match=f"block_indices: {message}"):
        selected_attention(*draw_qkv(), change(draw_blocks(cases.SMALL)), config=cases.SMALL)
