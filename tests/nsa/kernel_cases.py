"""What the kernels' tests share: inputs, tolerances and the float64 reference.

The same tests run compiled on a GPU, and in Triton's interpreter where there is none (tests/conftest.py).
Error is ‖out - reference‖ / ‖reference‖ on the same inputs. float32 has to come within 1e-6, which tf32
products would miss by far. For the 16-bit types the bound is the unit roundoff, the most that rounding one
number to the nearest can cost: 4.9e-4 for float16 and 3.9e-3 for bfloat16.
`test_as_exact_as_pytorch` holds the same errors against PyTorch's own attention.
"""

import math

import pytest
import torch
from hypothesis import settings

from minisys.nsa import NSAConfig
from minisys.nsa.reference import attention_weights, selected_mask, weighted_values

pytest.importorskip("triton", reason="Triton is not installed")

from minisys.nsa.kernels import INTERPRETED

if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("neither a CUDA GPU nor Triton's interpreter", allow_module_level=True)

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {dtype: max(1e-6, torch.finfo(dtype).eps / 2) for dtype in DTYPES}
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

# The interpreter takes its time; a GPU compiles something for many of the shapes.
few = settings(max_examples=6 if INTERPRETED else 40, deadline=None, derandomize=True, database=None)


def draw(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def draw_qkv(b=1, t=20, hq=4, hk=2, d_qk=16, d_v=16, *, dtype=torch.float32, seed=0):
    shapes = ((b, t, hq, d_qk), (b, t, hk, d_qk), (b, t, hk, d_v))
    return [draw(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes)]


def blocks_of(length):
    """A config with selection blocks of that many tokens."""
    return NSAConfig(1, 1, length, top_n=3)


def draw_blocks(config, b=1, t=20, hk=2, n=4, seed=9):
    """Any block numbers: of the future, in any order, repeated, -1 in between."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, config.num_selectable(t), (b, t, hk, n), generator=generator).to(DEVICE)


def attend(q, k, v, mask, scale=None):
    """Float64 attention under `mask`."""
    weights = attention_weights(q.double(), k.double(), mask, scale or q.shape[-1] ** -0.5)
    return weighted_values(weights, v.double())


def dense(q, k, v, scale=None):
    t = q.shape[1]
    return attend(q, k, v, torch.ones(t, t, dtype=torch.bool, device=q.device).tril(), scale)


def selected(q, k, v, blocks, config, scale=None):
    return attend(q, k, v, selected_mask(blocks, config), scale)


def error(out, reference):
    assert out.shape == reference.shape
    return ((out.double() - reference).norm() / reference.norm()).item()


def poison(monkeypatch):
    """Fill every new tensor with NaN: what a kernel does not write shows."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(math.nan))


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


by_model_size = pytest.mark.parametrize(
    ("b", "t", "d_qk", "d_v"),
    [(1, 8192, 128, 128), (1, 8192, 192, 128), (1, 16383, 64, 64), (9, 32768, 128, 128)],
    ids=["8k", "8k, the paper's heads", "16k less one", "more than 2^31 numbers"],
)
