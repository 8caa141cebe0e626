"""``minisys bench nsa-decode``: one token at a time, dense attention and NSA's cache side by side.

A step is everything that one layer's attention does for a new token: append it, φ of the blocks that it
completes, choose, attend, add up; in one launch where rows are few and short, else in two, which are also
timed alone. bf16 on a GPU with 64 query heads, 4 key/value heads and head_dim 128, up
to 65,536 tokens and a batch of 64; on a CPU float32 and plain PyTorch at a size that it can do.

What a row is: the time of one of 16 steps in a row, recorded in one CUDA graph. Of the 16 exactly one
completes a block in each row, so φ is in the time with its share. The steps take turns over as many caches as
it takes for the L2 cache not to hold what they read, up to 16 (nsa_decode_steps.py). Dense attention is the
fastest of PyTorch's backends at that size, in the better of two layouts, recorded in the same way; appending
to its cache is not counted, but in rows of its own.

Rows named ``first token`` and ``next token`` are of a small model (nsa_decode_model.py); ``extra_gib`` is the
memory beyond weights and prompt, with the first token the cache included.
"""

import functools
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from minisys.bench.harness import Built, Case, Plan, run_plan
from minisys.bench.nsa_decode_checks import check_decoding, check_dense_row, check_nsa_row
from minisys.bench.nsa_decode_model import MODEL, model_cases
from minisys.bench.nsa_decode_steps import (
    CONFIG,
    STAGES,
    STEPS,
    DenseSteps,
    NSASteps,
    fastest_dense,
)
from minisys.bench.nsa_problems import Sizes
from minisys.nsa.costs import cache_bytes, compression_flops, query_flops, step_bytes

DEVICES = ("cuda", "cpu")
SIZES = {
    ("cuda", False): (Sizes(64, 4, 128, torch.bfloat16, (8192, 16384, 32768, 65536), 700), (1, 8, 64)),
    ("cuda", True): (Sizes(64, 4, 128, torch.bfloat16, (1024, 4096), 300), (1, 8)),
    ("cpu", False): (Sizes(8, 2, 32, torch.float32, (1024, 4096, 16384), 300), (1, 4)),
    ("cpu", True): (Sizes(4, 2, 16, torch.float32, (128, 256), 150), (1, 2)),
}
COUNTED = {
    "times": f"one of {STEPS} steps in a row, one of which completes a compressed block",
    "flops": "scores and weighted values of visible keys, and φ; a multiply-add is 2",
    "bytes": "keys and values read once, the new ones written, φ's weights once a completed block",
    "relative_error": "the last row of the batch at this size against float64 (model: not compared)",
    "extra_gib": "GPU memory at the peak beyond the inputs; first token: beyond weights and prompt",
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
    sizes, batches = SIZES[device, quick]
    cases = []
    for t in sizes.lengths:
        for batch in batches:
            cases += [_dense(t, batch, sizes, device), _nsa(t, batch, sizes)]
            if device == "cuda":
                cases.append(_dense(t, batch, sizes, device, append=True))
                cases += [_nsa(t, batch, sizes, stage) for stage in STAGES]
    model_size = "cpu" if quick else device
    cases += model_cases(model_size, device)
    model, prompt, dtype, _ = MODEL[model_size]
    heads = {"d_qk": sizes.head_dim, "d_v": sizes.head_dim, "hk": sizes.hk}
    element = sizes.dtype.itemsize
    about = {
        "sizes": {"hq": sizes.hq, "hk": sizes.hk, "head_dim": sizes.head_dim, "dtype": _name(sizes.dtype)},
        "config": asdict(CONFIG),
        "counted": COUNTED,
        "first_token_model": {**asdict(model), "dtype": _name(dtype), "prompt": prompt},
        "bytes_per_row": {
            str(t): step_bytes(t, CONFIG, **heads, element_bytes=element) for t in sizes.lengths
        },
        "cache_bytes_per_row": {
            str(t): cache_bytes(t, CONFIG, **heads, element_bytes=element) for t in sizes.lengths
        },
    }
    name = "nsa-decode" + ("-gpu" if device == "cuda" else "") + ("-quick" if quick else "")
    return Plan(
        name=name,
        baseline="dense",
        about=about,
        check=lambda: check_decoding(sizes, device),
        cases=cases,
        seconds=0.05 if quick else 0.3,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _counts(t: int, batch: int, sizes: Sizes) -> tuple[dict, dict]:
    """(FLOPs, bytes) of a step by part; nsa with φ's share."""
    d, element = sizes.head_dim, sizes.dtype.itemsize
    flops = query_flops(t - 1, CONFIG, d_qk=d, d_v=d, hq=sizes.hq)
    phi = compression_flops(CONFIG.compress_block, CONFIG, d_qk=d, d_v=d, hk=sizes.hk)
    flops["φ"] = phi // CONFIG.compress_stride
    flops["nsa"] += flops["φ"]
    moved = step_bytes(t, CONFIG, d_qk=d, d_v=d, hk=sizes.hk, batch=batch, element_bytes=element)
    return {name: batch * count for name, count in flops.items()}, moved


def _dense(t: int, batch: int, sizes: Sizes, device: str, *, append: bool = False) -> Case:
    flops, moved = _counts(t, batch, sizes)
    token = 2 * sizes.hk * sizes.head_dim * sizes.dtype.itemsize
    chosen = {}

    def build() -> Built:
        chosen["way"], note = fastest_dense(t, batch, sizes, device)
        steps = DenseSteps(chosen["way"], append=append)
        verify = None if append else functools.partial(check_dense_row, steps)
        note = "the same, and a launch that stores the new token" if append else note
        return Built(steps.run, steps.prepare, verify, steps=STEPS, note=note)

    return Case(
        name="dense and append" if append else "dense",
        t=t,
        direction=f"batch {batch}",
        build=build,
        draw=lambda generator: chosen["way"].draw(t, batch, sizes, generator),
        flops=flops["dense"],
        bytes=int(moved["dense"]) - (0 if append else batch * token),
    )


def _nsa(t: int, batch: int, sizes: Sizes, stage: str | None = None) -> Case:
    flops, moved = _counts(t, batch, sizes)
    appended = moved["append"] + moved["compression"]
    parts = {
        None: (flops["nsa"], moved["nsa"]),
        "append": (flops["φ"], appended),
        "attend": (flops["nsa"] - flops["φ"], moved["nsa"] - appended),
    }[stage]

    def build() -> Built:
        steps = NSASteps(t, sizes, stage)
        verify = functools.partial(check_nsa_row, steps) if stage is None else None
        return Built(steps.run, steps.prepare, verify, steps=STEPS)

    return Case(
        name="nsa" if stage is None else f"stage: {stage}",
        t=t,
        direction=f"batch {batch}",
        build=build,
        draw=lambda generator: NSASteps(t, sizes, stage).draw(batch, generator),
        flops=parts[0],
        bytes=int(parts[1]),
        ours=True,
        note=None if stage is None else "one launch of a step, timed alone",
    )
