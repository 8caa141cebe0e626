"""What the attention kernels share: one step of the online softmax, padded sizes, argument checks.

Online softmax (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv 2205.14135). A row of
attention is Σ_j exp(s_j - m) v_j / Σ_j exp(s_j - m) with m = max_j s_j. Read tile by tile, m is only the
largest score so far; when a tile brings a larger one, both sums are multiplied by exp(old m - new m) < 1.
So three things are carried from tile to tile: `row_max` (m), `row_sum` (the denominator) and `acc` (the
numerator), and no score ever leaves the chip. The backward pass computes every tile of scores a second time,
from the logarithm of the denominator that the forward kept (lse).

A maximum that is guessed, from the first tile, saves the carrying (FlashDecoding++, arXiv 2311.01282): any m
gives the same quotient while no sum leaves the range of its type, and float32 and bfloat16 reach from 2^-126
to 2^127. A third of a tile's instructions goes away, and the second product waits for nobody. Where a sum did
leave 2^-80 to 2^100, the program starts again with the maximum carried. float16 is too narrow for guesses.

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
from triton.tools.tensor_descriptor import TensorDescriptor

from minisys.core.checks import check, check_rank, check_shape

LOG2_E = math.log2(math.e)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256  # of queries, keys or values: a tile of them has to fit in shared memory

# Triton decides when it is imported whether kernels are compiled or interpreted on the CPU.
INTERPRETED = tl.constexpr(not isinstance(tl.sum, triton.JITFunction))
if bool(INTERPRETED) != triton.knobs.runtime.interpret:
    raise ImportError("TRITON_INTERPRET was changed after Triton was imported; set it before")


@functools.cache
def is_hopper(device: torch.device) -> bool:
    """Whether tile options tuned on an H100 are for this GPU; the interpreter runs the same.

    Elsewhere boxes become many instructions, so tiles have more threads, which compiles in a third of the
    time and spills little (compiled for capability 8.0 and 8.9, not run: benchmarks/nsa_kernels_log.md).
    """
    return bool(INTERPRETED) or torch.cuda.get_device_capability(device)[0] == 9


@functools.cache
def dependent_launch(device: torch.device) -> dict[str, bool]:
    """Options of a launch that depends on the one before it within the GPU, where the GPU knows that."""
    if INTERPRETED or torch.cuda.get_device_capability(device) < (9, 0):
        return {"DEPENDENT": False}
    return {"DEPENDENT": True, "launch_pdl": True}


@triton.jit
@no_type_check  # a runtime type check of the annotations would hide the source that Triton compiles
def product(a, b):
    """a @ b, accumulated in float32."""
    if INTERPRETED:  # the interpreter keeps bfloat16 as raw 16-bit integers and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
@no_type_check
def product_onto(a, b, acc):
    """acc + a @ b."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
@no_type_check
def tile_rows(tile, kv_head, hk, GROUP: tl.constexpr, GROUP_PADDED: tl.constexpr, ROWS: tl.constexpr):
    """What a program knows of its tile of tokens × heads (layout.py).

    (token, position, count, place, inside, first_row, row): the first token, its position in the sequence and
    the number of tokens; of every row the token's place in the tile and whether there is such a row; and
    where rows lie in ``[tokens, hq]``: row [rows] counts from first_row, which is 64-bit.
    """
    token = tl.load(tile)
    position = tl.load(tile + 1)
    count = tl.load(tile + 2)
    rows = tl.arange(0, ROWS)
    place = rows // GROUP_PADDED
    head = rows % GROUP_PADDED
    inside = (place < count) & (head < GROUP)
    first_row = (token.to(tl.int64) * hk + kv_head) * GROUP
    return token, position, count, place, inside, first_row, place * (hk * GROUP) + head


@triton.jit
@no_type_check
def prefetch_rows(base, row, inside, D: tl.constexpr, D_PADDED: tl.constexpr):
    """Ask for rows `row` [rows] of ``[.., D]``, where inside, in the L2 cache, and wait for nothing."""
    if not INTERPRETED:
        IN_LINE: tl.constexpr = 1024 // base.dtype.element_ty.primitive_bitwidth  # a line is 128 bytes
        LINES: tl.constexpr = (D_PADDED + IN_LINE - 1) // IN_LINE
        number = tl.minimum(tl.arange(0, LINES) * IN_LINE, D - 1)[None, :]
        place = tl.where(inside[:, None], row[:, None] * D + number, 0)
        tl.inline_asm_elementwise(
            "{ prefetch.global.L2 [$1]; mov.u32 $0, 0; }",
            constraints="=r,l",
            args=[(base + place).to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
@no_type_check
def attend_tile(q, k, v, visible, row_max, row_sum, acc, scale_log2, GUESSED: tl.constexpr = False):
    """Take one tile of keys and values into the online softmax.

    q [rows, d_qk], k [keys, d_qk], v [keys, d_v]; `visible` [rows, keys], or None where every row sees every
    key. `row_max` is in units of q·k, so that scale and maximum are one multiply-add; scale_log2 > 0.
    With GUESSED it is finite and stays as it is.
    """
    scores = product(q, tl.trans(k))
    if GUESSED:
        weights = tl.exp2(scores * scale_log2 - (row_max * scale_log2)[:, None])
        if visible is not None:
            weights = tl.where(visible, weights, 0.0)
        row_sum += tl.sum(weights, axis=1)
        return row_max, row_sum, product_onto(weights.to(v.dtype), v, acc)
    if visible is not None:
        scores = tl.where(visible, scores, -float("inf"))
    new_max = tl.maximum(row_max, tl.max(scores, axis=1))
    # A row that has seen no key yet subtracts 0: -inf - (-inf) is no number.
    base = tl.where(new_max == -float("inf"), 0.0, new_max) * scale_log2
    shrink = tl.exp2(row_max * scale_log2 - base)  # 0 at the first tile, where row_max is -inf
    weights = tl.exp2(scores * scale_log2 - base[:, None])
    row_sum = row_sum * shrink + tl.sum(weights, axis=1)
    acc = product_onto(weights.to(v.dtype), v, acc * shrink[:, None])
    return new_max, row_sum, acc


@triton.jit
@no_type_check
def first_guess(q, k, visible):
    """The largest visible score of one tile, 0 for a row that sees none of it: a guess for all tiles."""
    guess = tl.max(tl.where(visible, product(q, tl.trans(k)), -float("inf")), axis=1)
    return tl.where(guess == -float("inf"), 0.0, guess)


@triton.jit
@no_type_check
def guess_failed(row_sum, inside):
    """Whether a row inside has a sum that a guessed maximum let grow or shrink too far, or saw no key."""
    good = (row_sum > 2.0**-80) & (row_sum < 2.0**100)
    return tl.min((good | (inside == 0)).to(tl.int32), axis=0) == 0


@triton.jit
@no_type_check
def finish_rows(acc, row_max, row_sum, scale_log2):
    """(output, lse) at the end of the online softmax: acc / row_sum, and log2 Σ_j 2^(scale·log2(e)·q·k).

    A row that saw no key is exactly zero, with lse = +inf, so that the backward gives it no weight.
    """
    empty = row_sum == 0.0
    row_sum = tl.where(empty, 1.0, row_sum)
    lse = tl.where(empty, float("inf"), row_max * scale_log2 + tl.log2(row_sum))
    return acc / row_sum[:, None], lse


@triton.jit
@no_type_check
def backward_tile_queries(q, k, v, do, visible, lse, delta, dq, scale_log2):
    """Add one tile's part of dq / (gate · scale): q, do, dq [rows, d], k, v [keys, d]; lse, delta [rows].

    With P = softmax(scale · q kᵀ): dS = P ∘ (do vᵀ - delta), dq += dS k, where delta = do · (P v).
    """
    weights = tl.exp2(product(q, tl.trans(k)) * scale_log2 - lse[:, None])
    if visible is not None:
        weights = tl.where(visible, weights, 0.0)
    change = weights * (product(do, tl.trans(v)) - delta[:, None])
    return product_onto(change.to(k.dtype), k, dq)


@triton.jit
@no_type_check
def backward_tile_keys(q, k, v, do, visible, lse, delta, gate, dk, dv, scale_log2):
    """Add one tile's part of dk / scale and dv; scores are transposed, `visible` [keys, rows].

    dV += (gate · P)ᵀ do and dK += (gate · dS)ᵀ q, with dS as in `backward_tile_queries`.
    """
    weights = tl.exp2(product(k, tl.trans(q)) * scale_log2 - lse[None, :])
    if visible is not None:
        weights = tl.where(visible, weights, 0.0)
    weights *= gate[None, :]
    dv = product_onto(weights.to(do.dtype), do, dv)
    change = weights * (product(v, tl.trans(do)) - delta[None, :])
    return product_onto(change.to(q.dtype), q, dk), dv


def power_of_two(size: int) -> int:
    """Smallest power of two that is at least `size`; on the host, where Triton's takes microseconds."""
    return 1 << max(0, size - 1).bit_length()


def padded(size: int) -> int:
    """Smallest power of two that holds `size` and is at least 16."""
    return max(16, power_of_two(size))


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program can have: 227 KiB on Hopper, 99 KiB on gaming GPUs."""
    if INTERPRETED:
        return 227 * 1024
    return triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]


def positive_scale(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """The same scores with a scale above zero, which the kernels want: (-q, -scale) where it is below."""
    if scale < 0:
        return -q, -scale
    return q, max(scale, 1e-30)  # zero makes all scores equal, and so does 1e-30; masks stay -inf


def boxes(x: Tensor, rows: int, heads: int = 1) -> TensorDescriptor:
    """Describe x ``[rows, heads, d]`` as boxes of `rows` × `heads` × padded d for the copy engine.

    Hopper copies such a box to shared memory with one instruction, older GPUs with loads that the compiler
    writes. What lies outside of the tensor reads as 0, the padding of d included.
    """
    if x.shape[0] == 0:  # the copy engine knows no empty tensor; nobody reads this one
        x = x.new_zeros(1, *x.shape[1:])
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, heads, padded(x.shape[2])])


def aligned(x: Tensor) -> Tensor:
    """`x` as `boxes` wants it: contiguous, from an address that 16 divides."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def pad_heads(*tensors: Tensor) -> list[Tensor]:
    """The tensors with zeros at the end of each head where it does not fill a multiple of 16 bytes."""
    missing = [-x.shape[-1] % (16 // x.dtype.itemsize) for x in tensors]
    return [torch.nn.functional.pad(x, (0, m)) if m else x for x, m in zip(tensors, missing, strict=True)]


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
    check_heads(q, v, v_name)
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


def check_heads(q: Tensor, v: Tensor, v_name: str = "v_slc") -> None:
    """Check that a tile of heads fits on the chip: q ``[b, t, hq, d_qk]``, v ``[b, t, hk, d_v]``.

    Raises:
        ValueError: a head is too large.
    """
    for name, size in (("q", q.shape[3]), (v_name, v.shape[3])):
        check(1 <= size <= MAX_HEAD_DIM, name, f"head size {size}", f"1 to {MAX_HEAD_DIM}")


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
            "none, or torch.no_grad(): this kernel has no backward pass, nsa_attention has one",
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
