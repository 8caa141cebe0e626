"""The stages of nsa-triton, run one by one in Triton's interpreter."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from minisys.bench import nsa_stages, nsa_variants
from minisys.bench.harness import tensor_bytes
from minisys.bench.nsa_problems import CONFIG, Sizes, count_flops, draw
from minisys.nsa.kernels import INTERPRETED

if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("neither a CUDA GPU nor Triton's interpreter", allow_module_level=True)

DEVICE = "cpu" if INTERPRETED else "cuda"
SMALL = Sizes(2, 1, 16, torch.float32, (80,), 80)
STAGES = [("forward", name) for name in nsa_stages.FORWARD] + [("backward", n) for n in nsa_stages.BACKWARD]


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator(DEVICE).manual_seed(0)
    return nsa_stages.stage_inputs(draw("nsa", 80, SMALL, generator, grad=True))


def test_stages_give_what_the_operator_gives(inputs):
    run = {key: torch.no_grad()(nsa_stages.stage(key[1], key[0])) for key in STAGES}
    k_cmp, v_cmp = run["forward", "φ"](inputs)
    assert torch.equal(k_cmp[0], inputs["k_cmp"])
    assert torch.equal(v_cmp[0], inputs["v_cmp"])
    others, o_cmp, o_win, lse, _ = run["forward", "compressed and window"](inputs)
    assert torch.equal(others, inputs["others"])
    assert torch.equal(lse, inputs["lse_cmp"])
    assert o_cmp.numel() == o_win.numel() == 0
    assert torch.equal(run["forward", "importance"](inputs), inputs["blocks"])
    run["forward", "selected"](inputs | {"others": others})
    assert torch.equal(others, inputs["out"])
    deltas, _ = run["backward", "deltas"](inputs)
    assert torch.equal(deltas, inputs["deltas"])
    for name in ("selected", "compressed", "window"):
        dk, dv = run["backward", name](inputs)
        assert dk.isfinite().all()
        assert dv.abs().sum() > 0


def test_flops_of_the_stages_add_up():
    sizes = Sizes(64, 4, 128, torch.bfloat16, (4096,), 100)
    for direction, names in (("forward", nsa_stages.FORWARD), ("backward", nsa_stages.BACKWARD)):
        counted = {name: nsa_stages.stage_flops(name, 4096, direction, sizes) for name in names}
        extra = counted.pop("importance", 0) + counted.pop("deltas", 0)
        phi = 0 if direction == "forward" else 2 * nsa_stages.stage_flops("φ", 4096, "forward", sizes)
        assert sum(counted.values()) + phi == count_flops("nsa", 4096, direction, sizes)
        assert extra > 0


def test_cases_are_named_apart_and_cost_something():
    sizes = Sizes(64, 4, 128, torch.bfloat16, (1024, 2048), 100)
    cases = nsa_stages.stage_cases(sizes, sizes.lengths)
    assert len({case.key for case in cases}) == len(cases) == 2 * len(STAGES)
    assert all(case.flops > 0 and case.bytes > 0 and case.ours for case in cases)
    assert CONFIG.num_compressed(1024) > 0


def test_the_harness_can_weigh_the_inputs(inputs):
    assert tensor_bytes(inputs) > inputs["q"].nbytes


def test_variants_give_what_their_stage_gives(inputs):
    run = {name: torch.no_grad()(nsa_stages.stage(name, "forward")) for name in nsa_stages.FORWARD}
    for variant in nsa_variants.variants():
        own = inputs | {"others": inputs["others"].clone()}
        given = variant.run(own)
        if variant.stage == "selected":  # adds to `others`
            expected = inputs["out"]
        elif variant.name.endswith("a launch each"):
            given, expected = torch.cat(given[:2]), torch.cat([inputs["o_cmp"], inputs["o_win"]])
        elif variant.stage == "compressed and window":
            expected = inputs["others"]
        elif variant.stage == "φ":
            given, expected = torch.cat(given), torch.cat(run["φ"](inputs))
        else:
            expected = run[variant.stage](inputs)
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5, msg=variant.name)
    cases = nsa_variants.variant_cases(Sizes(64, 4, 128, torch.bfloat16, (1024,), 100), 1024)
    assert len({case.key for case in cases}) == len(cases) == len(nsa_variants.variants())
