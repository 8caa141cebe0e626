"""The command line: what it shows, and one clear line where something is wrong."""

import subprocess
import sys

import pytest
import torch
import yaml
from typer.testing import CliRunner

from minisys.bench import results
from minisys.cli import app
from minisys.core import paths

SOURCES = {"A": {"name": "digest", "about": "Second-hand.", "cite": "digest2025"}}
ROW = {
    "id": "nsa-fwd",
    "claim": "The forward pass [at 64k] is 9 times as fast.",
    "source": ["A"],
    "claimed": [{"value": 9, "unit": "×", "text": "forward"}],
    "measure": {"how": "Time it."},
    "hardware": "one GPU",
    "ours": [{"result": "nsa-speed", "path": "ratio", "unit": "×", "text": "at 64k"}],
    "status": "partly",
    "evidence": "Half of it held.",
}


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Write a ledger of the given rows where the command line looks for it."""
    results.save("nsa-speed", {"ratio": 4.59}, "minisys bench nsa", tmp_path)
    monkeypatch.setattr(paths, "claims_file", lambda: tmp_path / "claims.yml")
    monkeypatch.setattr(paths, "results_directory", lambda: tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def write(*rows):
        (tmp_path / "claims.yml").write_text(yaml.safe_dump({"sources": SOURCES, "claims": list(rows)}))
        return tmp_path

    write(ROW, ROW | {"id": "nsa-bwd", "ours": None, "status": "open"})
    return write


def run(*arguments):
    return CliRunner().invoke(app, arguments)


def test_info_says_versions_device_and_where_the_data_is(ledger):
    folder = ledger(ROW)
    done = run("info")
    assert done.exit_code == 0
    shown = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(shown) == {"python", "torch", "triton", "numpy", "minisys", "device", "claims", "results"}
    assert torch.__version__.split("+")[0] in shown["torch"]
    assert ("cuda: " if torch.cuda.is_available() else "cpu: PyTorch sees no GPU") in shown["device"]
    assert shown["claims"].endswith(str(folder / "claims.yml"))
    assert shown["results"].endswith(f"{folder} (1 file)")


def test_claims_shows_every_row(ledger):
    done = run("claims")
    assert done.exit_code == 0
    assert "2 claims: 1 open, 1 partly" in done.stdout
    for text in (
        "nsa-fwd",
        "nsa-bwd",
        "partly",
        "4.59× at 64k",
        "The forward pass [at 64k] is 9 times as fast.",
    ):
        assert text in done.stdout, text


def test_claims_with_an_id_shows_the_row(ledger):
    done = run("claims", "nsa-fwd")
    assert done.exit_code == 0
    for text in ("The forward pass [at 64k] is 9 times as fast.", "digest", "9× forward", "4.59× at 64k",
                 "nsa-speed.json: ", "partly: part of the claim held", "Half of it held.", "Time it.",
                 "minisys bench nsa", "one GPU"):  # fmt: skip
        assert text in done.stdout, text
    assert "nsa-bwd" not in done.stdout


def test_an_unknown_id_is_one_line_and_status_2(ledger):
    done = run("claims", "nsa-fw")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("minisys: ")
    assert done.stderr.endswith("id: got 'nsa-fw', expected the id of a row, for example nsa-fwd, nsa-bwd\n")
    assert done.stderr.count("\n") == 1


def test_check_says_that_a_ledger_is_whole(ledger):
    done = run("claims", "--check")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "2 claims, none broken: 1 open, 1 partly\n"


def test_check_lists_every_problem_and_exits_with_1(ledger):
    folder = ledger(ROW | {"status": "opne"}, ROW | {"id": "nsa-bwd", "claim": 5})
    done = run("claims", "--check")
    assert (done.exit_code, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        f"{folder / 'claims.yml'}: nsa-fwd: status: got 'opne', expected one of open, "
    )
    assert lines[1] == f"{folder / 'claims.yml'}: nsa-bwd: claim: got 5, expected text"


def test_a_broken_ledger_is_one_line_and_status_2(ledger):
    folder = ledger(ROW | {"status": "opne"}, ROW | {"id": "nsa-bwd", "claim": 5})
    done = run("claims")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"minisys: {folder / 'claims.yml'}: nsa-fwd: status: got 'opne', expected one of"
    )
    assert done.stderr.endswith("(1 more: minisys claims --check)\n")
    assert done.stderr.count("\n") == 1


def test_an_error_of_ours_that_is_no_bad_input_is_not_hidden(ledger, monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(results, "versions", broken)
    done = run("info")
    assert isinstance(done.exception, RuntimeError)


def test_the_module_runs_as_a_command():
    command = [sys.executable, "-m", "minisys.cli", "claims", "no-such-row"]
    done = subprocess.run(command, cwd=paths.checkout(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("minisys: ")
