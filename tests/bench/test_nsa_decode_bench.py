"""`minisys bench nsa-decode`: counts, turns over caches, checks that must fail, a tiny run."""

from dataclasses import replace

import pytest
import torch

from minisys.bench import (
    command,
    nsa_decode,
    nsa_decode_checks,
    nsa_decode_model,
    nsa_decode_steps,
    results,
    timing,
)
from minisys.bench.ceilings import SIZES as CEILING_SIZES
from minisys.bench.harness import WrongResult
from minisys.bench.nsa_decode_steps import CONFIG, STEPS, Dense, DenseSteps, NSASteps, resident
from minisys.bench.nsa_problems import Sizes
from minisys.core.decoder import Decoder, DecoderConfig
from minisys.nsa import decoding
from minisys.nsa.costs import query_flops, step_bytes

TINY = Sizes(2, 1, 8, torch.float32, (96,), 100)


@pytest.fixture(autouse=True)
def _a_small_cache(monkeypatch):
    monkeypatch.setattr(nsa_decode_steps, "cache_bytes", lambda device: 1 << 16)


def generator():
    return torch.Generator().manual_seed(0)


def test_copies_are_a_power_of_two_and_hold_twice_the_cache():
    assert resident(1 << 20, "cpu") == 1
    assert resident(1 << 16, "cpu") == 2
    assert resident(3 << 13, "cpu") == 8
    assert resident(1, "cpu") == STEPS == 16


@pytest.mark.parametrize("copies", [1, 4, 16])
def test_sixteen_steps_complete_one_block_in_each_row(copies, monkeypatch):
    monkeypatch.setattr(nsa_decode_steps, "resident", lambda read, device: copies)
    steps = NSASteps(200, TINY)
    inputs = steps.draw(2, generator())
    before = [cache.row_lengths[0] for cache, *_ in inputs["copies"]]
    for _ in range(2):  # and a second time after `prepare` set the lengths back
        steps.run(steps.prepare(inputs))
        after = [cache.row_lengths[0] for cache, *_ in inputs["copies"]]
        assert [b - a for a, b in zip(before, after, strict=True)] == [STEPS // copies] * copies
        assert max(after) == 200
        completed = [
            CONFIG.num_compressed(b) - CONFIG.num_compressed(a) for a, b in zip(before, after, strict=True)
        ]
        assert sum(completed) == 1


def test_counts_of_a_step():
    flops, moved = nsa_decode._counts(200, 3, TINY)
    assert flops["dense"] == 3 * query_flops(199, CONFIG, d_qk=8, d_v=8, hq=2)["dense"]
    assert flops["nsa"] > 3 * query_flops(199, CONFIG, d_qk=8, d_v=8, hq=2)["nsa"]
    assert moved == step_bytes(200, CONFIG, d_qk=8, d_v=8, hk=1, batch=3, element_bytes=4)
    stages = [nsa_decode._nsa(200, 3, TINY, stage) for stage in nsa_decode_steps.STAGES]
    whole = nsa_decode._nsa(200, 3, TINY)
    assert abs(sum(case.bytes for case in stages) - whole.bytes) < 4
    assert abs(sum(case.flops for case in stages) - whole.flops) < 4


def test_parameters_of_the_first_token_model():
    config = DecoderConfig(64, 32, 3, 4, 2, 8, 48)
    norms = (2 * 3 + 1) * 32
    assert nsa_decode_model.matrix_parameters(config) == Decoder(config).num_parameters() - norms


def test_checks_pass_on_our_code_and_fail_on_a_wrong_one(monkeypatch):
    errors = nsa_decode_checks.check_decoding(TINY, "cpu")
    assert set(errors) == {"decode", "k_cmp", "v_cmp"}
    assert 0 < max(errors.values()) < 1e-5
    steps = NSASteps(128, TINY)
    inputs = steps.draw(2, generator())
    assert nsa_decode_checks.check_nsa_row(steps, inputs) < 1e-5
    right = decoding.decode_reference
    wrong = lambda q, cache, gates, scale, counts: right(q, cache, gates, 1.01 * scale, counts)
    monkeypatch.setattr(decoding, "decode_reference", wrong)
    with pytest.raises(WrongResult, match="decode: got a relative error of"):
        nsa_decode_checks.check_nsa_row(steps, inputs)
    with pytest.raises(WrongResult, match="decode: got a relative error of"):
        nsa_decode_checks.check_decoding(TINY, "cpu")


def test_a_wrong_step_is_seen_where_decoding_is_right(monkeypatch):
    step = nsa_decode_checks.nsa_step
    monkeypatch.setattr(nsa_decode_checks, "nsa_step", lambda *a, **new: 1.01 * step(*a, **new))
    steps = NSASteps(128, TINY)
    with pytest.raises(WrongResult, match="step: got a relative error of"):
        nsa_decode_checks.check_nsa_row(steps, steps.draw(2, generator()))


def test_a_wrong_phi_is_seen(monkeypatch):
    right = decoding.append_reference

    def wrong(cache, new, counts):
        right(cache, new, counts)
        cache.k_cmp *= 1.001

    monkeypatch.setattr(decoding, "append_reference", wrong)
    with pytest.raises(WrongResult, match="k_cmp: got a relative error of"):
        nsa_decode_checks.check_decoding(TINY, "cpu")


@pytest.mark.parametrize("head_major", [True, False])
def test_dense_steps_are_compared_too(head_major):
    way = Dense(None, head_major)
    steps = DenseSteps(way)
    inputs = way.draw(50, 2, TINY, generator())
    assert nsa_decode_checks.check_dense_row(steps, inputs) < 1e-5
    steps.way = type("Wrong", (), {"attend": lambda self, q, k, v: way.attend(q, k, v) * 1.01})()
    with pytest.raises(WrongResult, match="dense: got a relative error of"):
        nsa_decode_checks.check_dense_row(steps, inputs)


@pytest.mark.parametrize("head_major", [True, False])
def test_dense_steps_may_store_their_token(head_major):
    way = Dense(None, head_major)
    inputs = way.draw(50, 2, TINY, generator())
    before = [kv.clone() for _, kv in inputs["copies"]]
    DenseSteps(way).run(inputs)
    assert all(torch.equal(kv, old) for (_, kv), old in zip(inputs["copies"], before, strict=True))
    DenseSteps(way, append=True).run(inputs)
    for (_, kv), old in zip(inputs["copies"], before, strict=True):
        assert torch.equal(kv[..., :-1, :], old[..., :-1, :])
        assert torch.equal(kv[..., -1:, :], inputs["new"])


@pytest.mark.parametrize("attention", nsa_decode_model.ATTENTIONS)
def test_model_steps_go_on_from_a_full_cache_and_start_again(attention):
    config = DecoderConfig(32, 16, 2, 2, 1, 8, 16)
    model = nsa_decode_model.make_model(attention, config, torch.float32, "cpu")
    steps = nsa_decode_model.ModelSteps(model, 2, 96)
    seen = []
    model.register_forward_hook(lambda module, given, out: seen.append(out))
    for _ in range(2):
        steps.run(steps.prepare({"tokens": torch.tensor([[3], [5]])}))
        assert [layer.length for layer in steps.cache] == [96, 96]
    first, second = seen[:STEPS], seen[STEPS:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].isfinite().all()


def test_a_tiny_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(nsa_decode.SIZES, ("cpu", True), (TINY, (1, 2)))
    model = (DecoderConfig(32, 16, 1, 2, 1, 8, 16), 64, torch.float32, (1, 2))
    monkeypatch.setitem(nsa_decode_model.MODEL, "cpu", model)
    monkeypatch.setitem(CEILING_SIZES, ("cpu", True), (2**16, 32, torch.float32))
    monkeypatch.setattr(timing, "MOST_REPEATS", 5)
    assert command.bench("nsa-decode", quick=True, device="cpu", out=tmp_path) == 0
    rows = {(row["case"], row["direction"]): row for row in results.rows("nsa-decode-quick", tmp_path)}
    names = [(case, f"batch {batch}") for batch in (1, 2) for case in ("dense", "nsa")]
    of_model = ("first token", "next token, batch 1", "next token, batch 2")
    names += [(case, direction) for direction in of_model for case in ("dense", "nsa")]
    assert set(rows) == set(names)
    for row in rows.values():
        assert row["median_ms"] > 0
        assert row["times_baseline"] > 0
    assert rows["nsa", "batch 2"]["relative_error"] < 1e-5
    assert "fastest of default, [b, " in rows["dense", "batch 1"]["note"]
    moved = results.value("nsa-decode-quick", "bytes_per_row.96", tmp_path)
    assert moved["nsa"] == sum(
        moved[x] for x in ("compressed", "selected", "window", "append", "compression")
    )
    assert results.value("nsa-decode-quick", "first_token_model.prompt", tmp_path) == 64
    assert "batch 2: median ms" in capsys.readouterr().out


def test_a_step_is_a_sixteenth_of_a_call(tmp_path, monkeypatch):
    """The time of a row is that of one step."""
    from minisys.bench import harness

    case = replace(nsa_decode._dense(64, 1, TINY, "cpu"), note="of the case")
    clock = timing.Timing(16e-3, 8e-3, 32e-3, 5)
    monkeypatch.setattr(harness, "measure", lambda *a, **k: clock)
    monkeypatch.setattr(nsa_decode, "fastest_dense", lambda *a: (Dense(None, True), "of the build"))
    row = harness.measure_case(case, "cpu", 0.1)
    assert (row["median_ms"], row["p10_ms"], row["p90_ms"]) == (1.0, 0.5, 2.0)
    assert row["note"] == "of the build"
