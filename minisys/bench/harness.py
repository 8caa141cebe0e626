"""One benchmark run: check, measure the ceilings, time every case, write one result file.

A topic module describes its run as a `Plan`: a check against float64 and a list of `Case`; `run_plan` does
the rest. What a run promises:

- It checks first. A wrong result of our own code ends it with `WrongResult`, and no file is written or left.
- A row that cannot be measured (out of memory, a library that is missing, fails or is wrong) becomes a row
  that says why, and the run goes on.
- Each measured row is kept in ``NAME.rows.partial`` beside the result file. A run that was stopped goes on
  from there, if it is the same command on the same machine with the same code and versions.
- With its time used up it starts no further row, says so in those rows, and keeps the partial file, so that
  the same command measures the rest.
"""

import gc
import hashlib
import secrets
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from minisys.bench import results
from minisys.bench.ceilings import measure_ceilings
from minisys.bench.table import line, matrix, rate
from minisys.bench.timing import Timing, count_sets, measure
from minisys.core.checks import check
from minisys.core.files import read_json, write_json

PACKAGE = Path(__file__).resolve().parents[1]
LEAST_CALLS = 8  # calls that even the slowest row takes, warm-up included


class WrongResult(ValueError):  # noqa: N818 (it names what happened)
    """Code of this package gave a result that its arithmetic does not explain."""


class Unavailable(Exception):  # noqa: N818
    """A case cannot run here; the message says why."""


@dataclass(frozen=True)
class Built:
    """What `Case.build` makes.

    Args:
        run: the timed function, of one input set or of what `prepare` made of it.
        prepare: the untimed step before each call, if there is one.
        verify: relative error on an input set; raises `WrongResult`.
        context: makes a context that is entered once around all calls, for example to choose a backend.
        steps: how often one call does what the row is about; times are divided by it.
        note: what only `build` could find out, in place of the case's note.
    """

    run: Callable
    prepare: Callable | None = None
    verify: Callable[[dict], float] | None = None
    context: Callable | None = None
    steps: int = 1
    note: str | None = None


@dataclass(frozen=True)
class Case:
    """One row of a benchmark.

    Args:
        name: what is measured, for example ``sdpa-flash``.
        t: size, in tokens.
        direction: ``forward``, ``backward`` or ``decode``.
        build: makes the functions. May raise `Unavailable`, for example where a length is not tried.
        draw: makes a fresh random input set from a generator on the device.
        flops, bytes: what one call computes, and the least it must move.
        ours: whether it is this package's code, so that a wrong result ends the run.
        note: what else a reader should know of the row.
    """

    name: str
    t: int
    direction: str
    build: Callable[[], Built]
    draw: Callable[[torch.Generator], dict]
    flops: int
    bytes: int
    ours: bool = False
    note: str | None = None

    @property
    def key(self) -> str:
        return f"{self.name}-{self.t}-{self.direction}"


@dataclass(frozen=True)
class Plan:
    """What a topic measures.

    Args:
        name: of the result file.
        baseline: name of the cases that others are compared with (`times_baseline`).
        about: what holds for all rows, for the result file: sizes, settings, what is counted.
        check: raises `WrongResult`, or returns relative errors by name.
        cases: in the order of the table; small ones run first.
        missing: name of what cannot run here at all, and why.
        seconds: how long each row is timed.
    """

    name: str
    baseline: str
    about: dict
    check: Callable[[], dict]
    cases: list[Case]
    missing: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.5


def say(text: str) -> None:
    """Print at once: a run that is stopped has shown what it measured."""
    print(text, flush=True)


def run_plan(
    plan: Plan,
    command: str,
    *,
    device: str,
    quick: bool = False,
    out: Path | None = None,
    minutes: float = 8.0,
    echo: Callable[[str], object] = say,
    now: Callable[[], float] = time.monotonic,
) -> tuple[Path, list[dict]]:
    """Run `plan` and write its result file into the folder `out`.

    Returns the file, and its rows of our own code that failed (not: ran out of memory or time).

    Raises:
        WrongResult: a check failed.
        ValueError: `out` is a file, or holds a file of the plan's name that may not be replaced.
    """
    target = results.writable_target(plan.name, out)
    partial = target.with_name(f"{plan.name}.rows.partial")
    run = {"command": command, "source": source_hash(), "machine": _machine(device)}
    rows, late = _resumable(partial, run, echo), {}
    kept, started = len(rows), now()
    try:
        errors, ceilings = _check_and_ceilings(plan, device, quick)
        for name, error in errors.items():
            echo(f"checked {name}: relative error {error:.1e}")
        echo(
            f"ceilings: copy {rate(ceilings['copy_tb_per_s'], 'B/s')}, "
            f"{ceilings['matmul_dtype']} matrix product {rate(ceilings['matmul_tflops_per_s'], 'FLOP/s')}"
        )
        for case in sorted(plan.cases, key=lambda case: case.t):
            if case.key in rows:
                continue
            reason = _out_of_time(case, rows, minutes, now() - started)
            if reason is not None:
                late[case.key] = _row(case, reason=reason)
                continue
            rows[case.key] = measure_case(case, device, plan.seconds)
            write_json(partial, {"schema": results.SCHEMA_VERSION, "run": run, "rows": rows})
            echo(line(_with_shares(rows[case.key], rows, plan.baseline, ceilings)))
    except WrongResult as error:
        partial.unlink(missing_ok=True)
        raise WrongResult(f"{error}; nothing was written") from error
    if kept:
        echo(f"{kept} rows were measured by an earlier run of this command and kept")
    finished = {
        case.key: _with_shares(rows.get(case.key) or late[case.key], rows, plan.baseline, ceilings)
        for case in plan.cases
    }
    finished |= {name: {"case": name, "reason": why} for name, why in plan.missing.items()}
    payload = {**plan.about, "baseline": plan.baseline, "relative_errors": errors, "ceilings": ceilings}
    path = results.save(plan.name, payload | {"rows": finished}, command, target.parent, device=device)
    echo(matrix(list(finished.values())))
    if late:
        echo(f"the {minutes:g} minutes were used up: the same command measures the {len(late)} rows left")
    else:
        partial.unlink(missing_ok=True)
    echo(f"written: {path}")
    return path, [rows[case.key] for case in plan.cases if case.ours and rows.get(case.key, {}).get("failed")]


def _check_and_ceilings(plan: Plan, device: str, quick: bool) -> tuple[dict, dict]:
    try:
        errors = plan.check()
        _free(device)
        ceilings = measure_ceilings(device, quick=quick, seconds=plan.seconds)
        _free(device)
        return errors, ceilings
    except Exception as error:
        if is_out_of_memory(error):
            got = f"{explain(error)} in the check or the ceilings"
            raise ValueError(f"device: got {got}, expected more free memory; nothing was written") from error
        raise


def measure_case(case: Case, device: str, seconds: float) -> dict:
    """Time one case; where that fails, a row that says why. Raises `WrongResult` for code of ours."""
    reason, failed, begun = None, False, time.perf_counter()
    try:
        row = _timed(case, device, seconds)
        return row | {"wall_s": round(time.perf_counter() - begun, 2)}
    except WrongResult as error:
        if case.ours:
            raise
        reason = f"wrong result: {error}"
    except Unavailable as error:
        reason = str(error)
    except Exception as error:  # whatever a peer does, the run goes on
        reason, failed = explain(error), not is_out_of_memory(error)
    finally:
        _free(device)
    gc.collect()  # an error's traceback holds on to tensors
    _free(device)
    return _row(case, reason=reason) | ({"failed": True} if failed else {})


def _timed(case: Case, device: str, seconds: float) -> dict:
    built = case.build()
    generator = torch.Generator(device).manual_seed(secrets.randbits(63))  # fresh data in every run
    first = case.draw(generator)
    sets = [first] + [case.draw(generator) for _ in range(count_sets(tensor_bytes(first), device) - 1)]
    with nullcontext() if built.context is None else built.context():
        error = None if built.verify is None else built.verify(first)
        if device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        timing = measure(built.run, sets, device, prepare=built.prepare, seconds=seconds)
    extra = None
    if device == "cuda":
        extra = (torch.cuda.max_memory_allocated() - before) / 2**30
    row = _row(case, timing=timing, error=error, extra_gib=extra, input_sets=len(sets), steps=built.steps)
    return row | ({} if built.note is None else {"note": built.note})


def _row(
    case: Case,
    *,
    timing: Timing | None = None,
    error: float | None = None,
    extra_gib: float | None = None,
    input_sets: int | None = None,
    reason: str | None = None,
    steps: int = 1,
) -> dict:
    row = {"case": case.name, "t": case.t, "direction": case.direction, "flops": case.flops}
    row["bytes"] = case.bytes
    if timing is not None:
        ms = 1e3 / steps
        row |= {"median_ms": ms * timing.median, "p10_ms": ms * timing.p10, "p90_ms": ms * timing.p90}
        row |= {"repeats": timing.repeats, "input_sets": input_sets}
    optional = {"extra_gib": extra_gib, "relative_error": error, "note": case.note, "reason": reason}
    return row | {key: value for key, value in optional.items() if value is not None}


def _with_shares(row: dict, rows: dict[str, dict], baseline: str, ceilings: dict) -> dict:
    """The row with its rates, its shares of the ceilings, and how many times the baseline's speed it has."""
    if "median_ms" not in row:
        return row
    seconds = row["median_ms"] / 1e3
    rates = {"tflops_per_s": row["flops"] / seconds / 1e12, "tb_per_s": row["bytes"] / seconds / 1e12}
    shares = {
        "matmul_share": rates["tflops_per_s"] / ceilings["matmul_tflops_per_s"],
        "copy_share": rates["tb_per_s"] / ceilings["copy_tb_per_s"],
    }
    other = rows.get(f"{baseline}-{row['t']}-{row['direction']}", {})
    compared = {"times_baseline": other["median_ms"] / row["median_ms"]} if "median_ms" in other else {}
    return row | rates | shares | compared


def _out_of_time(case: Case, rows: dict[str, dict], minutes: float, spent: float) -> str | None:
    """Why `case` is not started any more, or None. Its time is guessed from the next smaller size, as t²."""
    smaller = [
        row
        for row in rows.values()
        if (row["case"], row["direction"]) == (case.name, case.direction) and "median_ms" in row
    ]
    expected = 0.0
    if smaller:
        last = max(smaller, key=lambda row: row["t"])
        expected = LEAST_CALLS * last["median_ms"] / 1e3 * (case.t / last["t"]) ** 2
    if spent + expected <= 60 * minutes:
        return None
    return f"not measured: it did not fit into the {minutes:g} minutes of this run"


def explain(error: Exception) -> str:
    """An error in one line, for a row."""
    first = next((text.strip() for text in str(error).splitlines() if text.strip()), "")
    first = first if len(first) <= 160 else f"{first[:160]} …"
    if is_out_of_memory(error):
        return f"out of memory: {first}"
    return f"{type(error).__name__}: {first}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU or the host had too little memory."""
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or on_host


def tensor_bytes(inputs: dict) -> int:
    """Bytes of all tensors in an input set, a module's parameters included."""
    tensors: list[torch.Tensor] = []
    for value in inputs.values():
        if isinstance(value, torch.nn.Module):
            tensors += value.parameters()
        elif isinstance(value, torch.Tensor):
            tensors.append(value)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def source_hash() -> str:
    """SHA-256 of the package's Python files: rows that other code measured are not reused."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _machine(device: str) -> dict:
    gpu = torch.cuda.get_device_name(0) if device == "cuda" else None
    return {"gpu": gpu, "threads": torch.get_num_threads(), "versions": results.versions()}


def _resumable(partial: Path, run: dict, echo: Callable[[str], object]) -> dict[str, dict]:
    """Rows that an earlier, stopped run of the same command measured; none if it was another run."""
    if not partial.is_file():
        return {}
    document = read_json(partial)
    ours = isinstance(document, dict) and {"schema", "run", "rows"} <= document.keys()
    check(ours, f"{partial}", "something else", "rows of a stopped run; nothing was overwritten")
    if document["schema"] != results.SCHEMA_VERSION or document["run"] != run:
        echo(f"{partial.name} is of another run (code, versions, machine or command): measuring anew")
        return {}
    rows = document["rows"].items()
    return {key: row for key, row in rows if "failed" not in row}  # what failed is tried again


def _free(device: str) -> None:
    """Give back what PyTorch keeps of the GPU's memory, so that the next row starts with all of it."""
    if device == "cuda":
        torch.cuda.empty_cache()
