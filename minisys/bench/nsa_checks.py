"""Correctness before speed: every path of `minisys bench nsa` against float64, on fresh random inputs."""

import secrets
from collections.abc import Callable

import torch
from torch import Tensor

from minisys.bench.harness import WrongResult
from minisys.bench.nsa_paths import Implementation
from minisys.bench.nsa_problems import Sizes, chosen_blocks, draw, in_float64, last_tokens, leaves, oracle
from minisys.nsa import nsa_attention, select_blocks
from minisys.nsa.small import CONFIG

# Largest relative error that the arithmetic explains, of an output or of any one gradient. bf16 paths are
# seen at 2e-3 to 7e-3; a wrong index or mask is at 1e-1 and more.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
TAIL = 16  # tokens that are compared at the timed size


def check_paths(device: str) -> dict[str, float]:
    """Relative errors on `device` against the float64 reference on the CPU, with fresh random inputs.

    Output and all gradients together: the reference in float64, and PyTorch's fused attention in float32 and
    bfloat16 at the same block numbers. Raises `WrongResult` where one is larger than its arithmetic explains.
    """
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    t, tc = 700, CONFIG.num_compressed(700)
    shapes = {"q": (t, 4, 32), "k_cmp": (tc, 2, 32), "v_cmp": (tc, 2, 16), "gates": (t, 4, 3)}
    shapes |= {"k_slc": (t, 2, 32), "v_slc": (t, 2, 16), "k_win": (t, 2, 32), "v_win": (t, 2, 16)}
    drawn = {k: torch.randn(2, *s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}
    drawn["gates"] = drawn["gates"].sigmoid()
    blocks = select_blocks(drawn["q"], drawn["k_cmp"], config=CONFIG)

    def run(where: str, backend: str, dtype: torch.dtype) -> torch.Tensor:
        inputs = {k: v.to(where, dtype, copy=True).requires_grad_() for k, v in drawn.items()}
        out = nsa_attention(**inputs, config=CONFIG, block_indices=blocks.to(where), backend=backend)
        out.square().sum().backward()
        return torch.cat(
            [x.detach().double().cpu().flatten() for x in (out, *(i.grad for i in inputs.values()))]
        )

    expected = run("cpu", "reference", torch.float64)
    errors = {}
    for backend, dtype, limit in (
        ("reference", torch.float64, 1e-13),
        ("sdpa", torch.float32, 1e-5),
        ("sdpa", torch.bfloat16, 2e-2),
    ):
        name = f"{backend}_{str(dtype).removeprefix('torch.')}"
        errors[name] = ((run(device, backend, dtype) - expected).norm() / expected.norm()).item()
        if not errors[name] < limit:
            raise WrongResult(f"device: got {name} error {errors[name]:.1e} on {device}, expected < {limit}")
    return errors


def check_small(path: Implementation, function: Callable[[dict], Tensor], sizes: Sizes, device: str) -> float:
    """Compare all of one short problem, output and gradients; returns the worst relative error.

    A path that is forward only is compared in its output alone. Raises `WrongResult`.
    """
    generator = torch.Generator(device).manual_seed(secrets.randbits(63))
    t = min(sizes.check_t, 1000) if path.problem == "pooled" else sizes.check_t  # all blocks fit into top_n
    inputs = draw(path.problem, t, sizes, generator, grad=path.backward)
    kernels = "triton" if path.name == "nsa-triton" else "reference"
    blocks = chosen_blocks(inputs, kernels) if path.problem == "nsa" else None
    out = function(inputs)
    return compare(path.name, path.problem, inputs, out, gradients(out, inputs), blocks)


def check_tail(
    path: Implementation, function: Callable[[dict], Tensor], inputs: dict, *, backward: bool
) -> float:
    """Compare the last tokens of a timed problem: the output, or every gradient.

    No query before them reads their keys and values, so those gradients need no other query either.
    """
    if not backward:
        with torch.no_grad():
            out = function(inputs)
        return compare(path.name, path.problem, last_tokens(inputs, TAIL), out, None)
    grads = gradients(function(inputs), inputs)
    return 0.0 if grads is None else compare(path.name, path.problem, last_tokens(inputs, TAIL), None, grads)


def gradients(out: Tensor, inputs: dict) -> tuple[Tensor, ...] | None:
    """Gradients of all inputs for the output's gradient ``do``; None where the path has no backward."""
    if not out.requires_grad:
        return None
    return torch.autograd.grad(out, list(leaves(inputs).values()), inputs["do"])


def compare(
    name: str,
    problem: str,
    inputs: dict,
    out: Tensor | None,
    grads: tuple[Tensor, ...] | None,
    blocks: Tensor | None = None,
) -> float:
    """Worst relative error of `out` and of each of `grads` at the last tokens that `inputs` asks for.

    Raises `WrongResult` where one is larger than its dtype explains.
    """
    exact = in_float64(inputs, grad=grads is not None)
    expected = oracle(problem, exact, blocks)
    rows = expected.shape[1]
    errors = {}
    if out is not None:
        errors["output"] = relative_error(out[:, -rows:], expected)
    if grads is not None:
        named = leaves(exact)
        wanted = torch.autograd.grad(expected, list(named.values()), exact["do"])
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for leaf, got, want in zip(named, grads, wanted, strict=True):
            if "." in leaf:
                # φ's parameters count together: for keys, the exact gradient of its last bias is zero
                pairs.setdefault(leaf.split(".")[0], []).append((got.flatten(), want.flatten()))
            else:
                pairs[leaf] = [(got[:, -rows:], want[:, -rows:])]
        for leaf, parts in pairs.items():
            got, want = (torch.cat(side) for side in zip(*parts, strict=True))
            errors[f"gradient of {leaf}"] = relative_error(got, want)
    limit = LIMITS[inputs["q"].dtype]
    for what, error in errors.items():
        if not error < limit:  # NaN is below no limit
            got = f"a relative error of {error:.1e} in the {what}"
            raise WrongResult(f"{name}: got {got}, expected < {limit:g} against float64")
    return max(errors.values())


def relative_error(got: Tensor, expected: Tensor) -> float:
    """‖got − expected‖ / ‖expected‖ in float64."""
    difference = got.detach().double() - expected.detach()
    return (difference.norm() / expected.detach().norm()).item()
