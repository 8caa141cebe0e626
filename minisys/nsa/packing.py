"""Packed sequences: several sequences of different lengths side by side on one token axis."""

import itertools

from jaxtyping import Int
from torch import Tensor

from minisys.core.checks import check


def sequence_bounds(cu_seqlens: Int[Tensor, " sequences_plus_1"] | None, x: Tensor) -> list[tuple[int, int]]:
    """(start, end) of every sequence on the token axis of `x` ``[b, t, ...]``.

    Without `cu_seqlens` each batch row is one sequence, ``[(0, t)]``.

    Raises:
        ValueError: `cu_seqlens` is no 1-D integer tensor that rises from 0 to t, or b is not 1.
    """
    t = x.shape[1]
    if cu_seqlens is None:
        return [(0, t)]
    integer = cu_seqlens.ndim == 1 and not (cu_seqlens.is_floating_point() or cu_seqlens.is_complex())
    check(
        integer and cu_seqlens.numel() >= 2,
        "cu_seqlens",
        f"{cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}",
        "one axis of at least 2 whole numbers",
    )
    check(
        x.shape[0] == 1, "cu_seqlens", f"batch {x.shape[0]}", "batch 1, with all sequences on the token axis"
    )
    bounds = cu_seqlens.tolist()
    check(bounds[0] == 0 and bounds[-1] == t, "cu_seqlens", bounds, f"to start at 0 and end at t = {t}")
    check(
        all(a < b for a, b in itertools.pairwise(bounds)),
        "cu_seqlens",
        bounds,
        "rising boundaries",
    )
    return list(itertools.pairwise(bounds))
