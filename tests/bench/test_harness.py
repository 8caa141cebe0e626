"""A run: what it checks, keeps, skips and survives, with cases that compute next to nothing."""

import json

import pytest
import torch

from minisys.bench import harness, results
from minisys.bench.harness import Built, Case, Plan, Unavailable, WrongResult, run_plan

CEILINGS = {"copy_tb_per_s": 2.0, "matmul_tflops_per_s": 4.0, "matmul_dtype": "float32"}


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """A run without real time: known ceilings, and each case takes the seconds that its inputs say."""

    def measure(function, sets, device, *, prepare, seconds):
        for inputs in sets:
            function(prepare(inputs) if prepare else inputs)
        one = float(sets[0]["seconds"])
        return harness.Timing(one, 0.9 * one, 1.1 * one, 5)

    monkeypatch.setattr(harness, "measure", measure)
    monkeypatch.setattr(harness, "measure_ceilings", lambda device, **options: CEILINGS)
    monkeypatch.setattr(harness, "count_sets", lambda size, device: 2)


def case(name="fast", t=8, seconds=1e-3, run=lambda inputs: None, *, calls=None, **options):
    """One case; `calls` records the input sets that are drawn."""

    def draw(generator):
        if calls is not None:
            calls.append((name, t))
        return {"seconds": torch.tensor(seconds, dtype=torch.float64)}

    verify = options.pop("verify", None)
    build = options.pop("build", lambda: Built(run, verify=verify))
    return Case(name, t, "forward", build, draw, flops=10**9, bytes=10**6, **options)


def plan(*cases, check=dict, missing=None):
    about = {"sizes": {"hq": 4}}
    return Plan("toy-speed", "fast", about, check, list(cases), missing or {}, seconds=0.01)


def run(a_plan, out, **options):
    said = []
    options = {"device": "cpu", "out": out, "echo": said.append} | options
    path, failed = run_plan(a_plan, "minisys bench toy", **options)
    return json.loads(path.read_text()), failed, "\n".join(said)


def raiser(error):
    def raise_it(_=None):
        raise error

    return raise_it


def test_a_row_has_time_spread_rates_shares_and_the_ratio_to_the_baseline(tmp_path):
    document, failed, said = run(plan(case(seconds=4e-3), case("slow", seconds=8e-3, note="why")), tmp_path)
    rows = document["results"]["rows"]
    assert rows["fast-8-forward"] == {
        "case": "fast", "t": 8, "direction": "forward", "flops": 10**9, "bytes": 10**6,
        "median_ms": 4.0, "p10_ms": pytest.approx(3.6), "p90_ms": pytest.approx(4.4),
        "repeats": 5, "input_sets": 2,
        "tflops_per_s": 0.25, "tb_per_s": 0.00025, "matmul_share": 0.0625, "copy_share": 0.000125,
        "times_baseline": 1.0, "wall_s": rows["fast-8-forward"]["wall_s"],
    }  # fmt: skip
    assert rows["slow-8-forward"]["times_baseline"] == 0.5
    assert rows["slow-8-forward"]["note"] == "why"
    assert document["results"]["ceilings"] == CEILINGS
    assert document["results"]["sizes"] == {"hq": 4}
    assert document["command"] == "minisys bench toy"
    assert failed == []
    assert "fast" in said
    assert [file.name for file in tmp_path.iterdir()] == ["toy-speed.json"]


def test_what_cannot_be_measured_becomes_a_row_with_the_reason(tmp_path):
    gpu = "CUDA out of memory. Tried 9 GiB."
    host = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    cases = [
        case("gpu-memory", run=raiser(torch.OutOfMemoryError(f"{gpu}\nmore")), ours=True),
        case("host-memory", run=raiser(RuntimeError(host)), ours=True),
        case("peer-broken", run=raiser(KeyError("shape"))),
        case("peer-wrong", verify=raiser(WrongResult("peer-wrong: got 1, expected 0"))),
        case("too-long", build=raiser(Unavailable("tried up to t = 4"))),
        case("fast"),
    ]  # fmt: skip
    document, failed, said = run(plan(*cases, missing={"fla": "not installed"}), tmp_path)
    rows = document["results"]["rows"]
    assert {row["case"]: row.get("reason") for row in rows.values()} == {
        "gpu-memory": f"out of memory: {gpu}",
        "host-memory": f"out of memory: {host}",
        "peer-broken": "KeyError: 'shape'",
        "peer-wrong": "wrong result: peer-wrong: got 1, expected 0",
        "too-long": "tried up to t = 4",
        "fast": None,
        "fla": "not installed",
    }
    assert rows["fast-8-forward"]["median_ms"] == 1.0
    assert failed == []  # of our own code, only memory ran out
    for text in ("not measured:", "Tried 9 GiB.", "fla: not installed", "tried up to t = 4"):
        assert text in said, text


def test_a_failure_of_our_own_code_is_reported_and_tried_again(tmp_path):
    broken = case("ours", run=raiser(RuntimeError("a bug")), ours=True)
    _, failed, _ = run(plan(case(), broken), tmp_path)
    assert [(row["case"], row["reason"]) for row in failed] == [("ours", "RuntimeError: a bug")]


@pytest.mark.parametrize("where", ["check", "row"])
def test_a_wrong_result_of_ours_ends_the_run_and_leaves_nothing(tmp_path, where):
    wrong, calls = raiser(WrongResult("ours: got 1, expected 0")), []
    if where == "check":
        a_plan = plan(case(calls=calls), check=wrong)
    else:
        a_plan = plan(case(), case("ours", t=9, verify=wrong, ours=True), case(t=10, calls=calls))
    out = tmp_path / "new"
    with pytest.raises(WrongResult, match="ours: got 1, expected 0; nothing was written"):
        run(a_plan, out)
    assert calls == []
    assert not out.exists() or list(out.iterdir()) == []


def test_too_little_memory_for_the_check_is_one_clear_error(tmp_path):
    full = raiser(torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB."))
    with pytest.raises(ValueError, match=r"device: got out of memory: CUDA .* in the check or the ceilings"):
        run(plan(case(), check=full), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    calls = []
    small, large = case(t=4, calls=calls), case(t=8, calls=calls)
    stopped = case("slow", t=6, run=raiser(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(plan(large, stopped, small), tmp_path)  # by size, whatever the order of the plan
    assert calls == [("fast", 4)] * 2
    assert [file.name for file in tmp_path.iterdir()] == ["toy-speed.rows.partial"]
    calls.clear()
    document, _, said = run(plan(large, case("slow", t=6), small), tmp_path)
    assert calls == [("fast", 8)] * 2
    assert list(document["results"]["rows"]) == ["fast-8-forward", "slow-6-forward", "fast-4-forward"]
    assert "1 rows were measured by an earlier run of this command and kept" in said
    assert [file.name for file in tmp_path.iterdir()] == ["toy-speed.json"]


@pytest.mark.parametrize("change", ["code", "command", "versions"])
def test_rows_of_another_run_are_not_reused(tmp_path, monkeypatch, change):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        run(plan(case(calls=calls), case("slow", t=9, run=raiser(KeyboardInterrupt()))), tmp_path)
    calls.clear()
    if change == "code":
        monkeypatch.setattr(harness, "source_hash", lambda: "other")
    elif change == "versions":
        monkeypatch.setattr(results, "versions", lambda: {"torch": "3.0"})
    else:
        document = json.loads((tmp_path / "toy-speed.rows.partial").read_text())
        document["run"]["command"] = "minisys bench toy --quick"
        (tmp_path / "toy-speed.rows.partial").write_text(json.dumps(document))
    monkeypatch.setattr(results, "save", lambda name, *rest, **options: tmp_path / "partial")
    said = []
    run_plan(plan(case(calls=calls)), "minisys bench toy", device="cpu", out=tmp_path, echo=said.append)
    assert calls == [("fast", 8)] * 2
    assert "is of another run" in said[0]


def test_used_up_time_is_said_and_the_same_command_measures_the_rest(tmp_path):
    clock = iter([0.0, 0.0, 30.0])  # start, before each row
    calls = []
    cases = [case(t=4, seconds=1.0, calls=calls), case(t=8, seconds=4.0, calls=calls)]
    document, _, said = run(plan(*cases), tmp_path, minutes=1.0, now=lambda: next(clock))
    # 8 calls of 4 s, guessed from 1 s at half the length, do not fit into the 30 s that are left
    late = document["results"]["rows"]["fast-8-forward"]
    assert late["reason"] == "not measured: it did not fit into the 1 minutes of this run"
    assert "median_ms" not in late
    assert "the 1 minutes were used up: the same command measures the 1 rows left" in said
    assert calls == [("fast", 4)] * 2
    calls.clear()
    document, _, _ = run(plan(*cases), tmp_path, minutes=1.0)
    assert calls == [("fast", 8)] * 2
    assert document["results"]["rows"]["fast-8-forward"]["median_ms"] == 4000.0
    assert document["results"]["rows"]["fast-4-forward"]["median_ms"] == 1000.0
    assert [file.name for file in tmp_path.iterdir()] == ["toy-speed.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema": 0, "name": "toy-speed"}, "schema: got 0, expected 1; move it away or name another"),
        ({"schema": 1, "name": "other"}, "got 'other', expected a free path or a result file named"),
        ([1], "got something that is no result file"),
    ],
)
def test_a_file_that_may_not_be_replaced_stops_the_run_before_it_measures(tmp_path, content, message):
    path, calls = tmp_path / "toy-speed.json", []
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        run(plan(case(calls=calls)), tmp_path)
    assert json.loads(path.read_text()) == content
    assert calls == []


def test_a_partial_file_of_somebody_else_is_not_overwritten(tmp_path):
    partial = tmp_path / "toy-speed.rows.partial"
    partial.write_text('{"notes": 1}')
    with pytest.raises(ValueError, match="expected rows of a stopped run; nothing was overwritten"):
        run(plan(case()), tmp_path)
    assert partial.read_text() == '{"notes": 1}'


def test_an_out_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "results"
    file.write_text("mine")
    for out in (file, file / "deeper"):
        with pytest.raises(ValueError, match=f"directory: got the file {file}, expected a folder"):
            run(plan(case()), out)
    assert file.read_text() == "mine"


def test_prepare_runs_before_each_call_and_the_context_around_all(tmp_path):
    seen = []

    class Context:
        def __enter__(self):
            seen.append("enter")

        def __exit__(self, *error):
            seen.append("exit")

    def build():
        return Built(
            run=lambda ready: seen.append(f"run {ready}"),
            prepare=lambda inputs: seen.append("prepare") or "ready",
            verify=lambda inputs: seen.append("verify") or 0.25,
            context=Context,
        )

    document, _, _ = run(plan(case(build=build)), tmp_path)
    assert seen == ["enter", "verify", *["prepare", "run ready"] * 2, "exit"]
    assert document["results"]["rows"]["fast-8-forward"]["relative_error"] == 0.25


def test_bytes_of_an_input_set_count_modules_too():
    linear = torch.nn.Linear(3, 2)
    assert harness.tensor_bytes({"x": torch.zeros(5, dtype=torch.bfloat16), "phi": linear}) == 10 + 4 * 8


def test_the_source_hash_depends_on_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "PACKAGE", tmp_path)
    hashes = {harness.source_hash()}
    (tmp_path / "a.py").write_text("a = 1\n")
    hashes.add(harness.source_hash())
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    hashes.add(harness.source_hash())
    (tmp_path / "b.py").write_text("a = 2\n")
    hashes.add(harness.source_hash())
    assert len(hashes) == 4
