"""Where the time of ``nsa-triton`` goes: one row for each kernel of a forward and of a backward.

A stage gets what the stages before it give, made beforehand, so that it is timed alone. Beside each other the
rows add up to the whole less what lies between launches. FLOPs and bytes as everywhere
(nsa_problems.COUNTED): for a backward the five products that it cannot avoid, although two passes compute
seven.
"""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from minisys.bench.harness import Built, Case
from minisys.bench.nsa_problems import CONFIG, Sizes, compressed, draw
from minisys.nsa.costs import compression_flops, sequence_flops

FORWARD = ("φ", "compressed and window", "importance", "selected")
BACKWARD = ("deltas", "selected", "compressed", "window")
NOTE = "one stage of nsa-triton, timed alone"


def stage_cases(sizes: Sizes, lengths: tuple[int, ...]) -> list[Case]:
    """The rows of all stages at `lengths`, on a GPU."""
    return [
        _case(stage, t, direction, sizes)
        for direction, stages in (("forward", FORWARD), ("backward", BACKWARD))
        for stage in stages
        for t in lengths
    ]


def stage_inputs(inputs: dict) -> dict:
    """Inputs of the ``nsa`` problem with what every stage leaves to the next, tokens on one axis.

    All tensors are detached: `stage` runs kernels, not autograd. ``others``, to which the selected branch is
    added, grows with every run of that stage.
    """
    from minisys.nsa.kernels.attention import nsa_op
    from minisys.nsa.kernels.band_backward import branch_deltas
    from minisys.nsa.kernels.layout import Layout

    with torch.no_grad():
        k_cmp, v_cmp = compressed(inputs)
        x = {name: value[0] for name, value in inputs.items() if isinstance(value, Tensor)}
        x |= {"k": inputs["k_cmp"], "v": inputs["v_cmp"], "phi": (inputs["phi_k"], inputs["phi_v"])}
        x |= {"k_cmp": k_cmp[0].contiguous(), "v_cmp": v_cmp[0].contiguous()}
        t, d = x["q"].shape[0], x["q"].shape[2]
        x |= {"scale": d**-0.5, "layout": Layout(((0, t),), CONFIG, x["q"].device)}
        names = ("q", "k_cmp", "v_cmp", "k_slc", "v_slc", "k_win", "v_win", "gates")
        kept = nsa_op(*(x[name] for name in names), None, [0, t], list(astuple(CONFIG)), x["scale"], True)
        left = ("out", "o_cmp", "o_slc", "o_win", "lse_cmp", "lse_slc", "lse_win", "blocks")
        x |= dict(zip(left, kept, strict=True))
        x["others"] = stage("compressed and window", "forward")(x)[0]
        if "do" in x:
            x["deltas"], x["row_gates"] = branch_deltas(
                x["do"], x["o_cmp"], x["o_slc"], x["o_win"], x["gates"]
            )
            x["dq"] = torch.zeros_like(x["q"])
    return x


def stage(name: str, direction: str) -> Callable[[dict], object]:
    """The function of one stage, of what `stage_inputs` gives."""
    from minisys.nsa import compress
    from minisys.nsa.kernels.band import two_bands_forward
    from minisys.nsa.kernels.band_backward import band_backward, branch_deltas
    from minisys.nsa.kernels.importance import top_blocks_forward
    from minisys.nsa.kernels.selected import selected_forward
    from minisys.nsa.kernels.selected_backward import selected_backward

    blocks = {"span": CONFIG.compress_block, "stride": CONFIG.compress_stride}
    window = {"window": CONFIG.window}
    last: Any = lambda x: (x["layout"], x["scale"])

    def gradients(x: dict, branch: int, name: str) -> Any:
        given = (x["do"], x[f"lse_{name}"], x["deltas"][branch], x["row_gates"][branch])
        return x["q"], x[f"k_{name}"], x[f"v_{name}"], *given

    return {
        ("φ", "forward"): lambda x: [
            compress(value, phi, config=CONFIG) for value, phi in zip((x["k"], x["v"]), x["phi"], strict=True)
        ],
        ("compressed and window", "forward"): lambda x: two_bands_forward(
            x["q"], x["k_cmp"], x["v_cmp"], x["k_win"], x["v_win"], x["gates"], *last(x), store=False
        ),
        ("importance", "forward"): lambda x: top_blocks_forward(x["q"], x["k_cmp"], x["lse_cmp"], *last(x)),
        ("selected", "forward"): lambda x: selected_forward(
            x["q"], x["k_slc"], x["v_slc"], x["blocks"], *last(x), store=False,
            combine=(x["others"], x["gates"]),
        ),
        ("deltas", "backward"): lambda x: branch_deltas(
            x["do"], x["o_cmp"], x["o_slc"], x["o_win"], x["gates"]
        ),
        ("selected", "backward"): lambda x: selected_backward(
            *gradients(x, 1, "slc"), block_indices=x["blocks"], dq=x["dq"],
            layout=x["layout"], scale=x["scale"],
        ),
        ("compressed", "backward"): lambda x: band_backward(
            *gradients(x, 0, "cmp"), x["dq"], *last(x), add=True, **blocks
        ),
        ("window", "backward"): lambda x: band_backward(
            *gradients(x, 2, "win"), x["dq"], *last(x), add=True, **window
        ),
    }[name, direction]  # fmt: skip


def stage_flops(name: str, t: int, direction: str, sizes: Sizes) -> int:
    """FLOPs of a stage; importance computes the scores of the compressed branch once more."""
    d, hq = sizes.head_dim, sizes.hq
    if name == "φ":
        return compression_flops(t, CONFIG, d_qk=d, d_v=d, hk=sizes.hk)
    if name == "deltas":
        return 3 * 2 * t * hq * d
    flops = sequence_flops(t, CONFIG, d_qk=d, d_v=d, hq=hq)
    if name == "importance":
        return flops["compressed"] // 2
    if name == "compressed and window":
        return flops["compressed"] + flops["window"]
    return flops[name] * 5 // 2 if direction == "backward" else flops[name]


def stage_bytes(name: str, t: int, direction: str, sizes: Sizes) -> int:
    """Bytes if a stage reads each of its inputs and writes each of its outputs once."""
    element = sizes.dtype.itemsize
    tc, top_n = CONFIG.num_compressed(t), CONFIG.top_n
    large = t * sizes.hq * sizes.head_dim * element  # q, an output or a gradient of either
    row = 4 * t * sizes.hq  # float32, a number for each query head
    stored = {"compressed": tc, "importance": tc, "compressed and window": tc + t}.get(name, t)
    keys = 2 * stored * sizes.hk * sizes.head_dim * element
    gates = t * sizes.hq * element  # of one branch
    numbers = 4 * t * sizes.hk * top_n if name in ("importance", "selected") else 0
    if direction == "backward":
        if name == "deltas":
            return 4 * large + 6 * row + 3 * row * element // 4
        return 4 * large + 3 * row + 2 * keys + numbers  # q, do and dq, which is read and written
    return {
        "φ": 2 * (t + tc) * sizes.hk * sizes.head_dim * element,
        "compressed and window": 2 * large + keys + row + 2 * gates,
        "importance": large + keys // 2 + row + numbers,
        "selected": 3 * large + keys + numbers + gates,
    }[name]


def _case(name: str, t: int, direction: str, sizes: Sizes) -> Case:
    return Case(
        name=f"stage: {name}",
        t=t,
        direction=direction,
        build=lambda: Built(torch.no_grad()(stage(name, direction))),
        draw=lambda generator: stage_inputs(draw("nsa", t, sizes, generator, grad=direction == "backward")),
        flops=stage_flops(name, t, direction, sizes),
        bytes=stage_bytes(name, t, direction, sizes),
        ours=True,
        note=NOTE,
    )
