"""The branches in their kernels, one at a time, against the float64 reference: output, lse and gradients."""

import math

import pytest
import torch

from minisys.nsa import NSAConfig
from minisys.nsa.reference import compressed_mask, selected_mask, window_mask

from . import kernel_cases as cases
from .kernel_cases import INTERPRETED, SMALL, TOLERANCE, draw, draw_blocks, error, layout_of

from minisys.nsa.kernels.band import band_forward, two_bands_forward  # isort: skip  (skipped without Triton)
from minisys.nsa.kernels.band_backward import band_backward, branch_deltas  # isort: skip
from minisys.nsa.kernels.lists import ordered_blocks  # isort: skip
from minisys.nsa.kernels.selected import selected_forward  # isort: skip
from minisys.nsa.kernels.selected_backward import selected_backward  # isort: skip
from minisys.nsa.kernels.tiles import pad_heads  # isort: skip

BRANCHES = ("compressed", "selected", "window", "dense")
NUMBER = {"compressed": 0, "selected": 1, "window": 2, "dense": 0}  # of its gate
by_branch = pytest.mark.parametrize("branch", BRANCHES)

pytestmark = cases.FAILED_GUESSES


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    cases.poison(monkeypatch)


def draw_branch(branch, config, t, hq=4, hk=2, d_qk=16, d_v=16, dtype=torch.float32, seed=0):
    """q, k, v of one sequence, gates and do, without a batch axis."""
    keys = config.num_compressed(t) if branch == "compressed" else t
    shapes = ((t, hq, d_qk), (keys, hk, d_qk), (keys, hk, d_v), (t, hq, 3), (t, hq, d_v))
    q, k, v, gates, do = (draw(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes))
    return q, k, v, gates.sigmoid(), do


def band_of(branch, config):
    return {
        "compressed": {"span": config.compress_block, "stride": config.compress_stride},
        "window": {"window": config.window},
        "dense": {},
    }[branch]


def mask_of(branch, config, t, blocks):
    device = blocks.device
    if branch == "selected":
        return selected_mask(blocks, config)
    if branch == "dense":
        return torch.ones(t, t, dtype=torch.bool, device=device).tril()
    return (compressed_mask if branch == "compressed" else window_mask)(t, config, device)


def forward(branch, q, k, v, layout, scale, blocks):
    d_v, (q, k, v) = v.shape[-1], pad_heads(q, k, v)
    if branch == "selected":
        out, lse = selected_forward(q, k, v, ordered_blocks(blocks)[0], layout, scale)
    else:
        out, lse = band_forward(q, k, v, layout, scale, **band_of(branch, layout.config))
    return out[..., :d_v], lse


def backward(branch, q, k, v, do, out, lse, gates, layout, scale, blocks):
    """dq, dk, dv and the gradient of the branch's gate."""
    d_qk, d_v, (q, k, v, do, out) = q.shape[-1], v.shape[-1], pad_heads(q, k, v, do, out)
    number = NUMBER[branch]
    outputs = [torch.full_like(out, 7.0) for _ in range(3)]  # the other branches' part must not matter
    outputs[number] = out
    deltas, row_gates = branch_deltas(do, *outputs, gates)
    of_branch = (do, lse, deltas[number], row_gates[number])
    dq = torch.ones_like(q)
    if branch == "selected":
        blocks = ordered_blocks(blocks)[0]
        dk, dv = selected_backward(q, k, v, *of_branch, blocks, dq, layout, scale)
    else:
        band = band_of(branch, layout.config)
        dk, dv = band_backward(q, k, v, *of_branch, dq, layout, scale, add=False, **band)
    return {"dq": dq[..., :d_qk], "dk": dk[..., :d_qk], "dv": dv[..., :d_v], "dgate": deltas[number]}


def reference_lse(q, k, visible, scale):
    """log2 of the softmax's denominator, -inf for a row that sees nothing; `visible` [hk or 1, t, keys]."""
    group = q.shape[1] // k.shape[1]
    scores = torch.einsum("thd,shd->hts", q.double(), k.double().repeat_interleave(group, 1)) * scale
    visible = visible.expand(k.shape[1], -1, -1).repeat_interleave(group, 0)
    return (scores.masked_fill(~visible, -torch.inf).logsumexp(-1) / math.log(2)).T  # [t, hq]


def check_branch(branch, config, t, scale=None, n=4, **shape):
    """Output, lse and gradients of one branch; a row that sees nothing has lse = inf and zeros."""
    q, k, v, gates, do = draw_branch(branch, config, t, **shape)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    layout = layout_of(config, [t])
    blocks = draw_blocks(config, t=t, hk=k.shape[1], n=n)
    mask = mask_of(branch, config, t, blocks)
    out, lse = forward(branch, q, k, v, layout, scale, blocks)

    leaves = [x.double()[None].requires_grad_() for x in (q, k, v)]
    expected = cases.attend(*leaves, mask, scale)
    gated = expected * gates[None, :, :, NUMBER[branch], None].double()
    dq, dk, dv = (x[0] for x in torch.autograd.grad(gated, leaves, do.double()[None]))
    expected = expected[0].detach()
    assert out.dtype == q.dtype
    assert max(cases.errors({"out": out}, {"out": expected}).values()) < TOLERANCE[q.dtype]

    denominator = reference_lse(q, k, mask[0, :, 0] if branch == "selected" else mask[None], scale)
    sees_none = denominator == -math.inf
    assert (lse[sees_none] == math.inf).all()
    assert (out[sees_none] == 0).all()
    assert torch.allclose(lse[~sees_none].double(), denominator[~sees_none], rtol=2e-6, atol=4e-6)

    got = backward(branch, q, k, v, do, out, lse, gates, layout, scale, blocks)
    reference = {"dq": dq, "dk": dk, "dv": dv, "dgate": (do.double() * expected).sum(-1)}
    found = cases.errors(got, reference, least=0.1 * do.norm().item())
    assert max(found.values()) < cases.WHOLE[q.dtype], found
    assert (got["dq"][sees_none] == 0).all()


@by_branch
@cases.by_dtype
def test_branch(branch, dtype):
    check_branch(branch, SMALL, 40 if INTERPRETED else 400, dtype=dtype)


@by_branch
@pytest.mark.parametrize("group", [1, 3, 16, 64])
def test_groups(branch, group):
    check_branch(branch, SMALL, 13, hq=group, hk=1)


@by_branch
@pytest.mark.parametrize(
    ("d_qk", "d_v"), [(64, 64), (128, 128), (192, 128), (24, 20), (3, 1), (16, 40), (256, 256)]
)
def test_head_sizes(branch, d_qk, d_v):
    """Those of models in bfloat16, where tiles are sized for the chip's memory; odd ones in float32."""
    dtype = torch.bfloat16 if d_qk >= 64 else torch.float32
    check_branch(branch, SMALL, 12, hq=2, d_qk=d_qk, d_v=d_v, dtype=dtype)


@by_branch
@pytest.mark.parametrize(("dtype", "t"), [(torch.float32, 75), (torch.bfloat16, 150)], ids=str)
def test_many_tiles(branch, dtype, t):
    """Several query tiles and key tiles, with and without a mask, ragged at the end."""
    check_branch(branch, NSAConfig(2, 1, 40, 4, 1, 1, 30), t, hq=2, hk=1, n=1, dtype=dtype)


CONFIGS = {
    "a key for every token": NSAConfig(1, 1, 4, 3),
    "blocks side by side": NSAConfig(4, 4, 8, 4),
    "long blocks": NSAConfig(12, 3, 9, 4, window=2),
    "a window longer than the sequence": NSAConfig(4, 2, 8, 4, window=100),
}


@by_branch
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_configs(branch, config):
    check_branch(branch, config, 29, hq=2, hk=1)


@by_branch
@pytest.mark.parametrize("scale", [0.9, 0.0])
def test_scale(branch, scale):
    check_branch(branch, SMALL, 20, scale=scale or 1e-30, hq=2)


@cases.by_dtype
def test_compressed_and_window_in_one_launch(dtype):
    """The same outputs as in two, and their sum under the gates; what nobody keeps is not stored."""
    q, k_cmp, v_cmp, gates, _ = draw_branch("compressed", SMALL, 40, dtype=dtype)
    _, k_win, v_win, _, _ = draw_branch("window", SMALL, 40, dtype=dtype)
    layout = layout_of(SMALL, [25, 15])
    total, o_cmp, o_win, lse_cmp, lse_win = two_bands_forward(
        q, k_cmp, v_cmp, k_win, v_win, gates, layout, 0.3
    )
    for branch, keys, values, out, lse in (
        ("compressed", k_cmp, v_cmp, o_cmp, lse_cmp), ("window", k_win, v_win, o_win, lse_win),
    ):  # fmt: skip
        alone = band_forward(q, keys, values, layout, 0.3, **band_of(branch, SMALL))
        cases.assert_same(out, alone[0])
        cases.assert_same(lse, alone[1])
    expected = gates[..., :1].double() * o_cmp.double() + gates[..., 2:].double() * o_win.double()
    assert error(total, expected) < TOLERANCE[dtype]
    again, *kept, lse, unkept = two_bands_forward(
        q, k_cmp, v_cmp, k_win, v_win, gates, layout, 0.3, store=False
    )
    cases.assert_same(again, total)
    cases.assert_same(lse, lse_cmp)
    assert [tensor.numel() for tensor in (*kept, unkept)] == [0, 0, 0]


@cases.by_dtype
def test_selected_adds_to_the_others(dtype):
    q, k, v, gates, _ = draw_branch("selected", SMALL, 40, dtype=dtype)
    layout = layout_of(SMALL, [25, 15])
    blocks = ordered_blocks(torch.cat([draw_blocks(SMALL, t=t)[0] for t in (25, 15)]))
    others = draw(40, 4, 16, seed=8, dtype=dtype)
    o_slc, lse = selected_forward(q, k, v, blocks, layout, 0.3)
    total = others.clone()
    kept = selected_forward(q, k, v, blocks, layout, 0.3, combine=(total, gates))
    cases.assert_same(kept[0], o_slc)
    cases.assert_same(kept[1], lse)
    assert error(total, others.double() + gates[..., 1:2].double() * o_slc.double()) < TOLERANCE[dtype]
    again = others.clone()
    nothing = selected_forward(q, k, v, blocks, layout, 0.3, combine=(again, gates), store=False)
    cases.assert_same(again, total)
    assert [tensor.numel() for tensor in nothing] == [0, 0]


@pytest.mark.parametrize("size", [5.0, 50.0], ids=["", "a guess fails"])
@by_branch
def test_what_a_query_does_not_see_changes_nothing(branch, size):
    """Not a bit; but where a row of a tile sees so much that its guess fails, the tile is rounded anew."""
    q, k, v, _, _ = draw_branch(branch, SMALL, 40, hq=2)
    layout = layout_of(SMALL, [25, 15])
    if branch == "compressed":
        k, v = k[:17], v[:17]  # 11 of the first sequence, 6 of the second
    blocks = torch.zeros(1, 40, 2, 1, dtype=torch.int32, device=q.device)
    before, _ = forward(branch, q, k, v, layout, 0.3, blocks)
    last = 8 if branch == "compressed" else 20
    k[last:], v[last:] = size, -50.0
    after, _ = forward(branch, q, k, v, layout, 0.3, blocks)
    assert torch.allclose(after[:19], before[:19], rtol=0, atol=0 if size < 50 else 1e-6)
    assert not torch.equal(after[25:], before[25:])


@cases.by_dtype
def test_large_scores_do_not_overflow(dtype):
    q, k, v, _, _ = draw_branch("dense", SMALL, 40, dtype=dtype)
    q, k = 30 * q, 10 * k
    out, lse = forward("dense", q, k, v, layout_of(SMALL, [40]), 1.0, None)
    causal = torch.ones(40, 40, dtype=torch.bool, device=q.device).tril()
    assert lse.abs().max() > 1000
    assert error(out, cases.attend(q[None], k[None], v[None], causal, 1.0)[0]) < max(1e-4, TOLERANCE[dtype])
