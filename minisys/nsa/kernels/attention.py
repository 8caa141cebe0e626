"""All of NSA through the kernels, as one operator that PyTorch knows: ``torch.ops.minisys.nsa``.

A registered operator has a forward, a backward and a rule for shapes. So autograd, `torch.compile` and
activation checkpointing treat it like one of PyTorch's own, and none of them looks inside.

- forward: compressed and window branch with their sum under the gates, the lse of the former, importance and
  top n, selected branch, which joins that sum (equation 5);
- backward: do · o_c for every branch (the gradient of the gates), then dq, dk, dv of each branch in turn.

The forward keeps the branches' outputs only where a gradient will be asked for: three tensors of the size of
q. Without, it needs none besides its result.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import fields
from typing import no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minisys.nsa.config import NSAConfig
from minisys.nsa.kernels.band import band_forward, two_bands_forward
from minisys.nsa.kernels.band_backward import band_backward, branch_deltas
from minisys.nsa.kernels.importance import top_blocks_forward
from minisys.nsa.kernels.layout import Layout
from minisys.nsa.kernels.lists import ordered_blocks
from minisys.nsa.kernels.selected import selected_forward
from minisys.nsa.kernels.selected_backward import selected_backward
from minisys.nsa.kernels.tiles import aligned, check_heads, pad_heads, positive_scale
from minisys.nsa.reference import nsa_reference

CMP, SLC, WIN = range(3)
FIELDS = [field.name for field in fields(NSAConfig)]


def _layout(starts: Sequence[int], config: Sequence[int], device: torch.device) -> Layout:
    return _cached_layout(tuple(starts), tuple(config), device)


@functools.lru_cache(maxsize=16)  # short sequences run no longer than what the host does for them
def _cached_layout(starts: tuple[int, ...], config: tuple[int, ...], device: torch.device) -> Layout:
    return Layout(tuple(itertools.pairwise(starts)), NSAConfig(*config), device)


def _numbers(config: NSAConfig) -> list[int]:
    """`config` as the operator takes it; dataclasses.astuple would copy each number deeply."""
    return [getattr(config, name) for name in FIELDS]


def _compressed(layout: Layout) -> dict[str, int]:
    return {"span": layout.config.compress_block, "stride": layout.config.compress_stride}


@torch.library.custom_op("minisys::nsa", mutates_args=())
def nsa_op(
    q: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    k_slc: Tensor,
    v_slc: Tensor,
    k_win: Tensor,
    v_win: Tensor,
    gates: Tensor,
    block_indices: Tensor | None,
    starts: Sequence[int],
    config: Sequence[int],
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(out, o_cmp, o_slc, o_win, lse_cmp, lse_slc, lse_win, block numbers), tokens on one axis.

    Without `keep` what only the backward needs comes back empty.
    """
    layout = _layout(starts, config, q.device)
    q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win = map(aligned, (q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win))
    out, o_cmp, o_win, lse_cmp, lse_win = two_bands_forward(
        q, k_cmp, v_cmp, k_win, v_win, gates, layout, scale, store=keep
    )
    if block_indices is None:
        blocks = top_blocks_forward(q, k_cmp, lse_cmp, layout, scale)
    else:
        blocks = ordered_blocks(block_indices)
    o_slc, lse_slc = selected_forward(
        q, k_slc, v_slc, blocks, layout, scale, combine=(out, gates), store=keep
    )
    if not keep:
        lse_cmp = torch.empty_like(lse_slc)
    return out, o_cmp, o_slc, o_win, lse_cmp, lse_slc, lse_win, blocks


@nsa_op.register_fake
@no_type_check  # as many arguments as `nsa_op`, of the same types
def _(q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates, block_indices, starts, config, scale, keep):
    tokens, hq, _ = q.shape
    hk, d_v = v_slc.shape[1:]
    n = config[3] if block_indices is None else block_indices.shape[2]
    out = q.new_empty(tokens, hq, d_v)
    kept = [q.new_empty(tokens if keep else 0, hq, d_v) for _ in range(3)]
    lse = [q.new_empty(tokens if keep else 0, hq, dtype=torch.float32) for _ in range(3)]
    return out, *kept, *lse, q.new_empty(tokens, hk, n, dtype=torch.int32)


@torch.library.custom_op("minisys::nsa_backward", mutates_args=())
def nsa_backward_op(
    do: Tensor,
    q: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    k_slc: Tensor,
    v_slc: Tensor,
    k_win: Tensor,
    v_win: Tensor,
    gates: Tensor,
    outputs: Sequence[Tensor],
    lse: Sequence[Tensor],
    blocks: Tensor,
    starts: Sequence[int],
    config: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win and gates."""
    layout = _layout(starts, config, q.device)
    do, q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win = map(
        aligned, (do, q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win)
    )
    o_cmp, o_slc, o_win = outputs
    deltas, row_gates = branch_deltas(do, o_cmp, o_slc, o_win, gates)
    dq = torch.empty_like(q)
    of = lambda branch: (do, lse[branch], deltas[branch], row_gates[branch])
    slc = selected_backward(q, k_slc, v_slc, *of(SLC), blocks, dq, layout, scale)
    cmp = band_backward(q, k_cmp, v_cmp, *of(CMP), dq, layout, scale, add=True, **_compressed(layout))
    win = band_backward(q, k_win, v_win, *of(WIN), dq, layout, scale, add=True, window=layout.config.window)
    return dq, *cmp, *slc, *win, deltas.permute(1, 2, 0).contiguous().to(gates.dtype)


@nsa_backward_op.register_fake
@no_type_check
def _(do, q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates, outputs, lse, blocks, starts, config, scale):
    return tuple(torch.empty_like(x) for x in (q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates))


@no_type_check  # PyTorch calls these two
def _setup_context(ctx, inputs, output):
    *tensors, _, ctx.starts, ctx.config, ctx.scale, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)


@no_type_check
def _backward(ctx, do, *unused):
    tensors = ctx.saved_tensors
    inputs, outputs, lse, blocks = tensors[:8], tensors[8:11], tensors[11:14], tensors[14]
    gradients = nsa_backward_op(
        do.contiguous(), *inputs, list(outputs), list(lse), blocks, ctx.starts, ctx.config, ctx.scale
    )
    return *gradients, None, None, None, None, None


nsa_op.register_autograd(_backward, setup_context=_setup_context)


def nsa_triton(
    q: Float[Tensor, "b t hq d_qk"],
    k_cmp: Float[Tensor, "b tc hk d_qk"],
    v_cmp: Float[Tensor, "b tc hk d_v"],
    k_slc: Float[Tensor, "b t hk d_qk"],
    v_slc: Float[Tensor, "b t hk d_v"],
    k_win: Float[Tensor, "b t hk d_qk"],
    v_win: Float[Tensor, "b t hk d_v"],
    gates: Float[Tensor, "b t hq 3"],
    config: NSAConfig,
    scale: float,
    block_indices: Int[Tensor, "b t hk n"] | None = None,
    bounds: list[tuple[int, int]] | None = None,
) -> Float[Tensor, "b t hq d_v"]:
    """`nsa_reference` through the kernels; `bounds` of packed sequences, which share the one batch row.

    Raises:
        ValueError: a head is too large for the kernels.
    """
    check_heads(q, v_slc)
    b, t = q.shape[:2]
    if b == 0:  # nothing to launch
        tensors = (q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win, gates)
        return nsa_reference(*tensors, config, scale, block_indices)
    q, scale = positive_scale(q, scale)
    d_v = v_slc.shape[3]
    tensors = (*pad_heads(q, k_cmp, v_cmp, k_slc, v_slc, k_win, v_win), gates)
    if block_indices is not None:
        block_indices = block_indices.flatten(0, 1)
    out, *_ = nsa_op(
        *(x.flatten(0, 1).contiguous() for x in tensors),
        block_indices, _starts(b, t, bounds), _numbers(config), scale,
        torch.is_grad_enabled() and any(x.requires_grad for x in tensors),
    )  # fmt: skip
    return out[..., :d_v].unflatten(0, (b, t))


def select_blocks_triton(
    q: Float[Tensor, "b t hq d_qk"],
    k_cmp: Float[Tensor, "b tc hk d_qk"],
    config: NSAConfig,
    scale: float,
    bounds: list[tuple[int, int]] | None = None,
) -> Int[Tensor, "b t hk n"]:
    """`select_blocks_reference` through the kernels, int64."""
    b, t = q.shape[:2]
    q, scale = positive_scale(q.detach(), scale)
    layout = _layout(_starts(b, t, bounds), _numbers(config), q.device)
    flat_q, flat_k = (aligned(x.detach().flatten(0, 1)) for x in pad_heads(q, k_cmp))
    _, lse = band_forward(flat_q, flat_k, flat_k, layout, scale, **_compressed(layout))
    return top_blocks_forward(flat_q, flat_k, lse, layout, scale).long().unflatten(0, (b, t))


def _starts(b: int, t: int, bounds: list[tuple[int, int]] | None) -> list[int]:
    """Where each sequence begins on the one token axis, and its end: those of `bounds`, or the batch rows."""
    return [start for start, _ in bounds] + [t] if bounds else [i * t for i in range(b + 1)]
