"""``minisys bench nsa``: dense attention, flash-linear-attention and our paths through NSA, side by side.

One sequence, bf16 on a GPU with 64 query heads, 4 key/value heads and head_dim 128 (the heads of the NSA
paper, whose d_qk is 192), up to 65,536 tokens; on a CPU float32 at a size that it can do. Forward and
backward apart, and of our kernels every stage by itself (nsa_stages.py), some also built
otherwise (nsa_variants.py). What each problem is and what is counted: nsa_problems.py; who computes it:
nsa_paths.py.

Correctness: before anything is timed, every path of ours is compared with the float64 reference, output and
all gradients, at a length that is no multiple of a block. At each timed size the last 16 tokens of dense and
selected attention are compared with float64 too, so that an index that overflows at 64k is seen.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from minisys.bench.harness import Built, Case, Plan, Unavailable, run_plan
from minisys.bench.nsa_checks import check_paths, check_small, check_tail
from minisys.bench.nsa_paths import Implementation, find_paths, peer_versions
from minisys.bench.nsa_problems import (
    CONFIG,
    COUNTED,
    DECODE_BATCH,
    Sizes,
    count_bytes,
    count_flops,
    draw,
    leaves,
)
from minisys.bench.nsa_stages import stage_cases
from minisys.bench.nsa_variants import variant_cases

DEVICES = ("cuda", "cpu")
LONG = (4096, 8192, 16384, 32768, 65536)
SIZES = {
    ("cuda", False): Sizes(64, 4, 128, torch.bfloat16, LONG, 1100),
    ("cuda", True): Sizes(64, 4, 128, torch.bfloat16, (1024, 2048), 333),
    ("cpu", False): Sizes(4, 2, 32, torch.float32, (1024, 2048, 4096), 1100),
    ("cpu", True): Sizes(4, 2, 32, torch.float32, (256, 512), 333),
}


def run(command: str, *, device: str, quick: bool, out: Path | None, minutes: float) -> int:
    """Measure and write the result file; 1 where a row of our own code failed, else 0."""
    _, failed = run_plan(
        plan(device, quick=quick), command, device=device, quick=quick, out=out, minutes=minutes
    )
    for row in failed:
        print(f"failed: {row['case']} t {row['t']} {row['direction']}: {row['reason']}", file=sys.stderr)
    return 1 if failed else 0


def plan(device: str, *, quick: bool = False) -> Plan:
    """What is measured on `device`, and how it is checked."""
    sizes = SIZES[device, quick]
    paths, missing = find_paths(sizes, device)
    cases = []
    for path in paths:
        for direction in ("decode",) if path.problem == "decode" else ("forward", "backward"):
            cases += [case_of(path, t, direction, sizes, device) for t in sizes.lengths]
    if any(path.name == "nsa-triton" for path in paths):
        cases += stage_cases(sizes, sizes.lengths[-3:]) + variant_cases(sizes, sizes.lengths[-1])
    about = {
        "sizes": {
            "b": 1,
            "decode_b": DECODE_BATCH,
            "hq": sizes.hq,
            "hk": sizes.hk,
            "head_dim": sizes.head_dim,
            "dtype": str(sizes.dtype).removeprefix("torch."),
        },
        "config": asdict(CONFIG),
        "problems": {path.name: path.problem for path in paths if path.problem != "decode"},
        "counted": COUNTED,
        "peers": peer_versions(),
    }
    ours = {path.name: path for path in paths if path.ours}

    def check() -> dict[str, float]:
        errors = check_paths(device)
        for name, path in ours.items():
            errors[name] = check_small(path, path.build(sizes.check_t, device), sizes, device)
        return errors

    name = "nsa-speed" + ("-gpu" if device == "cuda" else "") + ("-quick" if quick else "")
    return Plan(
        name=name,
        baseline="sdpa-flash",
        about=about,
        check=check,
        cases=cases,
        missing=missing,
        seconds=0.1 if quick else 0.3,
    )


def case_of(path: Implementation, t: int, direction: str, sizes: Sizes, device: str) -> Case:
    """The row of `path` at length `t`."""

    def build() -> Built:
        if path.longest is not None and t > path.longest:
            raise Unavailable(f"its memory grows with t²: tried up to t = {path.longest}")
        if direction == "backward" and not path.backward:
            raise Unavailable("forward only")
        function = path.build(t, device)
        verify = None
        if path.problem == "pooled":  # nobody outside sees what it selects: compared where it reads all
            verify = lambda _: check_small(path, function, sizes, device)
        elif path.problem != "nsa":  # the whole of NSA is compared once, before anything is timed
            verify = lambda inputs: check_tail(path, function, inputs, backward=direction == "backward")
        if direction == "backward":
            return Built(backward, lambda inputs: (function(inputs), inputs), verify, path.context)
        if direction == "decode" and device == "cuda":  # its kernels are shorter than their launch
            return Built(torch.cuda.CUDAGraph.replay, captured(function), verify, path.context)
        return Built(without_grad(function), verify=verify, context=path.context)

    return Case(
        name=path.name,
        t=t,
        direction=direction,
        build=build,
        draw=lambda generator: draw(path.problem, t, sizes, generator, grad=direction == "backward"),
        flops=count_flops(path.problem, t, direction, sizes),
        bytes=count_bytes(path.problem, t, direction, sizes),
        ours=path.ours,
        note="replayed from a CUDA graph" if (direction, device) == ("decode", "cuda") else path.note,
    )


def without_grad(function: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
    """`function` without keeping anything for a backward."""
    return torch.no_grad()(function)


def captured(function: Callable[[dict], Tensor]) -> Callable[[dict], torch.cuda.CUDAGraph]:
    """Records the launches of `function` on an input set, once for each set, for replay without the host."""
    graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def graph_of(inputs: dict) -> torch.cuda.CUDAGraph:
        if id(inputs) not in graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.no_grad(), torch.cuda.graph(graph):
                function(inputs)
            graphs[id(inputs)] = graph
        return graphs[id(inputs)]

    return graph_of


def backward(ready: tuple[Tensor, dict]) -> tuple[Tensor, ...]:
    """Gradients of all inputs of the problem."""
    out, inputs = ready
    return torch.autograd.grad(out, list(leaves(inputs).values()), inputs["do"])
