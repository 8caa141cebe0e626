"""`minisys bench nsa`: the oracle, the counts, the checks that must fail, and a tiny run from end to end."""

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from minisys.bench import command, nsa, nsa_checks, nsa_paths, results, timing
from minisys.bench.ceilings import SIZES as CEILING_SIZES
from minisys.bench.harness import Unavailable, WrongResult
from minisys.bench.nsa_checks import check_small, check_tail, compare
from minisys.bench.nsa_problems import (
    CONFIG,
    DECODE_BATCH,
    Sizes,
    count_bytes,
    count_flops,
    draw,
    in_float64,
    last_tokens,
    leaves,
    oracle,
)
from minisys.cli import app
from minisys.nsa.costs import compression_flops, sequence_flops
from minisys.nsa.reference import selected_mask, window_mask

TINY = Sizes(4, 2, 16, torch.float32, (64, 128), 150)


def drawn(problem, t=150, grad=False, sizes=TINY):
    return draw(problem, t, sizes, torch.Generator().manual_seed(3), grad=grad)


def implementation(name, problem="dense", function=None, **options):
    return nsa_paths.Implementation(name, problem, lambda t, device: function, ours=True, **options)


def dense(inputs):
    """Causal attention by SDPA, in whatever dtype the inputs have."""
    q, k, v = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return sdpa(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True).transpose(1, 2)


# --- oracle and inputs ------------------------------------------------------------------------------------


def test_the_oracle_of_dense_attention_and_decoding_is_sdpa():
    for problem in ("dense", "decode"):
        exact = in_float64(drawn(problem))
        torch.testing.assert_close(oracle(problem, exact), dense(exact), rtol=1e-12, atol=1e-12)


def test_the_oracle_of_the_last_tokens_is_the_end_of_the_whole():
    for problem in ("dense", "selected"):
        exact = in_float64(drawn(problem))
        whole, tail = oracle(problem, exact), oracle(problem, last_tokens(exact, 7))
        torch.testing.assert_close(tail, whole[:, -7:], rtol=1e-12, atol=1e-12)


def test_the_oracle_of_the_selected_branch_follows_the_mask_of_the_reference():
    exact = in_float64(drawn("selected", t=1100))
    mask = selected_mask(exact["block_indices"], CONFIG)
    assert mask.sum() < window_mask(1100, CONFIG).new_ones(2, 1100, 1100).tril().sum()  # it leaves some out
    scores = torch.einsum("btkgd,bskd->bkgts", exact["q"].unflatten(2, (2, -1)), exact["k"]) / 16**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = torch.einsum("bkgts,bskd->btkgd", weights, exact["v"]).flatten(2, 3)
    torch.testing.assert_close(oracle("selected", exact), expected, rtol=1e-12, atol=1e-12)


def test_the_pooled_problem_is_dense_attention_plus_block_means():
    """Short enough for every block to be read, as the benchmark compares it."""
    exact = in_float64(drawn("pooled", t=200))
    means = {
        name: torch.stack([exact[name][:, i * 64 : i * 64 + 64].mean(1) for i in range(3)], 1)
        for name in "kv"
    }
    expected = torch.zeros_like(exact["q"])
    for t in range(200):
        blocks = (t + 1) // 64
        if blocks:
            one = {"q": exact["q"][:, t : t + 1]} | {name: means[name][:, :blocks] for name in "kv"}
            expected[:, t] += exact["g_cmp"][:, t, :, None] * dense(one)[:, 0]
    expected += exact["g_slc"][..., None] * dense(exact)
    torch.testing.assert_close(oracle("pooled", exact), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("problem", ["dense", "selected", "nsa", "pooled", "decode"])
def test_inputs_are_random_and_never_zero(problem):
    generator = torch.Generator().manual_seed(1)
    first, second = (draw(problem, 100, TINY, generator, grad=problem != "decode") for _ in range(2))
    for name, tensor in leaves(first).items():
        if not name.endswith("bias"):
            assert not torch.equal(tensor, leaves(second)[name]), name
        assert (tensor != 0).all(), name
        assert tensor.requires_grad == (problem != "decode"), name
    assert ("do" in first) == (problem != "decode")


# --- counts -----------------------------------------------------------------------------------------------


def test_flops_of_dense_attention_are_those_of_the_visible_pairs():
    pairs = int(torch.ones(128, 128).tril().sum())
    assert count_flops("dense", 128, "forward", TINY) == 4 * 16 * 4 * pairs
    assert count_flops("dense", 128, "backward", TINY) == 10 * 16 * 4 * pairs
    assert count_flops("dense", 1, "forward", TINY) == 4 * 16 * 4
    assert count_flops("decode", 128, "decode", TINY) == DECODE_BATCH * 4 * 16 * 4 * 128
    expected = sequence_flops(4096, CONFIG, d_qk=16, d_v=16, hq=4)
    assert count_flops("dense", 4096, "forward", TINY) == expected["dense"]


def test_flops_of_nsa_are_its_branches_and_phi():
    expected = sequence_flops(2048, CONFIG, d_qk=16, d_v=16, hq=4)
    phi = compression_flops(2048, CONFIG, d_qk=16, d_v=16, hk=2)
    assert count_flops("nsa", 2048, "forward", TINY) == expected["nsa"] + phi
    assert count_flops("nsa", 2048, "backward", TINY) == expected["nsa"] * 5 // 2 + 2 * phi
    assert count_flops("selected", 2048, "forward", TINY) == expected["selected"]
    pooled = count_flops("pooled", 2048, "forward", TINY)
    assert expected["selected"] < pooled < expected["selected"] + expected["compressed"]


@pytest.mark.parametrize("problem", ["dense", "selected", "nsa", "pooled", "decode"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_bytes_are_those_of_the_tensors(problem, direction):
    if (problem, direction) == ("decode", "backward"):
        return
    inputs = drawn(problem, grad=direction == "backward")
    trained = sum(x.numel() * x.element_size() for x in leaves(inputs).values())
    fixed = sum(x.numel() * x.element_size() for n, x in inputs.items() if n == "block_indices")
    out = inputs["q"].numel() * 4
    expected = trained + fixed + out if direction == "forward" else 2 * trained + fixed + 2 * out
    assert count_bytes(problem, 150, direction, TINY) == expected


# --- checks -----------------------------------------------------------------------------------------------


def test_right_code_passes_and_the_error_is_that_of_the_arithmetic():
    right = implementation("right", function=dense)
    assert 0 < check_small(right, dense, TINY, "cpu") < 1e-5
    for backward in (False, True):
        assert 0 < check_tail(right, dense, drawn("dense", grad=True), backward=backward) < 1e-5


def wrong_at_the_end(inputs):
    out = dense(inputs)
    return torch.cat([out[:, :-1], out[:, -1:] * 1.001], dim=1)


def sees_one_token_too_much(inputs):
    return dense({**inputs, "k": inputs["k"].roll(-1, 1), "v": inputs["v"].roll(-1, 1)})


def drops_a_gradient(inputs):
    return dense({**inputs, "v": inputs["v"] * 0.5 + inputs["v"].detach() * 0.5})


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (wrong_at_the_end, "output"),
        (sees_one_token_too_much, "output"),
        (drops_a_gradient, "gradient of v"),
        (lambda inputs: dense(inputs) * torch.nan, "output"),
    ],
)
def test_wrong_code_is_named(wrong, what):
    bad = implementation("bad", function=wrong)
    message = f"bad: got a relative error of .* in the {what}, expected < 1e-05 against float64"
    with pytest.raises(WrongResult, match=message):
        check_small(bad, wrong, TINY, "cpu")
    with pytest.raises(WrongResult, match=message):
        check_tail(bad, wrong, drawn("dense", grad=True), backward=what != "output")


def test_code_that_is_forward_only_is_compared_in_its_output():
    def no_backward(inputs):
        assert not inputs["q"].requires_grad
        return dense(inputs)

    forward_only = implementation("kernel", function=no_backward, backward=False)
    assert check_small(forward_only, no_backward, TINY, "cpu") < 1e-5
    built = nsa.case_of(forward_only, 64, "forward", TINY, "cpu").build()
    assert built.run(drawn("dense", 64)).shape == (1, 64, 4, 16)
    with pytest.raises(Unavailable, match="forward only"):
        nsa.case_of(forward_only, 64, "backward", TINY, "cpu").build()


def test_lengths_that_would_not_fit_are_said_and_not_tried():
    long = implementation("reference", function=dense, longest=64)
    nsa.case_of(long, 64, "forward", TINY, "cpu").build()
    with pytest.raises(Unavailable, match="its memory grows with t²: tried up to t = 64"):
        nsa.case_of(long, 128, "forward", TINY, "cpu").build()


def test_gradients_of_phi_are_compared_together():
    inputs = drawn("nsa", grad=True)
    blocks = nsa_checks.chosen_blocks(inputs, "reference")
    out = nsa_paths.whole_nsa(inputs, "sdpa")
    grads = nsa_checks.gradients(out, inputs)
    assert compare("nsa", "nsa", inputs, out, grads, blocks) < 1e-5
    names = list(leaves(inputs))
    at = names.index("phi_v.first.weight")
    halved = (*grads[:at], grads[at] / 2, *grads[at + 1 :])
    with pytest.raises(WrongResult, match="gradient of phi_v"):
        compare("nsa", "nsa", inputs, out, halved, blocks)


# --- a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The quick run at sizes of a fraction of a second."""
    monkeypatch.setitem(nsa.SIZES, ("cpu", True), TINY)
    monkeypatch.setitem(nsa.SIZES, ("cuda", True), Sizes(64, 4, 128, torch.bfloat16, (256,), 300))
    monkeypatch.setitem(CEILING_SIZES, ("cpu", True), (2**20, 64, torch.float32))
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 1)  # two input sets will do
    real = nsa.plan
    shortened = lambda device, **options: replace(real(device, **options), seconds=0.002)
    monkeypatch.setattr(nsa, "plan", shortened)
    return tmp_path


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_quick_run_from_end_to_end(tiny, capsys, device):
    assert command.main(["nsa", "--quick", "--device", device, "--out", str(tiny)]) == 0
    shown = capsys.readouterr().out
    name = "nsa-speed-quick" if device == "cpu" else "nsa-speed-gpu-quick"
    assert [file.name for file in tiny.iterdir()] == [f"{name}.json"]
    document = results.load(name, tiny)
    assert document["command"] == f"minisys bench nsa --device {device} --quick"
    rows = results.rows(name, tiny)
    measured = {row["case"] for row in rows if "median_ms" in row}
    assert measured >= {"sdpa-flash", "sdpa-math", "nsa-reference", "nsa-sdpa", "selected-sdpa"}
    for row in rows:
        assert ("median_ms" in row) != ("reason" in row), row
        if "median_ms" in row:
            assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"], row
            assert 0 < row["matmul_share"] < 10, row
    limit = 1e-5 if device == "cpu" else 3e-2
    assert all(row["relative_error"] < limit for row in rows if "relative_error" in row)
    errors = document["results"]["relative_errors"]
    assert set(errors) >= {"reference_float64", "sdpa_float32", "nsa-reference", "nsa-sdpa", "selected-sdpa"}
    if device == "cpu":
        reasons = {row["case"]: row["reason"] for row in rows if "reason" in row}
        assert reasons.keys() >= {
            "sdpa-cudnn",
            "sdpa-efficient",
            "flex-attention",
            "triton-flash",
            "nsa-triton",
        }
        xs, ys = results.series(name, "t", "median_ms", tiny, case="sdpa-flash", direction="decode")
        assert xs == [64, 128]
        assert all(y > 0 for y in ys)
    assert "checked nsa-sdpa: relative error" in shown
    assert "backward: median ms" in shown
    assert f"written: {tiny / name}.json" in shown


def test_our_own_code_going_wrong_writes_nothing(tiny, monkeypatch):
    whole = nsa_paths.whole_nsa
    monkeypatch.setattr(nsa_paths, "whole_nsa", lambda inputs, backend: whole(inputs, backend) * 1.01)
    with pytest.raises(ValueError, match=r"nsa-reference: got .* against float64; nothing was written"):
        command.bench("nsa", quick=True, device="cpu", out=tiny / "new")
    assert list(tiny.iterdir()) == []


def test_peers_that_fail_or_are_missing_are_rows(tiny, monkeypatch):
    def broken(t, device):
        raise SystemError("built for another CUDA")

    monkeypatch.setattr(nsa_paths, "_flex", broken)
    found, missing = nsa_paths.find_paths(TINY, "cpu")
    assert missing["flex-attention"] == "SystemError: built for another CUDA"
    assert missing["sdpa-cudnn"] == "needs a CUDA GPU"
    assert "not installed" in missing["fla-nsa"] or "needs a CUDA GPU" in missing["fla-nsa"]
    assert {path.name for path in found}.isdisjoint(missing)


def test_bad_input_on_the_command_line_is_one_line_and_status_2(tmp_path, capsys):
    assert command.main(["nas", "--out", str(tmp_path)]) == 2
    said = "minisys: topic: got 'nas', expected one of nsa, nsa-decode, kgrag (nearest: nsa)\n"
    assert capsys.readouterr().err == said
    typed = CliRunner().invoke(app, ["bench", "nas", "--out", str(tmp_path)])
    assert typed.exit_code == 2
    assert typed.stderr == said
    file = tmp_path / "file"
    file.write_text("mine")
    done = CliRunner().invoke(app, ["bench", "nsa", "--quick", "--device", "cpu", "--out", str(file)])
    assert done.exit_code == 2
    assert done.stderr == f"minisys: directory: got the file {file}, expected a folder\n"
    assert file.read_text() == "mine"


def test_the_typer_command_passes_everything_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(command, "bench", lambda *given, **options: asked.append((given, options)) or 1)
    arguments = ["bench", "nsa", "--quick", "--device", "cpu", "--out", str(tmp_path), "--minutes", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert asked == [(("nsa",), {"quick": True, "device": "cpu", "out": tmp_path, "minutes": 2.0})]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topic": "nas"}, r"topic: got 'nas', expected one of nsa, nsa-decode, kgrag \(nearest: nsa\)"),
        ({"topic": "fp8"}, r"topic: got 'fp8', expected one of nsa, nsa-decode, kgrag$"),
        ({"device": "tpu"}, "device: got 'tpu', expected one of 'cuda', 'cpu'"),
        ({"minutes": 0.0}, "minutes: got 0.0, expected more than 0"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, change, message):
    given = {"topic": "nsa", "quick": True, "device": "cpu", "out": tmp_path} | change
    with pytest.raises(ValueError, match=message):
        command.bench(given.pop("topic"), **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="device: got 'cuda', expected 'cpu': PyTorch sees no GPU here"):
        command.bench("nsa", device="cuda", out=tmp_path)
