"""All of NSA through the kernels: output and every gradient against float64 at equal block numbers."""

import pytest
import torch
from hypothesis import strategies as st

from minisys.nsa import NativeSparseAttention, NSAConfig, nsa_attention

from . import kernel_cases as cases
from .kernel_cases import DEVICE, DTYPES, INTERPRETED, SMALL, draw, draw_nsa, with_gradients

from minisys.nsa.kernels import band, band_backward, importance, selected, selected_backward  # isort: skip
from minisys.nsa.kernels.attention import select_blocks_triton  # isort: skip  (skipped without Triton)

pytestmark = cases.FAILED_GUESSES


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    cases.poison(monkeypatch)


def kernel_blocks(inputs, config, scale, lengths):
    """The kernels' choice, which the reference is held to: discrete, and checked in a file of its own."""
    scale = inputs["q"].shape[-1] ** -0.5 if scale is None else scale
    bounds = cases.layout_of(config, lengths).bounds if lengths else None
    return select_blocks_triton(inputs["q"], inputs["k_cmp"], config, scale, bounds and list(bounds))


def check_whole(config, *, scale=None, lengths=None, blocks=None, **shape):
    """Compare with the reference, and runs with and without gradients with each other."""
    inputs, do = draw_nsa(config, lengths=lengths, **shape)
    options = {"config": config, "scale": scale, **cases.packed(lengths)}
    given = {} if blocks is None else {"block_indices": blocks}
    got = with_gradients(inputs, do, backend="triton", **options, **given)
    same = kernel_blocks(inputs, config, scale, lengths) if blocks is None else blocks
    expected = with_gradients(
        cases.exact(inputs), do.double(), backend="reference", block_indices=same, **options
    )
    assert all(tensor.dtype == do.dtype for tensor in got.values())
    found = cases.errors(got, expected, least=0.2 * do.norm().item())
    assert max(found.values()) < cases.WHOLE[do.dtype], found
    with torch.no_grad():  # what keeps nothing is another kernel
        cases.assert_same(nsa_attention(**inputs, backend="triton", **options, **given), got["out"])
    return inputs, do, got, expected


SHAPES = {
    "a head of its own": {"hq": 2, "hk": 2},
    "group of 3": {"hq": 6, "hk": 2, "t": 13},
    "group of 16": {"hq": 16, "hk": 1, "t": 10},
    "group of 64": {"hq": 64, "hk": 1, "t": 5},
    "odd head sizes": {"d_qk": 7, "d_v": 21},
    "values wider than keys": {"d_qk": 24, "d_v": 40, "hq": 2},
    "batch": {"b": 3, "t": 6},
    "one token": {"t": 1},
    "shorter than a compressed block": {"t": 3},
    "as long as a compressed block": {"t": 4},
    "a selection block and a token": {"t": 9},
    "packed": {"lengths": [3, 12, 1]},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes(shape):
    check_whole(SMALL, **{"t": 17} | shape)


@pytest.mark.parametrize(("d_qk", "d_v"), [(64, 64), (128, 128), (192, 128)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_of_models(d_qk, d_v, dtype):
    check_whole(SMALL, t=10, hq=2, hk=1, d_qk=d_qk, d_v=d_v, dtype=dtype)


@pytest.mark.parametrize(("d_qk", "d_v"), [(16, 16), (192, 128)])
def test_tiles_of_other_gpus(monkeypatch, d_qk, d_v):
    """Those that are not tuned, for GPUs that are no Hopper."""
    for module in (band, band_backward, importance, selected, selected_backward):
        monkeypatch.setattr(module, "is_hopper", lambda device: False)
    check_whole(SMALL, t=40, hq=4, hk=2, d_qk=d_qk, d_v=d_v, dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_no_worse_than_twice_dense_attention(dtype):
    """PyTorch's dense attention of the same length and dtype, with the same rounding of every result."""
    t = 40 if INTERPRETED else 600
    inputs, do, got, expected = check_whole(SMALL, t=t, hq=4, hk=2, d_qk=32, d_v=32, dtype=dtype)
    leaves = [inputs[name].transpose(1, 2) for name in ("q", "k_win", "v_win")]
    gradient = do.transpose(1, 2)

    def dense(*leaves):
        leaves = [x.detach().requires_grad_() for x in leaves]
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True, enable_gqa=True)
        gradients = torch.autograd.grad(out, leaves, gradient.to(out.dtype))
        return dict(zip(("out", "q", "k", "v"), (out.detach(), *gradients), strict=True))

    allowed = cases.errors(dense(*leaves), dense(*(x.double() for x in leaves)))
    found = cases.errors(got, expected)
    for name, value in found.items():
        kind = "out" if name == "gates" else name.split("_")[0]
        assert value < 2 * allowed[kind], (name, found, allowed)


CONFIGS = {
    "top_n no power of two": NSAConfig(4, 2, 8, 5, 0, 1, 3),
    "three pieces a block": NSAConfig(2, 2, 6, 3, 1, 1, 1),
    "a key for every token": NSAConfig(1, 1, 4, 3, 1, 1, 9),
    "all blocks, and a window of all": NSAConfig(4, 2, 8, 16, 1, 2, 64),
    "blocks longer than the sequence": NSAConfig(4, 2, 64, 4, 1, 2, 6),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_configs(config):
    check_whole(config, t=20, hq=2, hk=1)


@pytest.mark.parametrize("scale", [1.1, -0.4, 0.0])
def test_scale(scale):
    check_whole(SMALL, t=20, hq=2, hk=1, scale=scale)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # of a key that no query sees, then masked
def test_large_scores():
    """A thousand times the usual, whose exponentials no float32 holds: finite, and three digits are left."""
    inputs, do = draw_nsa(SMALL, t=16, hq=2, hk=1)
    inputs = {name: tensor if name[0] in "vg" else 30 * tensor for name, tensor in inputs.items()}
    blocks = kernel_blocks(inputs, SMALL, None, None)
    got = with_gradients(inputs, do, SMALL, backend="triton")
    exact = cases.exact(inputs)
    expected = with_gradients(exact, do.double(), SMALL, backend="reference", block_indices=blocks)
    found = cases.errors(got, expected, least=0.2 * do.norm().item())
    assert max(found.values()) < 1e-3, found


@pytest.mark.parametrize("lengths", [None, [3, 12, 1]], ids=["one sequence", "packed"])
def test_any_block_numbers(lengths):
    """Unsorted, repeated, of the future, -1 in between, as many as the caller likes."""
    parts = [cases.draw_blocks(SMALL, t=t, n=7, seed=t) for t in lengths or [16]]
    check_whole(SMALL, t=16, lengths=lengths, blocks=torch.cat(parts, dim=1).int())


def test_empty_slots():
    """A list of -1 alone, for some tokens and some heads: that branch gives zeros and has no gradient."""
    blocks = torch.full((1, 20, 2, 3), -1, device=DEVICE)
    blocks[:, 9:, 0, 1] = 0
    _, _, got, _ = check_whole(SMALL, t=20, blocks=blocks)
    for name in ("k_slc", "v_slc"):
        assert (got[name][:, 8:] == 0).all()
        assert (got[name][:, :, 1] == 0).all()
        assert (got[name][:, :8, 0] != 0).any()
    assert (got["gates"][:, :9, :, 1] == 0).all()


def test_no_block_numbers_at_all():
    """n = 0 leaves the other branches."""
    _, _, got, _ = check_whole(SMALL, t=9, blocks=torch.empty(1, 9, 2, 0, dtype=torch.int64, device=DEVICE))
    assert (got["k_slc"] == 0).all()


def test_rows_that_see_nothing():
    """The first tokens see no compressed block; with no block chosen either, what is left is the window."""
    inputs, do = draw_nsa(SMALL, t=8)
    blocks = torch.full((1, 8, 2, 1), -1, device=DEVICE)
    do[:, 3:] = 0
    inputs["gates"][:, :, :, 2] = 0
    got = with_gradients(inputs, do, SMALL, backend="triton", block_indices=blocks)
    assert (got["out"][:, :3] == 0).all()
    assert (got["out"][:, 3:] != 0).any()
    for name in ("q", "k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win"):
        assert (got[name] == 0).all(), name
    assert (got["gates"][:, :, :, :2] == 0).all()
    assert (got["gates"][:, :3, :, 2] != 0).any()


def test_packed_sequences_equal_separate_calls():
    lengths = [3, 11, 1]
    inputs, do = draw_nsa(SMALL, lengths=lengths)
    together = with_gradients(inputs, do, SMALL, backend="triton", **cases.packed(lengths))
    token = key = 0
    for t in lengths:
        keys = SMALL.num_compressed(t)
        part = {
            name: tensor[:, key : key + keys] if name.endswith("cmp") else tensor[:, token : token + t]
            for name, tensor in inputs.items()
        }
        alone = with_gradients(part, do[:, token : token + t], SMALL, backend="triton")
        for name, tensor in alone.items():
            start, count = (key, keys) if name.endswith("cmp") else (token, t)
            reference = together[name][:, start : start + count].double()
            found = cases.errors({name: tensor}, {name: reference}, least=0.1)
            assert found[name] < 1e-6, (t, found)
        token, key = token + t, key + keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_agree_bit_for_bit(dtype):
    t = 12 if INTERPRETED else 3000
    config = SMALL if INTERPRETED else NSAConfig()
    inputs, do = draw_nsa(config, t=t, hq=4, dtype=dtype)
    first, second = (with_gradients(inputs, do, config, backend="triton") for _ in range(2))
    for name, tensor in first.items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, second[name]), name


def test_tensors_need_not_be_contiguous():
    inputs, do = draw_nsa(SMALL, t=6)
    plain = with_gradients(inputs, do, SMALL, backend="triton")
    apart = {name: tensor.transpose(1, 2).contiguous().transpose(1, 2) for name, tensor in inputs.items()}
    assert not apart["q"].is_contiguous()
    strided = torch.stack([do, do], dim=-1)[..., 0]
    for name, tensor in with_gradients(apart, strided, SMALL, backend="triton").items():
        assert torch.equal(tensor, plain[name]), name
    wide = {name: torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:] for name, tensor in inputs.items()}
    off = {name: tensor.view(inputs[name].shape) for name, tensor in wide.items()}  # 4 bytes off alignment
    for name, tensor in with_gradients(off, do.sum() * 0 + do, SMALL, backend="triton").items():
        assert torch.equal(tensor, plain[name]), name


def test_gradients_of_some_arguments():
    inputs, do = draw_nsa(SMALL, t=11, hq=2, hk=1)
    every = with_gradients(inputs, do, SMALL, backend="triton")
    inputs["k_cmp"].requires_grad_()
    out = nsa_attention(**inputs, config=SMALL, backend="triton")
    (gradient,) = torch.autograd.grad(out, [inputs["k_cmp"]], do)
    assert torch.equal(gradient, every["k_cmp"])


def test_gradients_of_an_expanded_gradient():
    """`out.sum().backward()` hands one number on, with strides of 0."""
    inputs, do = draw_nsa(SMALL, t=11, hq=2, hk=1)
    ones = with_gradients(inputs, torch.ones_like(do), SMALL, backend="triton")
    inputs["q"].requires_grad_()
    nsa_attention(**inputs, config=SMALL, backend="triton").sum().backward()
    assert torch.equal(inputs["q"].grad, ones["q"])


def test_the_layer_learns_through_the_kernels():
    """Every parameter's gradient equals the reference's: φ and the gates too."""
    torch.manual_seed(0)
    layer = NativeSparseAttention(16, 4, 2, 8, config=SMALL).to(DEVICE)
    x, positions = draw(1, 20, 16), torch.arange(20, device=DEVICE)
    weights = draw(1, 20, 16, seed=5)
    gradients = {}
    for backend in ("triton", "reference"):
        layer.backend = backend
        gradients[backend] = torch.autograd.grad((layer(x, positions) * weights).sum(), layer.parameters())
    for (name, _), got, expected in zip(layer.named_parameters(), *gradients.values(), strict=True):
        assert expected.norm() > 0, name
        assert cases.error(got, expected.double()) < 3e-5, name


@cases.sweep(
    lengths=st.lists(
        st.integers(1, 12 if INTERPRETED else 500), min_size=1, max_size=2 if INTERPRETED else 4
    ),
    group=st.sampled_from([1, 2, 3, 7]),
    hk=st.integers(1, 2),
    stride=st.integers(1, 3),
    pieces=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    forced=st.tuples(st.integers(0, 2), st.integers(1, 2)),
    more=st.integers(0, 2),
    window=st.integers(1, 40),
    d=st.sampled_from([5, 16, 24]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_anything(lengths, group, hk, stride, pieces, forced, more, window, d, dtype, seed):
    config = NSAConfig(pieces[0] * stride, stride, pieces[1] * stride, sum(forced) + more, *forced, window)
    shape = {"hq": group * hk, "hk": hk, "d_qk": d, "d_v": d + 3}
    check_whole(config, lengths=lengths, dtype=dtype, seed=seed, **shape)


BAD = {
    "queries too large": (
        lambda x: (
            x.update({name: draw(1, 9, 2, 257) for name in ("q", "k_slc", "k_win")})
            or x.update(k_cmp=draw(1, 3, 2, 257), gates=draw(1, 9, 2, 3))
        ),
        "q: got head size 257, expected 1 to 256",
    ),
    "values too large": (
        lambda x: (
            x.update({name: draw(1, 9, 2, 300) for name in ("v_slc", "v_win")})
            or x.update(v_cmp=draw(1, 3, 2, 300))
        ),
        "v_slc: got head size 300, expected 1 to 256",
    ),
    "float64": (
        lambda x: x.update({name: tensor.double() for name, tensor in x.items()}),
        "backend: got 'triton' for torch.float64 tensors .* float32, float16 or bfloat16",
    ),
}


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(change, message):
    inputs, _ = draw_nsa(SMALL, t=9)
    change(inputs)
    with pytest.raises(ValueError, match=message):
        nsa_attention(**inputs, config=SMALL, backend="triton")
