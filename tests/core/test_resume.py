"""Resuming: equal to an unbroken run to the last bit, whatever stopped it, and never over a broken file."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import (
    MODEL,
    RUN,
    StoppedError,
    batch,
    interrupted,
    names,
    run,
    stop_at,
    without_time,
)

import minisys
from minisys.core.checkpoint import CheckpointError, checkpoints
from minisys.core.decoder import Decoder
from minisys.core.files import only_writer
from minisys.core.train import read_log, train


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    log, model = run(directory)
    return directory, log, model


@pytest.mark.parametrize("stop", [1, 4, 5, 8, 10, 12])
def test_a_resumed_run_equals_an_unbroken_one_to_the_last_bit(tmp_path, unbroken, stop):
    directory, log, model = unbroken
    interrupted(tmp_path, stop)
    torch.manual_seed(99)
    resumed_log, resumed = run(tmp_path, seed=5)  # other weights at the start: the checkpoint's count
    if stop > 4:
        for ours, theirs in zip(model.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert without_time(resumed_log) == without_time(log)
        assert without_time(read_log(tmp_path)) == without_time(log)
        assert names(tmp_path) == names(directory)
        for path in checkpoints(directory):
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    else:
        assert not torch.equal(model.embedding.weight, resumed.embedding.weight)
        assert [record["step"] for record in read_log(tmp_path)] == [2, 4, 6, 8, 10, 12]


def test_a_finished_run_is_only_loaded(tmp_path, unbroken):
    run(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in checkpoints(tmp_path)}
    log, model = run(tmp_path, data=stop_at(1), seed=5)
    assert torch.equal(model.embedding.weight, unbroken[2].embedding.weight)
    assert without_time(log) == without_time(unbroken[1])
    assert {path.name: path.stat().st_mtime_ns for path in checkpoints(tmp_path)} == before


def test_lines_after_the_checkpoint_and_cut_off_lines_are_dropped(tmp_path, unbroken):
    interrupted(tmp_path, 8)
    with open(tmp_path / "log.jsonl", "a") as stream:
        stream.write('{"step": 8, "lo')
    assert [record["step"] for record in read_log(tmp_path)] == [2, 4, 6]
    run(tmp_path)
    assert without_time(read_log(tmp_path)) == without_time(unbroken[1])


def test_a_log_that_is_none_is_reported_and_kept(tmp_path):
    interrupted(tmp_path, 8)
    content = '{"step": 2}\nnot json\n{"step": 4}\n'
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"log\.jsonl line 2: got 'not json'"):
        run(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == content


def test_partial_files_of_killed_runs_are_cleared(tmp_path):
    interrupted(tmp_path, 6)
    (tmp_path / "checkpoint-00000008.safetensors.0123abcd.partial").write_bytes(b"half")
    run(tmp_path)
    assert not list(tmp_path.glob("*.partial"))


# Broken, foreign and mismatching checkpoints


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_broken_newest_checkpoint_is_kept_aside_and_the_one_before_used(tmp_path, unbroken, damage):
    interrupted(tmp_path, 9)
    newest = checkpoints(tmp_path)[-1]
    assert newest.name == "checkpoint-00000008.safetensors"
    content = newest.read_bytes()
    middle = len(content) // 2
    broken = {
        "cut": content[:-7],
        "flipped": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
        "foreign": b"something else entirely",
        "empty": b"",
    }[damage]
    newest.write_bytes(broken)
    with pytest.warns(UserWarning, match=r"00000008\.safetensors: got .*going on from checkpoint-00000004"):
        log, _ = run(tmp_path)
    assert without_time(log) == without_time(unbroken[1])
    (aside,) = tmp_path.glob("*.broken")
    assert aside.name.startswith("checkpoint-00000008.safetensors.")
    assert aside.read_bytes() == broken
    for path in checkpoints(unbroken[0]):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_without_any_good_checkpoint_nothing_is_touched(tmp_path):
    interrupted(tmp_path, 9)
    for path in checkpoints(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"no good checkpoint \(.*00000008.*00000004.*move them away"):
        run(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"learning_rate": 0.5},
            r"config\.learning_rate: got 0\.5, expected 0\.02 as in .*checkpoint-00000004",
        ),
        ({"steps": 20}, r"config\.steps: got 20, expected 12"),
        ({"betas": (0.8, 0.95)}, r"config\.betas: got \[0\.8, 0\.95\]"),
    ],
)
def test_a_run_with_other_settings_is_refused(tmp_path, change, message):
    interrupted(tmp_path, 6)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        run(tmp_path, config=replace(RUN, **change))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_identity_or_model_is_refused(tmp_path):
    run(tmp_path, identity={"top_n": 4})
    run(tmp_path, identity={"top_n": 4})
    with pytest.raises(ValueError, match=r"identity\.top_n: got 8, expected 4"):
        run(tmp_path, identity={"top_n": 8})
    with pytest.raises(ValueError, match=r"identity: got None, expected \{'top_n': 4\}"):
        run(tmp_path)
    other = Decoder(replace(MODEL, dim=16))
    with pytest.raises(CheckpointError, match="checkpoint-00000012"):
        train(other, batch, RUN, tmp_path, progress=False, identity={"top_n": 4})


def test_an_identity_that_is_no_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="identity: got no JSON"):
        run(tmp_path / "run", identity={"model": MODEL})
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with only_writer(tmp_path), pytest.raises(ValueError, match=r"directory: got .* which another run uses"):
        run(tmp_path)
    run(tmp_path)


@pytest.mark.gpu
def test_a_run_on_a_gpu_resumes(tmp_path):
    config = replace(RUN, amp="bfloat16")
    log, model = run(tmp_path / "unbroken", config=config, device="cuda")
    with pytest.raises(StoppedError):
        run(tmp_path / "resumed", stop_at(9), config, device="cuda")
    resumed_log, resumed = run(tmp_path / "resumed", config=config, seed=5, device="cuda")
    assert [record["step"] for record in resumed_log] == [record["step"] for record in log]
    assert resumed_log[2]["loss"] == pytest.approx(log[2]["loss"], abs=1e-3)
    for ours, theirs in zip(model.parameters(), resumed.parameters(), strict=True):
        assert theirs.is_cuda
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)  # some sums on a GPU have no fixed order


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_twenty_times_never_breaks_a_checkpoint(tmp_path):
    script = Path(__file__).with_name("kill_loop.py")
    process = subprocess.run(
        [sys.executable, script, tmp_path, "20", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(minisys.__file__).parents[1])},
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert len(report["newest"]) == 20
    assert report["newest"] == sorted(report["newest"])
    assert report["partials"] >= 5  # every second kill comes in the middle of a write, or just after it
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    assert names(killed) == names(unbroken)
    assert len(checkpoints(unbroken)) == 2
    for path in checkpoints(unbroken):
        assert (killed / path.name).read_bytes() == path.read_bytes()
    assert [record["step"] for record in read_log(killed)] == list(range(1, report["steps"] + 1))
    assert without_time(read_log(killed)) == without_time(read_log(unbroken))
