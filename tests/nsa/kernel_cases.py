"""What the kernels' tests share: inputs, tolerances and the float64 reference.

The same tests run compiled on a GPU, and in Triton's interpreter where there is none (tests/conftest.py).
Error is ‖out - reference‖ / ‖reference‖ on the same inputs. float32 has to come within 1e-6, which tf32
products would miss by far. For the 16-bit types the bound is the unit roundoff, the most that rounding one
number to the nearest can cost: 4.9e-4 for float16 and 3.9e-3 for bfloat16.
`test_as_exact_as_pytorch` holds the same errors against PyTorch's own attention.

Triton's interpreter makes a bfloat16 by cutting the low half of a float32 off, which costs twice as much as
rounding to nearest, always downwards. GPUs round. So that one tolerance fits both, the interpreter's
conversion is replaced here by PyTorch's, which rounds.
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, seed, settings

from minisys.nsa import NSAConfig, nsa_attention
from minisys.nsa.reference import attention_weights, selected_mask, weighted_values

pytest.importorskip("triton", reason="Triton is not installed")

from minisys.nsa.kernels import INTERPRETED
from minisys.nsa.kernels.layout import Layout

if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("neither a CUDA GPU nor Triton's interpreter", allow_module_level=True)

if INTERPRETED:
    import triton.language as tl
    from triton.runtime import interpreter

    cut_off = interpreter._convert_float

    def convert_float(data, source, target, mode):
        """Round to nearest where the interpreter would cut off: float32 to bfloat16."""
        if (source, target) != (tl.float32, tl.bfloat16):
            return cut_off(data, source, target, mode)
        return torch.tensor(np.array(data)).bfloat16().view(torch.int16).numpy().view(np.uint16)

    interpreter._convert_float = convert_float

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {dtype: max(1e-6, torch.finfo(dtype).eps / 2) for dtype in DTYPES}
# All of NSA and its gradients add up several rounded numbers.
WHOLE = {torch.float32: 1e-6, torch.float16: 8e-4, torch.bfloat16: 6e-3}
SHAPES = {
    "grouped": {},
    "one head a group": {"hq": 3, "hk": 3},
    "group of 3": {"hq": 6},
    "group of 16": {"hq": 16, "hk": 1},
    "odd head sizes": {"d_qk": 24, "d_v": 20},
    "tiny heads": {"d_qk": 3, "d_v": 1},
    "values wider than keys": {"d_qk": 16, "d_v": 40},
    "one token": {"t": 1},
    "batch": {"b": 3, "t": 7},
}
by_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_head_size = pytest.mark.parametrize(("d_qk", "d_v"), [(64, 64), (128, 128), (192, 128), (256, 256)])

# The interpreter takes its time, and looking for a smaller example that fails takes minutes;
# a GPU compiles something for many of the shapes.
few = settings(
    max_examples=6 if INTERPRETED else 40, deadline=None, derandomize=True, database=None,
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
SHARES = 1 if INTERPRETED else 8


def sweep(**strategies):
    """Like `given` with `few`; on a GPU in shares of other examples each, so that workers share compiling."""

    def decorate(check):
        drawn = few(given(**strategies)(check))
        if SHARES > 1:  # of the number of the share, not of the test's source as `derandomize` has it
            part = settings(few, max_examples=few.max_examples // SHARES, derandomize=False)
            drawn = part(given(**strategies)(check))

        @pytest.mark.parametrize("share", range(SHARES))
        @functools.wraps(check)
        def test(share):
            (seed(share)(drawn) if SHARES > 1 else drawn)()

        del test.__wrapped__  # pytest would ask for its arguments
        return test

    return decorate


def draw(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def draw_qkv(b=1, t=20, hq=4, hk=2, d_qk=16, d_v=16, *, dtype=torch.float32, seed=0):
    shapes = ((b, t, hq, d_qk), (b, t, hk, d_qk), (b, t, hk, d_v))
    return [draw(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes)]


SMALL = NSAConfig(
    compress_block=4, compress_stride=2, select_block=8, top_n=4, initial_blocks=1, local_blocks=2, window=6
)


def draw_nsa(
    config, b=1, t=20, hq=4, hk=2, d_qk=16, d_v=16, *, lengths=None, dtype=torch.float32, seed=0
):  # fmt: skip
    """Tensors for `nsa_attention` by argument name, and a gradient of its output."""
    tc = sum(map(config.num_compressed, lengths or [t]))
    t = sum(lengths) if lengths else t
    keys, values = (hk, d_qk), (hk, d_v)
    shapes = {
        "q": (t, hq, d_qk), "k_cmp": (tc, *keys), "v_cmp": (tc, *values), "k_slc": (t, *keys),
        "v_slc": (t, *values), "k_win": (t, *keys), "v_win": (t, *values), "gates": (t, hq, 3),
    }  # fmt: skip
    inputs = {
        name: draw(b, *shape, seed=seed + i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())
    }
    inputs["gates"] = inputs["gates"].sigmoid()
    return inputs, draw(b, t, hq, d_v, seed=seed + 99, dtype=dtype)


def layout_of(config, lengths):
    ends = list(itertools.accumulate(lengths))
    bounds = zip([0, *ends[:-1]], ends, strict=True)
    return Layout(tuple(bounds), config, torch.device(DEVICE))


def packed(lengths):
    """The arguments that make sequences of these lengths share the token axis."""
    return {"cu_seqlens": torch.tensor([0, *itertools.accumulate(lengths)])} if lengths else {}


def with_gradients(inputs, do, config, **options):
    """Output of `nsa_attention` as "out", and every gradient under its argument's name."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    out = nsa_attention(**leaves, config=config, **options)
    return {"out": out.detach()} | dict(
        zip(leaves, torch.autograd.grad(out, list(leaves.values()), do.to(out.dtype)), strict=True)
    )


def exact(inputs):
    return {name: tensor.double() for name, tensor in inputs.items()}


def blocks_of(length):
    """A config with selection blocks of that many tokens."""
    return NSAConfig(1, 1, length, top_n=3)


def draw_blocks(config, b=1, t=20, hk=2, n=4, seed=9):
    """Any block numbers: of the future, in any order, repeated, -1 in between."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, config.num_selectable(t), (b, t, hk, n), generator=generator).to(DEVICE)


def attend(q, k, v, mask, scale=None):
    """Float64 attention under `mask`."""
    weights = attention_weights(q.double(), k.double(), mask, q.shape[-1] ** -0.5 if scale is None else scale)
    return weighted_values(weights, v.double())


def dense(q, k, v, scale=None):
    t = q.shape[1]
    return attend(q, k, v, torch.ones(t, t, dtype=torch.bool, device=q.device).tril(), scale)


def selected(q, k, v, blocks, config, scale=None):
    return attend(q, k, v, selected_mask(blocks, config), scale)


def error(out, reference):
    assert out.shape == reference.shape
    return ((out.double() - reference).norm() / reference.norm()).item()


def assert_same(got, expected):
    """One computation by two kernels: every bit, but compiled the last ones of float32 may differ."""
    bits = 4 * torch.finfo(torch.float32).eps if got.dtype == torch.float32 and not INTERPRETED else 0
    torch.testing.assert_close(got, expected, rtol=bits, atol=bits)


def errors(got, reference, least=0.0):
    """Error of every tensor by name. A reference of zeros is divided by `least`, or wants exact zeros."""
    found = {}
    for name, tensor in got.items():
        assert tensor.shape == reference[name].shape, name
        off = (tensor.double() - reference[name]).norm().item()
        found[name] = off and off / max(reference[name].norm().item(), least, 1e-300)
    return found


def poison(monkeypatch):
    """Fill every new tensor with NaN, or -7 if it holds whole numbers: what a kernel does not write shows."""

    def poisoned(made):
        return made.fill_(math.nan if made.is_floating_point() else -7) if made.numel() else made

    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: poisoned(make(*size, **options)))


def big_inputs(b, t, d_qk, d_v, hk=4):
    """bfloat16 q, k, v of 64 query heads on the GPU, and the generator that drew them."""
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((b, t, 64, d_qk), (b, t, hk, d_qk), (b, t, hk, d_v))
    return generator, *(
        torch.randn(s, generator=generator, device="cuda", dtype=torch.bfloat16) for s in shapes
    )


def tail_error(out, q, k, v, mask):
    """Error of the last queries of the last batch row; `mask` ``[hk or 1, rows, t]`` says how many."""
    rows = mask.shape[1]
    return error(out[-1:, -rows:], attend(q[-1:, -rows:], k[-1:], v[-1:], mask[None, :, None]))


# A guessed maximum may fail: sums are infinite, and computed anew. Only the interpreter, NumPy, warns of it.
FAILED_GUESSES = pytest.mark.filterwarnings("ignore:.*encountered in (exp2|matmul|multiply|add|reduce)")

by_model_size = pytest.mark.parametrize(
    ("b", "t", "d_qk", "d_v"),
    [(1, 8192, 128, 128), (1, 8192, 192, 128), (1, 16383, 64, 64), (9, 32768, 128, 128)],
    ids=["8k", "8k, the paper's heads", "16k less one", "more than 2^31 numbers"],
)
