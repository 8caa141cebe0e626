"""What single decisions in the kernels are worth: the same stage with one of them taken back.

Each row is a stage of ``nsa-triton`` (nsa_stages.py) at the longest length, with the same inputs and the same
result, but built otherwise. Beside the stage's own row it says what the decision gained. FLOPs and bytes are
the stage's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from minisys.bench.harness import Built, Case
from minisys.bench.nsa_problems import CONFIG, Sizes, draw
from minisys.bench.nsa_stages import stage_bytes, stage_flops, stage_inputs


@dataclass(frozen=True)
class Variant:
    """A stage with one decision taken back; `run` takes what `stage_inputs` gives."""

    name: str
    stage: str
    run: Callable[[dict], object]


def variants() -> list[Variant]:
    """All of them; needs Triton."""
    from minisys.nsa import compress
    from minisys.nsa.kernels.band import band_forward, two_bands_forward
    from minisys.nsa.kernels.importance import top_blocks_forward
    from minisys.nsa.kernels.selected import selected_forward
    from minisys.nsa.kernels.tiles import padded, power_of_two

    def bands(x: dict, options: dict) -> object:
        return two_bands_forward(
            x["q"], x["k_cmp"], x["v_cmp"], x["k_win"], x["v_win"], x["gates"], x["layout"], x["scale"],
            store=False, options=options,
        )[0]  # fmt: skip

    def bands_apart(x: dict) -> object:
        blocks = {"span": CONFIG.compress_block, "stride": CONFIG.compress_stride}
        o_cmp, lse = band_forward(x["q"], x["k_cmp"], x["v_cmp"], x["layout"], x["scale"], **blocks)
        window = {"window": CONFIG.window}
        o_win, _ = band_forward(x["q"], x["k_win"], x["v_win"], x["layout"], x["scale"], **window)
        return o_cmp, o_win, lse

    def importance(x: dict, options: dict) -> object:
        return top_blocks_forward(x["q"], x["k_cmp"], x["lse_cmp"], x["layout"], x["scale"], options=options)

    def selected(x: dict, tokens: int) -> object:
        group = x["q"].shape[1] // x["k_slc"].shape[1]
        rows = padded(tokens * power_of_two(group))
        selected_forward(
            x["q"], x["k_slc"], x["v_slc"], x["blocks"], x["layout"], x["scale"], store=False,
            combine=(x["others"], x["gates"]), options={"TOKENS": tokens, "ROWS": rows},
        )  # fmt: skip
        return x["others"]

    def gates_apart(x: dict) -> object:
        o_slc, _ = selected_forward(x["q"], x["k_slc"], x["v_slc"], x["blocks"], x["layout"], x["scale"])
        return x["others"] + x["gates"][..., 1:2] * o_slc

    def written_out(x: dict) -> object:
        pairs = zip(("k", "v"), x["phi"], strict=True)
        # A function that hides what φ is gets every block written out.
        return [compress(x[name], lambda blocks, phi=phi: phi(blocks), config=CONFIG) for name, phi in pairs]

    large = {"ROWS": 128, "KEYS": 64, "num_warps": 8, "num_stages": 2, "maxnreg": None}
    both = "compressed and window"
    return [
        Variant("φ, every block written out", "φ", written_out),
        Variant("compressed and window, a launch each", both, bands_apart),
        Variant("compressed and window, maximum carried", both, lambda x: bands(x, {"GUESS": False})),
        Variant("compressed and window, tiles of 128 × 64", both, lambda x: bands(x, large)),
        Variant("importance, two programs share a multiprocessor", "importance",
                lambda x: importance(x, {"PER_SM": 2, "maxnreg": None})),
        Variant("selected, tiles of 1 token", "selected", lambda x: selected(x, 1)),
        Variant("selected, tiles of 2 tokens", "selected", lambda x: selected(x, 2)),
        Variant("selected, gates by PyTorch", "selected", gates_apart),
    ]  # fmt: skip


def variant_cases(sizes: Sizes, t: int) -> list[Case]:
    """The rows of all variants at length `t`, on a GPU."""
    return [_case(variant, t, sizes) for variant in variants()]


def _case(variant: Variant, t: int, sizes: Sizes) -> Case:
    return Case(
        name=f"variant: {variant.name}",
        t=t,
        direction="forward",
        build=lambda: Built(torch.no_grad()(variant.run)),
        draw=lambda generator: stage_inputs(draw("nsa", t, sizes, generator)),
        flops=stage_flops(variant.stage, t, "forward", sizes),
        bytes=stage_bytes(variant.stage, t, "forward", sizes),
        ours=True,
        note=f"stage {variant.stage} with one decision taken back",
    )
