"""Dense attention, what both kernels share, and bad input. The selected branch has a file of its own."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import strategies as st

from minisys.nsa import NSAConfig

from . import kernel_cases as cases
from .kernel_cases import DTYPES, INTERPRETED, TOLERANCE, dense, draw, draw_qkv, error

from minisys.nsa.kernels import flash_attention, selected_attention  # isort: skip  (skipped without Triton)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    cases.poison(monkeypatch)


@cases.by_dtype
@cases.by_shape
def test_flash(shape, dtype):
    q, k, v = draw_qkv(dtype=dtype, **shape)
    out = flash_attention(q, k, v)
    assert out.dtype == dtype
    assert error(out, dense(q, k, v)) < TOLERANCE[dtype]


@pytest.mark.parametrize("t", [31, 32, 33, 127, 128, 129, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_flash_around_the_edges_of_its_tiles(t, dtype):
    q, k, v = draw_qkv(t=t, hq=2, hk=1, dtype=dtype)
    assert error(flash_attention(q, k, v), dense(q, k, v)) < TOLERANCE[dtype]


@cases.by_head_size
@cases.by_dtype
def test_flash_with_the_head_sizes_of_models(d_qk, d_v, dtype):
    q, k, v = draw_qkv(t=150, hq=2, hk=1, d_qk=d_qk, d_v=d_v, dtype=dtype)
    assert error(flash_attention(q, k, v), dense(q, k, v)) < TOLERANCE[dtype]


def test_flash_returns_the_logarithm_of_the_denominator():
    q, k, v = draw_qkv(b=2, t=40)
    out, lse = flash_attention(q, k, v, scale=0.7, return_lse=True)
    scores = torch.einsum("bthd,bshd->bths", q.double(), k.double().repeat_interleave(2, dim=2)) * 0.7
    future = torch.ones(40, 40, dtype=torch.bool, device=q.device).triu(1)
    assert error(lse, scores.masked_fill(future[:, None], -torch.inf).logsumexp(dim=-1)) < 1e-6
    assert torch.equal(out, flash_attention(q, k, v, scale=0.7))


@pytest.mark.parametrize("scale", [0.9, -0.5])
def test_flash_takes_a_scale(scale):
    q, k, v = draw_qkv(t=40)
    assert error(flash_attention(q, k, v, scale=scale), dense(q, k, v, scale)) < 1e-6
    assert torch.equal(flash_attention(q, k, v, scale=0.25), flash_attention(q, k, v))


def test_flash_does_not_read_the_future():
    q, k, v = draw_qkv(t=70, hq=2)
    before = flash_attention(q, k, v)
    k[:, 33:] = draw(1, 37, 2, 16, seed=7)
    v[:, 33:] = 100.0
    after = flash_attention(q, k, v)
    assert torch.equal(after[:, :33], before[:, :33])
    assert not torch.equal(after[:, 33], before[:, 33])


def test_large_scores_do_not_overflow():
    """Scores of up to a few thousand, whose exponentials no float32 holds."""
    q, k, v = draw_qkv(t=40)
    assert error(flash_attention(100 * q, 10 * k, v), dense(100 * q, 10 * k, v)) < 1e-4


@cases.sweep(
    b=st.integers(1, 2),
    t=st.integers(1, 140),
    group=st.sampled_from([1, 2, 3, 5]),
    hk=st.integers(1, 2),
    d_qk=st.sampled_from([5, 16, 48]),
    d_v=st.sampled_from([4, 32]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_flash_on_any_shape(b, t, group, hk, d_qk, d_v, dtype, seed):
    q, k, v = draw_qkv(b, t, group * hk, hk, d_qk, d_v, dtype=dtype, seed=seed)
    assert error(flash_attention(q, k, v), dense(q, k, v)) < TOLERANCE[dtype]


@cases.by_dtype
def test_as_exact_as_pytorch(dtype):
    """PyTorch rounds the same inputs and the same result."""
    q, k, v = draw_qkv(t=100, hq=2, d_qk=32, d_v=32, dtype=dtype)
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True
    ).transpose(1, 2)
    reference = dense(q, k, v)
    assert error(flash_attention(q, k, v), reference) < 1.5 * max(error(out, reference), 1e-7)


@pytest.mark.gpu
@cases.by_model_size
def test_flash_at_the_size_of_models(b, t, d_qk, d_v):
    """64 query heads on 4 key/value heads, bfloat16; the last queries are compared, all are finite."""
    _, q, k, v = cases.big_inputs(b, t, d_qk, d_v)
    out = flash_attention(q, k, v)
    assert out.isfinite().all()
    tokens = torch.arange(t, device="cuda")
    causal = tokens <= tokens[-64:, None]
    assert cases.tail_error(out, q, k, v, causal[None]) < TOLERANCE[torch.bfloat16]


# Both kernels.


def run_both(q, k, v, config):
    blocks = cases.draw_blocks(config, q.shape[0], q.shape[1], k.shape[2])
    return flash_attention(q, k, v), selected_attention(q, k, v, blocks, config=config)


def test_tensors_need_not_be_contiguous():
    config, tensors = cases.blocks_of(8), draw_qkv(b=2, t=9, hk=1)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
    assert not turned[0].is_contiguous()
    for a, b in zip(run_both(*tensors, config), run_both(*turned, config), strict=True):
        assert torch.equal(a, b)


def test_an_empty_batch():
    for out in run_both(*draw_qkv(b=0), cases.blocks_of(8)):
        assert out.shape == (0, 20, 4, 16)


def test_the_same_twice():
    size = {"t": 8} if INTERPRETED else {"b": 2, "t": 1000, "hq": 16, "d_qk": 64, "d_v": 64}
    tensors = draw_qkv(**size, dtype=torch.bfloat16)
    config = cases.blocks_of(8) if INTERPRETED else NSAConfig()
    for a, b in zip(run_both(*tensors, config), run_both(*tensors, config), strict=True):
        assert torch.equal(a, b)


BAD = {
    "rank": (lambda x: x.update(q=x["q"][0]), r"q: got shape \(20, 4, 16\), expected 4 axes"),
    "heads": (lambda x: x.update(q=x["q"][:, :, :3]), "q: got 3 query heads, expected a multiple of the 2"),
    "no tokens": (lambda x: x.update(q=x["q"][:, :0]), "q: got .* expected at least one token"),
    "keys too short": (lambda x: x.update(k=x["k"][:, :-1]), r"^k(_slc)?: got .*\(1, 20, 2, 16\)"),
    "d_qk": (lambda x: x.update(k=x["k"][..., :-1]), r"^k(_slc)?: got .*\(1, 20, 2, 16\)"),
    "value heads": (lambda x: x.update(v=x["v"][:, :, :1]), r"^v(_slc)?: got .*\(1, 20, 2, 16\)"),
    "head too large": (
        lambda x: x.update(v=draw(1, 20, 2, 257)),
        r"^v(_slc)?: got head size 257, expected 1 to 256",
    ),
    "float64": (lambda x: x.update(q=x["q"].double()), "q: got torch.float64, expected one of torch.float32"),
    "dtypes differ": (
        lambda x: x.update(v=x["v"].half()),
        r"^v(_slc)?: got torch.float16, expected torch.float32",
    ),
    "gradient": (
        lambda x: x.update(k=x["k"].requires_grad_()),
        r"^k(_slc)?: got a tensor that requires a gradient, expected none, .* no backward pass",
    ),
    "scale": (lambda x: x.update(scale=math.inf), "scale: got inf, expected a finite number"),
}


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(change, message):
    arguments = dict(zip("qkv", draw_qkv(), strict=True))
    change(arguments)
    with pytest.raises(ValueError, match=message):
        flash_attention(**arguments)
    arguments = {{"k": "k_slc", "v": "v_slc"}.get(name, name): value for name, value in arguments.items()}
    config = cases.blocks_of(8)
    with pytest.raises(ValueError, match=message):
        selected_attention(**arguments, block_indices=cases.draw_blocks(config), config=config)


# Triton and its interpreter, in processes of their own: Triton looks at its environment once.


def run_python(code, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120
    )


def test_without_gpu_or_interpreter():
    done = run_python(
        """
import sys, torch
from minisys.nsa import NSAConfig, nsa_attention
assert "triton" not in sys.modules, "minisys.nsa imports Triton"
x = torch.ones(1, 2, 1, 4)
none = x[:, :0]
attend = lambda: nsa_attention(
    x, none, none, x, x, x, x, x[..., :3], config=NSAConfig(), backend="triton"
)
def flash():
    from minisys.nsa.kernels import flash_attention
    flash_attention(x, x, x)
def late():
    import os
    os.environ["TRITON_INTERPRET"] = "1"
    for name in [name for name in sys.modules if name.startswith("minisys.nsa.kernels")]:
        del sys.modules[name]
    attend()
def missing():
    sys.modules["triton"] = None
    late()
for call in (attend, flash, late, missing):
    try:
        call()
    except ValueError as error:
        print(error)
""",
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 0, done.stderr
    backend, flash, late, missing = done.stdout.splitlines()
    assert "backend: got 'triton' for torch.float32 tensors on cpu, expected 'auto'" in backend
    assert "CUDA GPU" in backend
    assert "q: got a tensor on cpu, expected one on a CUDA GPU" in flash
    assert "TRITON_INTERPRET was changed after Triton was imported" in late
    assert "backend: got 'triton', expected 'auto', 'reference' or 'sdpa'" in missing
