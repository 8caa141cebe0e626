"""What the attention kernels share: one step of the online softmax, padded sizes, argument checks.

Online softmax (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv 2205.14135). A row of
attention is Σ_j exp(s_j - m) v_j / Σ_j exp(s_j - m) with m = max_j s_j. Read tile by tile, m is only the
largest score so far; when a tile brings a larger one, both sums are multiplied by exp(old m - new m) < 1.
So three things are carried from tile to tile: `row_max` (m), `row_sum` (the denominator) and `acc` (the
numerator), and no score ever leaves the chip.

Two conventions: exponentials are powers of two, which the hardware computes, so scores are multiplied by
scale · log2(e) instead of scale. And a tile's sides are powers of two of at least 16, as `tl.dot` wants:
a head size or a group that is none is padded, the padding is masked on load and never stored.

Numbers: products take the tensors' dtype and accumulate in float32; softmax is float32. float32 inputs are
multiplied in full float32 ("ieee") instead of the tensor cores' tf32, which is right to three digits only.
"""

import functools
import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from minisys.core.checks import check, check_rank, check_shape

LOG2_E = math.log2(math.e)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256  # of queries, keys or values: a tile of them has to fit in shared memory

# Triton decides when it is imported whether kernels are compiled or interpreted on the CPU.
INTERPRETED = tl.constexpr(not isinstance(tl.sum, triton.JITFunction))
if bool(INTERPRETED) != triton.knobs.runtime.interpret:
    raise ImportError("TRITON_INTERPRET was changed after Triton was imported; set it before")


@triton.jit
@no_type_check  # a runtime type check of the annotations would hide the source that Triton compiles
def attend_tile(q, k, v, visible, row_max, row_sum, acc, scale_log2):
    """Take one tile of keys and values into the online softmax.

    q [rows, d_qk], k [keys, d_qk], v [keys, d_v]; `visible` [rows, keys], or None where every row sees every
    key. Every row must have seen a key by the end of its first tile: -inf - (-inf) is no number.
    """
    if INTERPRETED:  # the interpreter keeps bfloat16 as raw 16-bit integers and would multiply those
        q = q.to(tl.float32)
        k = k.to(tl.float32)
        v = v.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    if visible is not None:
        scores = tl.where(visible, scores, -float("inf"))
    new_max = tl.maximum(row_max, tl.max(scores, axis=1))
    weights = tl.exp2(scores - new_max[:, None])
    shrink = tl.exp2(row_max - new_max)  # 0 at the first tile, where row_max is -inf
    row_sum = row_sum * shrink + tl.sum(weights, axis=1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return new_max, row_sum, acc


def padded(size: int) -> int:
    """Smallest power of two that holds `size` and is at least 16."""
    return max(16, triton.next_power_of_2(size))


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program can have: 227 KiB on Hopper, 99 KiB on gaming GPUs."""
    if INTERPRETED:
        return 227 * 1024
    return triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]


def check_inputs(q: Tensor, k: Tensor, v: Tensor, k_name: str, v_name: str) -> None:
    """Check what the kernels need of q ``[b, t, hq, d_qk]``, k ``[b, t, hk, d_qk]``, v ``[b, t, hk, d_v]``.

    Raises:
        ValueError: ranks, shapes, dtypes or devices do not fit, or a gradient is asked for.
    """
    check_rank("q", q, "b t hq d_qk")
    check_rank(k_name, k, "b t hk d_qk")
    check_rank(v_name, v, "b t hk d_v")
    b, t, hq, d_qk = q.shape
    hk, d_v = k.shape[2], v.shape[3]
    check(t >= 1, "q", f"shape {tuple(q.shape)}", "at least one token")
    check_shape(k_name, k, (b, t, hk, d_qk), "b t hk d_qk")
    check_shape(v_name, v, (b, t, hk, d_v), "b t hk d_v")
    check(hk >= 1 and hq % hk == 0, "q", f"{hq} query heads", f"a multiple of the {hk} key/value heads")
    for name, size in (("q", d_qk), (v_name, d_v)):
        check(1 <= size <= MAX_HEAD_DIM, name, f"head size {size}", f"1 to {MAX_HEAD_DIM}")
    check(q.dtype in DTYPES, "q", q.dtype, f"one of {', '.join(map(str, DTYPES))}")
    check(
        q.is_cuda or bool(INTERPRETED),
        "q",
        f"a tensor on {q.device}",
        "one on a CUDA GPU, or TRITON_INTERPRET=1 in the environment before Triton is imported",
    )
    for name, tensor in ((k_name, k), (v_name, v)):
        check(tensor.dtype == q.dtype, name, tensor.dtype, f"{q.dtype}, the dtype of q")
        check(tensor.device == q.device, name, tensor.device, f"{q.device}, the device of q")
    check_no_gradient(**{"q": q, k_name: k, v_name: v})


def check_no_gradient(**tensors: Tensor) -> None:
    """Check that nobody will ask for a gradient of these tensors.

    Raises:
        ValueError: one requires a gradient while gradients are recorded.
    """
    for name, tensor in tensors.items():
        check(
            not (torch.is_grad_enabled() and tensor.requires_grad),
            name,
            "a tensor that requires a gradient",
            "none, or torch.no_grad(): the kernels have no backward pass yet",
        )


def checked_scale(scale: float | None, q: Tensor) -> float:
    """`scale`, or 1/√d_qk where it is None.

    Raises:
        ValueError: `scale` is not finite.
    """
    if scale is None:
        return 1 / math.sqrt(q.shape[-1])
    check(math.isfinite(scale), "scale", scale, "a finite number")
    return scale
