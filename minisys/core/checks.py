"""Argument checks: every error names the argument, what came and what was expected."""

from torch import Tensor


def check(condition: bool, argument: str, got: object, expected: str) -> None:
    """Raise ``ValueError("argument: got …, expected …")`` unless `condition` holds."""
    if not condition:
        raise ValueError(f"{argument}: got {got}, expected {expected}")


def check_rank(argument: str, tensor: Tensor, axes: str) -> None:
    """Check that `tensor` has one axis for each name in `axes`, for example ``"b t hq head_dim"``."""
    names = axes.split()
    if tensor.ndim != len(names):
        raise ValueError(
            f"{argument}: got shape {tuple(tensor.shape)}, expected {len(names)} axes [{', '.join(names)}]"
        )


def check_shape(argument: str, tensor: Tensor, expected: tuple[int, ...], axes: str) -> None:
    """Check that `tensor` has exactly the shape `expected`; `axes` names the axes in the message."""
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"{argument}: got shape {tuple(tensor.shape)}, expected {expected} [{', '.join(axes.split())}]"
        )


def check_choice(argument: str, got: object, choices: tuple[object, ...]) -> None:
    """Check that `got` is one of `choices`."""
    check(got in choices, argument, repr(got), f"one of {', '.join(map(repr, choices))}")


def check_positive_int(argument: str, got: object) -> None:
    """Check that `got` is a whole number of at least 1 (a bool is none)."""
    whole = isinstance(got, int) and not isinstance(got, bool)
    check(whole and got >= 1, argument, repr(got), "a whole number of at least 1")
