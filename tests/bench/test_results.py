"""Result files: what is saved comes back with where it was measured, and nobody's data is overwritten."""

import json
import subprocess

import pytest
import torch

from minisys.bench import results
from minisys.core import paths

PAYLOAD = {"forward_ms": [1.5, 2.0], "sizes": {"8k": 8192}, "note": "median of 5", "fits": True}


@pytest.fixture
def folder(tmp_path):
    results.save("nsa-window", PAYLOAD, "minisys bench nsa", tmp_path)
    return tmp_path


def rewrite(folder, **changes):
    """Change top-level fields of the saved file; None removes one."""
    path = folder / "nsa-window.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def test_saved_results_come_back_with_their_provenance(folder):
    document = results.load("nsa-window", folder)
    assert document["results"] == PAYLOAD
    assert tuple(document) == results.FIELDS
    assert document["schema"] == results.SCHEMA_VERSION
    assert document["command"] == "minisys bench nsa"
    assert document["device"] == "cpu"
    assert document["hardware"]["gpu"] is None
    assert document["driver"] is None
    cpu = document["hardware"]["cpu"]
    assert cpu["cores"] >= 1
    assert cpu["threads"] == torch.get_num_threads()
    assert cpu["model"]
    assert document["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert document["versions"]["python"].startswith("3.")
    assert document["created"].endswith("+00:00")
    assert results.names(folder) == ["nsa-window"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("forward_ms.1", 2.0),
        ("sizes.8k", 8192),
        ("note", "median of 5"),
        ("fits", True),
        ("sizes", {"8k": 8192}),
    ],
)
def test_value_follows_a_dotted_path(folder, path, expected):
    assert results.value("nsa-window", path, folder) == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("backward_ms", r"got 'backward_ms', expected in nsa-window one of: forward_ms, sizes, note, fits$"),
        ("sizes.16k", r"got '16k', expected in 'sizes' of nsa-window one of: 8k$"),
        ("forward_ms.2", r"got '2', expected in 'forward_ms' of nsa-window a position from 0 to 1$"),
        ("forward_ms.-1", r"got '-1', expected in 'forward_ms' of nsa-window a position from 0 to 1$"),
        ("sizes.8k.0", r"got '0', expected nothing after 'sizes.8k' of nsa-window, which holds 8192$"),
        ("", r"path: got '', expected a dotted path"),
    ],
)
def test_a_path_that_does_not_exist_is_named_with_what_exists(folder, path, message):
    with pytest.raises(ValueError, match=message):
        results.value("nsa-window", path, folder)


def test_hardware_is_a_phrase(folder):
    versions = {
        "python": "3.12.3",
        "torch": "2.11.0+cu128",
        "triton": "3.6.0",
        "numpy": "2.4.0",
        "minisys": "0",
    }
    cpu = {"model": "Some CPU", "cores": 2, "threads": 2, "memory_gib": 8.0}
    gpu = {"name": "NVIDIA H100 80GB HBM3", "count": 1, "memory_gib": 79.1}
    rewrite(folder, versions=versions, hardware={"cpu": cpu, "gpu": gpu})
    assert results.hardware("nsa-window", folder) == "one NVIDIA H100 80GB HBM3, PyTorch 2.11.0, Triton 3.6.0"
    rewrite(folder, hardware={"cpu": cpu, "gpu": None})
    assert results.hardware("nsa-window", folder) == "two cores of Some CPU, PyTorch 2.11.0"
    rewrite(folder, hardware={"cpu": cpu | {"cores": 1}, "gpu": None})
    assert results.hardware("nsa-window", folder) == "one core of Some CPU, PyTorch 2.11.0"


def test_saving_again_replaces_the_same_name_and_leaves_no_partial_file(folder):
    path = results.save("nsa-window", {"forward_ms": [9.0]}, "again", folder)
    assert path == folder / "nsa-window.json"
    assert results.value("nsa-window", "forward_ms.0", folder) == 9.0
    assert [file.name for file in folder.iterdir()] == ["nsa-window.json"]


def test_an_older_schema_of_the_same_name_may_be_replaced(folder):
    rewrite(folder, schema=0)
    results.save("nsa-window", PAYLOAD, "again", folder)
    assert results.load("nsa-window", folder)["command"] == "again"


@pytest.mark.parametrize(
    "content",
    ["notes of mine", "[1, 2]", '{"a": 1}', '{"schema": 1, "name": "other-name"}', '{"schema": 1, "na'],
)
def test_a_file_that_is_no_result_file_of_that_name_is_not_overwritten(tmp_path, content):
    path = tmp_path / "nsa-window.json"
    path.write_text(content)
    with pytest.raises(
        ValueError, match="expected a free path or a result file named 'nsa-window'; nothing was"
    ):
        results.save("nsa-window", PAYLOAD, "minisys bench nsa", tmp_path)
    assert path.read_text() == content


def test_a_folder_in_the_way_is_not_overwritten(tmp_path):
    (tmp_path / "nsa-window.json").mkdir()
    with pytest.raises(ValueError, match="expected a free path or a result file"):
        results.save("nsa-window", PAYLOAD, "minisys bench nsa", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "../escape"}, "name: got '../escape', expected lower-case"),
        ({"name": "NSA"}, "name: got 'NSA'"),
        ({"name": ""}, "name: got ''"),
        ({"payload": {}}, "payload: got {}"),
        ({"payload": [1]}, r"payload: got \[1\]"),
        ({"payload": {"a": {"b": [1.0, float("nan")]}}}, r"payload: got nan at a\.b\.1"),
        ({"payload": {"a": float("inf")}}, "payload: got inf at a"),
        ({"payload": {"a": torch.zeros(1)}}, "payload: got Tensor at a"),
        ({"payload": {"a.b": 1}}, r"payload: got key 'a\.b' in the top level"),
        ({"payload": {"a": {1: 2}}}, "payload: got key 1 in a"),
        ({"command": "  "}, "command: got '  '"),
        ({"device": "tpu"}, "device: got 'tpu', expected one of 'cpu', 'cuda'"),
        ({"device_count": 0}, "device_count: got 0"),
    ],
)
@pytest.mark.usefixtures("no_runtime_types")
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, arguments, message):
    given = {"name": "nsa-window", "payload": PAYLOAD, "command": "run", "directory": tmp_path / "new"}
    with pytest.raises(ValueError, match=message):
        results.save(**given | arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="device: got 'cuda', expected 'cpu': PyTorch sees no GPU here"):
        results.save("nsa-window", PAYLOAD, "run", tmp_path, device="cuda")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_described(tmp_path):
    results.save("nsa-window", PAYLOAD, "run", tmp_path, device=torch.device("cuda", 0))
    document = results.load("nsa-window", tmp_path)
    assert document["device"] == "cuda"
    assert document["hardware"]["gpu"]["name"] == torch.cuda.get_device_name(0)
    assert document["hardware"]["gpu"]["count"] == 1
    assert results.hardware("nsa-window", tmp_path).startswith(
        f"one {torch.cuda.get_device_name(0)}, PyTorch "
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 0}, "schema: got 0, expected 1; measure again with 'minisys bench nsa'"),
        ({"schema": 2}, "schema: got 2, expected 1; update minisys"),
        ({"schema": ...}, "schema: got None, expected 1"),
        ({"versions": ...}, "got no versions, expected the fields schema, name"),
        ({"name": "other"}, "name: got 'other', expected 'nsa-window'"),
        ({"results": [1]}, r"results: got \[1\], expected a mapping"),
        ({"hardware": "a laptop"}, "hardware: got 'a laptop', expected a mapping with cpu and gpu"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=message):
        results.load("nsa-window", folder)


def test_a_truncated_file_is_refused(folder):
    path = folder / "nsa-window.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match=r"nsa-window.json: got no JSON at line"):
        results.load("nsa-window", folder)


def test_a_missing_file_is_named_with_near_ones(folder):
    with pytest.raises(
        ValueError, match=r"name: got 'nsa-windows', expected a result file in .*: nsa-window$"
    ):
        results.load("nsa-windows", folder)
    with pytest.raises(ValueError, match="there is none"):
        results.load("nsa-windows", folder / "empty")


def test_the_commit_and_uncommitted_changes_are_recorded(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.delenv("MINISYS_COMMIT", raising=False)
    assert results._commit() == (None, None)  # no repository
    monkeypatch.setenv("MINISYS_COMMIT", "abc")
    assert results._commit() == ("abc", None)
    git("init")
    assert results._commit() == ("abc", None)  # no commit yet: git cannot answer
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", "code.py")
    git("commit", "-m", "first")
    commit, dirty = results._commit()
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "new.json").write_text("{}")
    assert results._commit() == (commit, False)
    (tmp_path / "code.py").write_text("a = 2\n")
    assert results._commit() == (commit, True)


def test_data_is_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    package = tmp_path / "minisys"
    monkeypatch.setattr(paths, "_PACKAGE", package)
    assert paths.checkout() is None
    assert paths.claims_file() == package / "_data" / "claims.yml"
    assert paths.results_directory() == package / "_data" / "results"
    with pytest.raises(ValueError, match="directory: got None, expected a folder: only a source"):
        results.save("nsa-window", PAYLOAD, "run")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "book").mkdir()
    assert paths.checkout() == tmp_path
    assert paths.claims_file() == tmp_path / "book" / "claims.yml"
    assert paths.results_directory() == tmp_path / "benchmarks" / "results"
    assert (
        results.save("nsa-window", PAYLOAD, "run") == tmp_path / "benchmarks" / "results" / "nsa-window.json"
    )


# --- rows and series for figures --------------------------------------------------------------------------

ROWS = {
    "a-16": {"case": "a", "t": 16, "median_ms": 2.0},
    "a-8": {"case": "a", "t": 8, "median_ms": 1.0},
    "a-32": {"case": "a", "t": 32, "reason": "out of memory"},
    "b-8": {"case": "b", "t": 8, "median_ms": 4.0},
}


@pytest.fixture(params=["mapping", "list"])
def measured(tmp_path, request):
    """A result file with rows by key, and one with a list of rows as older commands write it."""
    rows = ROWS if request.param == "mapping" else list(ROWS.values())
    results.save("nsa-speed", {"rows": rows}, "minisys bench nsa", tmp_path)
    return tmp_path


def test_rows_come_back_as_a_list_and_can_be_chosen(measured):
    assert results.rows("nsa-speed", measured) == list(ROWS.values())
    assert results.rows("nsa-speed", measured, case="a", t=8) == [ROWS["a-8"]]
    assert results.rows("nsa-speed", measured, case="c") == []


def test_a_series_rises_and_leaves_out_what_was_not_measured(measured):
    assert results.series("nsa-speed", "t", "median_ms", measured, case="a") == ([8, 16], [1.0, 2.0])
    assert results.series("nsa-speed", "t", "median_ms", measured, case="c") == ([], [])


def test_an_unknown_column_is_named_with_those_that_exist(measured):
    columns = "case, t, median_ms, reason"
    with pytest.raises(ValueError, match=f"where: got 'casse', expected a column of nsa-speed: {columns}"):
        results.rows("nsa-speed", measured, casse="a")
    with pytest.raises(ValueError, match=f"y: got 'ms', expected a column of nsa-speed: {columns}"):
        results.series("nsa-speed", "t", "ms", measured, case="a")


def test_a_file_without_rows_is_refused(folder):
    with pytest.raises(ValueError, match="rows of nsa-window: got NoneType, expected a list or a mapping"):
        results.rows("nsa-window", folder)


def test_provenance_is_a_sentence(folder):
    rewrite(folder, commit="0123456789abcdef", dirty=False, created="2026-01-02T03:04:05+00:00")
    where = results.hardware("nsa-window", folder)
    sentence = f"Measured on {where}, with `minisys bench nsa`, 2026-01-02, commit 0123456789ab"
    assert results.provenance("nsa-window", folder) == f"{sentence}."
    rewrite(folder, dirty=True)
    assert results.provenance("nsa-window", folder) == f"{sentence} with uncommitted changes."
    rewrite(folder, commit=None)
    assert results.provenance("nsa-window", folder).endswith("`minisys bench nsa`, 2026-01-02.")


def test_the_target_of_a_run_is_checked_before_it_starts(folder, tmp_path):
    assert results.writable_target("nsa-window", folder) == folder / "nsa-window.json"
    assert results.writable_target("nsa-other", folder / "new" / "deep").parent == folder / "new" / "deep"
    assert not (folder / "new").exists()
    rewrite(folder, schema=0)
    with pytest.raises(ValueError, match="schema: got 0, expected 1; move it away or name another folder"):
        results.writable_target("nsa-window", folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"directory: got the file .*file, expected a folder"):
        results.writable_target("nsa-window", tmp_path / "file" / "below")
