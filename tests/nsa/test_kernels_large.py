"""The kernels at the size of models, on a GPU: long sequences, large offsets, memory linear in the length."""

import pytest
import torch

from minisys.nsa import NSAConfig, nsa_attention
from minisys.nsa.reference import attention_weights, weighted_values

from . import kernel_cases as cases
from .kernel_cases import with_gradients

from minisys.nsa.kernels.attention import nsa_op  # isort: skip  (skipped without Triton)

pytestmark = pytest.mark.gpu


def needs(gib):
    """Skip a test where the GPU has less memory than this."""
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0
    return pytest.mark.skipif(memory < gib, reason=f"needs {gib} GiB of GPU memory, there are {memory:.0f}")


CONFIG = NSAConfig()
FIELDS = [32, 16, 64, 16, 1, 2, 512]
HEADS = {"hq": 64, "hk": 4, "d_qk": 128, "d_v": 128}


def large(t, b=1, hq=64, hk=4, d_qk=128, d_v=128, dtype=torch.bfloat16, gradient=True):
    """Like `draw_nsa`, drawn on the GPU."""
    generator = torch.Generator("cuda").manual_seed(0)
    new = lambda *shape: torch.randn(shape, generator=generator, device="cuda", dtype=dtype)
    tc = CONFIG.num_compressed(t)
    inputs = {"q": new(b, t, hq, d_qk)}
    for branch, keys in (("cmp", tc), ("slc", t), ("win", t)):
        inputs[f"k_{branch}"], inputs[f"v_{branch}"] = new(b, keys, hk, d_qk), new(b, keys, hk, d_v)
    inputs["gates"] = new(b, t, hq, 3).sigmoid()
    return inputs, new(b, t, hq, d_v) if gradient else None


def chosen(inputs, b):
    """Block numbers of batch row `b`, from the operator itself."""
    t = inputs["q"].shape[1]
    row = [tensor[b].contiguous() for tensor in inputs.values()]
    return nsa_op(*row, None, [0, t], FIELDS, row[0].shape[-1] ** -0.5, False)[-1]


def tail(inputs, blocks, rows, b):
    """Float64 output of the last `rows` tokens of batch row `b` from leaves, and those leaves.

    Gradients of these outputs alone reach all keys, so that they can be compared for a `do` that is zero
    elsewhere.
    """
    t, hk = inputs["q"].shape[1], inputs["k_slc"].shape[2]
    leaves = {
        name: (tensor[b : b + 1, -rows:] if name in ("q", "gates") else tensor[b : b + 1])
        .double()
        .requires_grad_()
        for name, tensor in inputs.items()
    }
    queries = torch.arange(t - rows, t, device="cuda")[:, None]
    tokens = torch.arange(t, device="cuda")
    ends = torch.arange(CONFIG.num_compressed(t), device="cuda") * 16 + 31
    picked = torch.zeros(rows, hk, CONFIG.num_selectable(t) + 1, dtype=torch.bool, device="cuda")
    picked.scatter_(-1, blocks[-rows:].long() % picked.shape[-1], True)
    by_token = picked[..., tokens // 64].transpose(0, 1)[None, :, None]  # [1, hk, 1, rows, t]
    masks = {
        "cmp": ends <= queries,
        "slc": by_token & (tokens <= queries),
        "win": (tokens <= queries) & (tokens > queries - 512),
    }
    out = 0
    for i, (branch, mask) in enumerate(masks.items()):
        weights = attention_weights(leaves["q"], leaves[f"k_{branch}"], mask, leaves["q"].shape[-1] ** -0.5)
        out = out + leaves["gates"][..., i : i + 1] * weighted_values(weights, leaves[f"v_{branch}"])
    return out, leaves


@pytest.mark.large
@pytest.mark.parametrize(
    ("b", "t", "hq", "hk", "d_qk"),
    [
        pytest.param(1, 65536, 64, 4, 128, id="64k"),
        pytest.param(1, 16383, 64, 4, 192, id="16k less one, the paper's heads"),
        pytest.param(5, 65536, 64, 4, 128, id="more than 2^31 numbers", marks=needs(70)),
    ],
)
def test_the_last_tokens(b, t, hq, hk, d_qk):
    """Output and gradients of the last 16 tokens of the last batch row."""
    rows = 16
    inputs, do = large(t, b, hq, hk, d_qk)
    do[:, :-rows] = 0
    got = with_gradients(inputs, do, CONFIG, backend="triton")
    assert all(tensor.isfinite().all() for tensor in got.values())
    blocks = chosen(inputs, b - 1)
    out, leaves = tail(inputs, blocks, rows, b - 1)
    assert cases.error(got["out"][-1:, -rows:], out.detach()) < 6e-3
    expected = torch.autograd.grad(out, list(leaves.values()), do[-1:, -rows:].double())
    for name, reference in zip(leaves, expected, strict=True):
        part = got[name][-1:, -rows:] if name in ("q", "gates") else got[name][-1:]
        assert cases.error(part, reference) < 6e-3, name
        if name in ("q", "gates"):
            assert (got[name][:, :-rows] == 0).all()


def peak(t, backward):
    """Peak memory of a call in bytes, tensors included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    inputs, do = large(t, gradient=backward)
    if backward:
        with_gradients(inputs, do, CONFIG, backend="triton")
    else:
        nsa_attention(**inputs, config=CONFIG, backend="triton")
    return torch.cuda.max_memory_allocated()


@pytest.mark.large
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_memory_is_linear(backward):
    """Twice the tokens take at most twice the memory: the slack is what does not grow."""
    peak(8192, backward)
    half, whole = peak(32768, backward), peak(65536, backward)
    assert whole < 2.02 * half, (half / 2**30, whole / 2**30)


@pytest.mark.large
def test_two_runs_agree_at_16k():
    inputs, do = large(16384)
    first, second = (with_gradients(inputs, do, CONFIG, backend="triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        {"t": 1500, "hq": 64, "hk": 4, "d_qk": 128, "d_v": 128},
        {"t": 1111, "hq": 8, "hk": 4, "d_qk": 192, "d_v": 128},
        {"t": 900, "hq": 64, "hk": 1, "d_qk": 64, "d_v": 64},
        {"lengths": [700, 20, 513, 64], "hq": 6, "hk": 2, "d_qk": 128, "d_v": 128},
        {"b": 3, "t": 515, "hq": 4, "hk": 4, "d_qk": 64, "d_v": 64},
        {"t": 640, "hq": 4, "hk": 1, "d_qk": 256, "d_v": 256},
    ],
    ids=["model", "paper's heads", "group of 64", "packed", "heads of their own", "largest heads"],
)
def test_default_config(shape, dtype):
    """The config of the paper against float64, whole, at equal block numbers."""
    from .test_kernels_attention import check_whole

    check_whole(CONFIG, dtype=dtype, **shape)


@pytest.mark.large
@needs(78)
def test_a_million_tokens():
    inputs, _ = large(2**20, gradient=False)
    with torch.no_grad():
        out = nsa_attention(**inputs, config=CONFIG, backend="triton")
    assert all(part.isfinite().all() for part in out.split(2**16, dim=1))
    blocks = chosen({name: tensor for name, tensor in inputs.items()}, 0)
    assert (blocks[-1] >= 0).all()
    with torch.no_grad():
        expected, _ = tail(inputs, blocks, 2, 0)
    assert cases.error(out[:, -2:], expected) < 6e-3
    assert torch.cuda.max_memory_allocated() < 75 * 2**30
