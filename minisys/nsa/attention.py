"""The public calls of native sparse attention: `nsa_attention` and `select_blocks`.

They check every argument, split packed sequences and choose the path: `backend="reference"` is the
oracle in plain PyTorch (reference.py), `"sdpa"` hands its masks to PyTorch's fused attention (fused.py),
`"triton"` runs the kernels, forward and backward (kernels/), and `"auto"` takes them where they can run and
the reference elsewhere.
"""

import importlib.util
import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minisys.core.checks import check, check_choice, check_rank, check_shape
from minisys.nsa.config import NSAConfig
from minisys.nsa.fused import nsa_fused
from minisys.nsa.packing import sequence_bounds
from minisys.nsa.reference import nsa_reference, select_blocks_reference

PATHS = {"reference": nsa_reference, "sdpa": nsa_fused}
BACKENDS = ("auto", *PATHS, "triton")


def nsa_attention(
    q: Float[Tensor, "b t hq d_qk"],
    k_cmp: Float[Tensor, "b tc hk d_qk"],
    v_cmp: Float[Tensor, "b tc hk d_v"],
    k_slc: Float[Tensor, "b t hk d_qk"],
    v_slc: Float[Tensor, "b t hk d_v"],
    k_win: Float[Tensor, "b t hk d_qk"],
    v_win: Float[Tensor, "b t hk d_v"],
    gates: Float[Tensor, "b t hq 3"],
    *,
    config: NSAConfig,
    scale: float | None = None,
    cu_seqlens: Int[Tensor, " sequences_plus_1"] | None = None,
    block_indices: Int[Tensor, "b t hk n"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "b t hq d_v"]:
    """Causal native sparse attention (arXiv 2502.11089, equation 5).

    Args:
        q: queries ``[b, t, hq, d_qk]``; hq is a multiple of hk, and query heads j·g … j·g + g - 1 use
            key/value head j.
        k_cmp, v_cmp: compressed keys and values ``[b, tc, hk, d_qk]``, ``[b, tc, hk, d_v]``, with
            tc = max(0, (t - compress_block)//compress_stride + 1); of packed sequences, the blocks of
            each one after the other.
        k_slc, v_slc, k_win, v_win: keys and values of the selected and the window branch, ``[b, t, hk, …]``.
        gates: ``[b, t, hq, 3]`` in the order compressed, selected, window, already in (0, 1).
        config: block lengths, top_n and window.
        scale: factor on q·k in all three branches; 1/√d_qk unless set.
        cu_seqlens: for packed sequences (b = 1) where each starts, and t: ``[0, …, t]``.
        block_indices: blocks each query reads ``[b, t, hk, n]``, numbered from 0 within the query's own
            sequence, -1 for none; computed by `select_blocks` unless given. Order does not matter,
            a repeated block counts once, and tokens after the query are never read.
        backend: ``"auto"``, ``"reference"``, ``"sdpa"`` or ``"triton"``. The last wants float32, float16 or
            bfloat16 tensors on a CUDA GPU (or Triton's interpreter), finite, and heads of at most 256;
            ``"auto"`` is that on a CUDA GPU where it fits, and the reference elsewhere.

    Returns:
        ``[b, t, hq, d_v]`` in the dtype of `q`. A branch that sees nothing contributes exactly zero.

    Raises:
        ValueError: an argument does not fit, or the backend cannot run here.
    """
    _check_inputs(q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates)
    backend = _chosen(backend, q, v_slc)
    path = _path(backend, q)
    bounds = sequence_bounds(cu_seqlens, q)
    spans = _compressed_spans(bounds, k_cmp, config)
    if block_indices is not None:
        _check_block_indices(block_indices, q, k_cmp, bounds, config)
    scale = _checked_scale(scale, q)
    if backend == "triton":  # the kernels take packed sequences in one go
        tensors = (q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates)
        return path(*tensors, config, scale, block_indices, None if cu_seqlens is None else bounds)
    outputs = []
    for (start, end), (first, last) in zip(bounds, spans, strict=True):
        tokens, blocks = slice(start, end), slice(first, last)
        outputs.append(
            path(
                q[:, tokens],
                k_cmp[:, blocks],
                v_cmp[:, blocks],
                k_slc[:, tokens],
                v_slc[:, tokens],
                k_win[:, tokens],
                v_win[:, tokens],
                gates[:, tokens],
                config,
                scale,
                None if block_indices is None else block_indices[:, tokens],
            )
        )
    return torch.cat(outputs, dim=1)


def select_blocks(
    q: Float[Tensor, "b t hq d_qk"],
    k_cmp: Float[Tensor, "b tc hk d_qk"],
    *,
    config: NSAConfig,
    scale: float | None = None,
    cu_seqlens: Int[Tensor, " sequences_plus_1"] | None = None,
    backend: str = "auto",
) -> Int[Tensor, "b t hk top_n"]:
    """Selection blocks that each query reads (equations 8 to 12).

    Args:
        q: queries ``[b, t, hq, d_qk]``.
        k_cmp: compressed keys ``[b, tc, hk, d_qk]``.
        config, scale, cu_seqlens, backend: as in `nsa_attention`.

    Returns:
        int64 ``[b, t, hk, top_n]``, ascending, -1 at the end where fewer blocks exist. Block j covers
        tokens j·l' … j·l' + l' - 1 of the query's own sequence. Initial and local blocks are always among
        them; ties go to the earlier block.

    Raises:
        ValueError: an argument does not fit.
    """
    _check_heads(q, k_cmp)
    bounds = sequence_bounds(cu_seqlens, q)
    spans = _compressed_spans(bounds, k_cmp, config)
    scale = _checked_scale(scale, q)
    backend = _chosen(backend, q, k_cmp)
    if backend == "triton":
        _path(backend, q)  # raises where the kernels cannot run
        from minisys.nsa.kernels.attention import select_blocks_triton

        return select_blocks_triton(q, k_cmp, config, scale, None if cu_seqlens is None else bounds)
    return torch.cat(
        [
            select_blocks_reference(q[:, start:end], k_cmp[:, first:last], config, scale)
            for (start, end), (first, last) in zip(bounds, spans, strict=True)
        ],
        dim=1,
    )


def _check_heads(q: Tensor, k_cmp: Tensor) -> None:
    """Ranks, batch, head counts and d_qk of queries and compressed keys."""
    check_rank("q", q, "b t hq d_qk")
    check_rank("k_cmp", k_cmp, "b tc hk d_qk")
    check(q.is_floating_point(), "q", q.dtype, "a floating dtype")
    check(q.shape[1] >= 1, "q", f"shape {tuple(q.shape)}", "at least one token")
    b, _, hq, d_qk = q.shape
    tc, hk = k_cmp.shape[1], k_cmp.shape[2]
    check_shape("k_cmp", k_cmp, (b, tc, hk, d_qk), "b tc hk d_qk")
    check(hk >= 1 and hq % hk == 0, "q", f"{hq} query heads", f"a multiple of the {hk} key/value heads")
    _check_like("k_cmp", k_cmp, q)


def _check_like(name: str, tensor: Tensor, q: Tensor) -> None:
    check(tensor.dtype == q.dtype, name, tensor.dtype, f"{q.dtype}, the dtype of q")
    check(tensor.device == q.device, name, tensor.device, f"{q.device}, the device of q")


def _check_inputs(
    q: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    k_slc: Tensor,
    v_slc: Tensor,
    k_win: Tensor,
    v_win: Tensor,
    gates: Tensor,
) -> None:
    _check_heads(q, k_cmp)
    check_rank("v_cmp", v_cmp, "b tc hk d_v")
    b, t, hq, d_qk = q.shape
    tc, hk, d_v = k_cmp.shape[1], k_cmp.shape[2], v_cmp.shape[3]
    check_shape("v_cmp", v_cmp, (b, tc, hk, d_v), "b tc hk d_v")
    for name, keys in (("k_slc", k_slc), ("k_win", k_win)):
        check_shape(name, keys, (b, t, hk, d_qk), "b t hk d_qk")
    for name, values in (("v_slc", v_slc), ("v_win", v_win)):
        check_shape(name, values, (b, t, hk, d_v), "b t hk d_v")
    check_shape("gates", gates, (b, t, hq, 3), "b t hq 3")
    named = {"v_cmp": v_cmp, "k_slc": k_slc, "v_slc": v_slc, "k_win": k_win, "v_win": v_win, "gates": gates}
    for name, tensor in named.items():
        _check_like(name, tensor, q)


def _compressed_spans(
    bounds: list[tuple[int, int]], k_cmp: Tensor, config: NSAConfig
) -> list[tuple[int, int]]:
    """(first, last) compressed block of each sequence on the axis tc; checks that tc fits t."""
    spans, first = [], 0
    for start, end in bounds:
        last = first + config.num_compressed(end - start)
        spans.append((first, last))
        first = last
    lengths = [end - start for start, end in bounds]
    check(
        k_cmp.shape[1] == first,
        "k_cmp",
        f"tc = {k_cmp.shape[1]} compressed blocks",
        f"{first}, which is max(0, (t - {config.compress_block})//{config.compress_stride} + 1) "
        f"{'for' if len(lengths) == 1 else 'summed over'} t = {', '.join(map(str, lengths))}",
    )
    return spans


def _checked_scale(scale: float | None, q: Tensor) -> float:
    if scale is None:
        return 1 / math.sqrt(q.shape[-1])
    check(math.isfinite(scale), "scale", scale, "a finite number")
    return scale


def _check_block_indices(
    block_indices: Tensor, q: Tensor, k_cmp: Tensor, bounds: list[tuple[int, int]], config: NSAConfig
) -> None:
    check_rank("block_indices", block_indices, "b t hk n")
    b, t, hk, n = q.shape[0], q.shape[1], k_cmp.shape[2], block_indices.shape[3]
    check_shape("block_indices", block_indices, (b, t, hk, n), "b t hk n")
    check(
        block_indices.dtype in (torch.int32, torch.int64),
        "block_indices",
        block_indices.dtype,
        "torch.int32 or torch.int64",
    )
    if torch.compiler.is_compiling():  # the numbers are on the device, and a graph cannot ask for them
        return
    for start, end in bounds:
        blocks = config.num_selectable(end - start)
        here = block_indices[:, start:end]
        low, high = (int(here.min()), int(here.max())) if here.numel() else (-1, -1)
        check(
            low >= -1 and high < blocks,
            "block_indices",
            f"numbers from {low} to {high}",
            f"-1 to {blocks - 1} for a sequence of {end - start} tokens",
        )


def _chosen(backend: str, q: Tensor, v: Tensor) -> str:
    """`backend`, or what ``"auto"`` stands for with tensors like `q` and `v`."""
    check_choice("backend", backend, BACKENDS)
    if backend != "auto":
        return backend
    if not (q.is_cuda and importlib.util.find_spec("triton")):
        return "reference"
    from minisys.nsa.kernels.tiles import DTYPES, MAX_HEAD_DIM

    fits = q.dtype in DTYPES and max(q.shape[3], v.shape[3]) <= MAX_HEAD_DIM
    return "triton" if fits else "reference"


def _path(backend: str, q: Tensor) -> Callable[..., Tensor]:
    """The function that computes one unpacked batch; checks that it can run on tensors like `q`."""
    if backend != "triton":
        return PATHS[backend]
    expected = "'auto', 'reference' or 'sdpa'"
    try:  # the kernels import Triton, which is not everywhere: only when they are asked for
        from minisys.nsa.kernels.attention import nsa_triton
        from minisys.nsa.kernels.tiles import DTYPES, INTERPRETED
    except ImportError as error:
        raise ValueError(f"backend: got 'triton', expected {expected} ({error})") from error
    check(
        (q.is_cuda or bool(INTERPRETED)) and q.dtype in DTYPES,
        "backend",
        f"'triton' for {q.dtype} tensors on {q.device}",
        f"{expected}; Triton needs float32, float16 or bfloat16 tensors on a CUDA GPU, or TRITON_INTERPRET=1 "
        "in the environment before it is imported",
    )
    return nsa_triton
