"""Result files: what a measuring command found, with the machine, the versions and the commit it ran on.

Every number in the book comes from such a file. One run of one command writes one file,
``benchmarks/results/NAME.json``, with `save`; a chapter, a figure or the claims ledger reads it back with
`value` (a number), `rows` and `series` (what a figure draws), and says where it was measured with `hardware`
or `provenance`::

    {"schema": 1, "name": …, "created": …, "command": …, "device": "cpu" or "cuda",
     "hardware": {"cpu": {…}, "gpu": {…} or null}, "driver": …, "versions": {…},
     "commit": …, "dirty": …, "results": {… what the command measured …}}
"""

import difflib
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import minisys
from minisys.core import paths
from minisys.core.checks import check, check_choice
from minisys.core.files import read_json, write_json

SCHEMA_VERSION = 1
FIELDS = ("schema", "name", "created", "command", "device", "hardware", "driver", "versions", "commit",
          "dirty", "results")  # fmt: skip
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def save(
    name: str,
    payload: dict,
    command: str,
    directory: str | Path | None = None,
    *,
    device: object = "cpu",
    device_count: int = 1,
) -> Path:
    """Write ``directory/name.json`` with `payload` under "results" and where it comes from beside it.

    name: lower-case letters, digits, ``-`` and ``_``; topic first, for example ``nsa-window``.
    payload: mappings with string keys, lists, strings, booleans, None, finite numbers; units go into keys.
    command: what a reader types to measure again.
    directory: by default the checkout's ``benchmarks/results``.
    device: what was measured on, ``"cpu"`` or ``"cuda"`` (or a torch.device); device_count: how many of them.

    Returns the path. Raises ValueError, before anything is written, for a bad argument and where the path
    holds something other than a result file of the same name.
    """
    _check_name(name)
    check(isinstance(payload, dict) and len(payload) > 0, "payload", repr(payload), "a mapping with results")
    problem = next(_problems(payload, ""), None)
    check(problem is None, "payload", problem, "only JSON types, finite numbers and keys without a dot")
    has_command = isinstance(command, str) and command.strip() != ""
    check(has_command, "command", repr(command), "the command that measures this again")
    device_type = str(device).split(":")[0]
    check_choice("device", device_type, ("cpu", "cuda"))
    valid_count = isinstance(device_count, int) and device_count > 0
    check(valid_count, "device_count", repr(device_count), "a positive integer")
    folder = _writable_directory(directory)
    path = folder / f"{name}.json"
    if path.exists():
        _check_replaceable(path, name)

    commit, dirty = _commit()
    document = {
        "schema": SCHEMA_VERSION,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "device": device_type,
        "hardware": {"cpu": _cpu(), "gpu": _gpu(device_count) if device_type == "cuda" else None},
        "driver": _driver() if device_type == "cuda" else None,
        "versions": versions(),
        "commit": commit,
        "dirty": dirty,
        "results": payload,
    }
    write_json(path, document)
    return path


def names(directory: str | Path | None = None) -> list[str]:
    """Names of the result files in `directory`, sorted."""
    return sorted(path.stem for path in _directory(directory).glob("*.json"))


def load(name: str, directory: str | Path | None = None) -> dict:
    """The whole result file `name`: provenance, and what was measured under "results".

    Raises ValueError for a file that is missing, no JSON, of another schema version, or lacks a field.
    """
    _check_name(name)
    path = _directory(directory) / f"{name}.json"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(directory), n=3) or names(directory)
        raise ValueError(f"name: got {name!r}, expected a result file in {path.parent}: {_listing(near)}")
    document = _read(path)
    schema = document.get("schema")
    if schema != SCHEMA_VERSION:
        remedy = f"measure again with {document.get('command', 'its command')!r}"
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            remedy = "update minisys"
        raise ValueError(f"{path}: schema: got {schema!r}, expected {SCHEMA_VERSION}; {remedy}")
    missing = [field for field in FIELDS if field not in document]
    check(not missing, f"{path}", f"no {', '.join(missing)}", f"the fields {', '.join(FIELDS)}")
    check(document["name"] == name, f"{path}: name", repr(document["name"]), repr(name))
    check(isinstance(document["results"], dict), f"{path}: results", repr(document["results"]), "a mapping")
    machine = document["hardware"]
    known = isinstance(machine, dict) and {"cpu", "gpu"} <= machine.keys()
    check(known, f"{path}: hardware", repr(machine), "a mapping with cpu and gpu")
    return document


def value(name: str, path: str, directory: str | Path | None = None) -> object:
    """What result file `name` holds at the dotted `path` below "results", for example ``"forward_ms.0"``.

    Raises ValueError that names the step that does not exist and what exists there.
    """
    here = load(name, directory)["results"]
    check(isinstance(path, str) and path != "", "path", repr(path), "a dotted path such as 'forward_ms.0'")
    done: list[str] = []
    for step in path.split("."):
        place = f"'{'.'.join(done)}' of {name}" if done else name
        if isinstance(here, dict):
            check(step in here, f"path {path!r}", repr(step), f"in {place} one of: {_listing(here)}")
            here = here[step]
        elif isinstance(here, list):
            index = int(step) if step.isdecimal() else -1
            there = f"a position from 0 to {len(here) - 1}" if here else "nothing, for it is empty"
            check(0 <= index < len(here), f"path {path!r}", repr(step), f"in {place} {there}")
            here = here[index]
        else:
            expected = f"nothing after {place}, which holds {here!r}"
            raise ValueError(f"path {path!r}: got {step!r}, expected {expected}")
        done.append(step)
    return here


def hardware(name: str, directory: str | Path | None = None) -> str:
    """Where `name` was measured, in a phrase: ``one NVIDIA H100 80GB HBM3, PyTorch 2.11.0, Triton 3.6.0``."""
    document = load(name, directory)
    cpu, gpu, found = document["hardware"]["cpu"], document["hardware"]["gpu"], document["versions"]
    torch_version = f"PyTorch {found['torch'].split('+')[0]}"
    if gpu is None:
        count = cpu["cores"]
        return f"{_count(count)} {'core' if count == 1 else 'cores'} of {cpu['model']}, {torch_version}"
    triton = f", Triton {found['triton']}" if found["triton"] else ""
    return f"{_count(gpu['count'])} {gpu['name']}, {torch_version}{triton}"


def provenance(name: str, directory: str | Path | None = None) -> str:
    """A sentence for below a figure: hardware and versions, the command, the day and the commit."""
    document = load(name, directory)
    commit = f", commit {document['commit'][:12]}" if document["commit"] else ""
    if commit and document["dirty"]:
        commit += " with uncommitted changes"
    day = document["created"][:10]
    return f"Measured on {hardware(name, directory)}, with `{document['command']}`, {day}{commit}."


def rows(name: str, directory: str | Path | None = None, **where: object) -> list[dict]:
    """The rows of result file `name`, as a list of mappings; with `where`, those that have these values.

    ``rows("nsa-speed-gpu", direction="forward", t=65536)``. Rows that could not be measured are among them:
    they have a ``reason`` and no ``median_ms``.

    Raises ValueError for a file without rows, and for a column that no row has.
    """
    held = load(name, directory)["results"].get("rows")
    found = list(held.values()) if isinstance(held, dict) else held
    table = isinstance(found, list) and all(isinstance(row, dict) for row in found)
    check(table, f"rows of {name}", type(held).__name__, "a list or a mapping of rows")
    columns = _columns(found)
    for column in where:
        check(column in columns, "where", repr(column), f"a column of {name}: {_listing(columns)}")
    return [row for row in found if all(key in row and row[key] == got for key, got in where.items())]


def series(
    name: str, x: str, y: str, directory: str | Path | None = None, **where: object
) -> tuple[list, list]:
    """What a line of a figure draws: columns `x` and `y` of `rows`, by rising x, without rows that lack one.

    ``series("nsa-speed-gpu", "t", "median_ms", case="sdpa-flash", direction="forward")``. Raises as `rows`.
    """
    found, columns = rows(name, directory, **where), _columns(rows(name, directory))
    for column, argument in ((x, "x"), (y, "y")):
        check(column in columns, argument, repr(column), f"a column of {name}: {_listing(columns)}")
    points = sorted((row[x], row[y]) for row in found if row.get(x) is not None and row.get(y) is not None)
    return [point[0] for point in points], [point[1] for point in points]


def writable_target(name: str, directory: str | Path | None = None) -> Path:
    """Where `save` will put `name`, checked before anything is measured.

    Stricter than `save`, which replaces a file of an older schema: a long run shall not end by replacing
    numbers that this version cannot read, and so cannot show beside the new ones.

    Raises ValueError where the folder is a file or the path holds something other than a result file of that
    name and schema.
    """
    _check_name(name)
    folder = _writable_directory(directory)
    in_the_way = next((part for part in (folder, *folder.parents) if part.exists()), None)
    check(in_the_way is None or in_the_way.is_dir(), "directory", f"the file {in_the_way}", "a folder")
    path = folder / f"{name}.json"
    if path.exists():
        _check_replaceable(path, name)
        schema = _read(path).get("schema")
        expected = f"{SCHEMA_VERSION}; move it away or name another folder; nothing was overwritten"
        check(schema == SCHEMA_VERSION, f"{path}: schema", repr(schema), expected)
    return path


def versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that decide speed and numbers; None for one not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "triton", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"minisys": minisys.__version__}


def _check_name(name: object) -> None:
    valid = isinstance(name, str) and _NAME.fullmatch(name) is not None
    check(valid, "name", repr(name), "lower-case letters and digits joined by - or _")


def _directory(directory: str | Path | None) -> Path:
    return paths.results_directory() if directory is None else Path(directory)


def _writable_directory(directory: str | Path | None) -> Path:
    given = directory is not None or paths.checkout() is not None
    check(given, "directory", "None", "a folder: only a source checkout has a default one to write to")
    return _directory(directory)


def _check_replaceable(path: Path, name: str) -> None:
    """Result files are replaced by newer runs; anything else at `path` is somebody's data and stays."""
    expected = f"a free path or a result file named {name!r}; nothing was written"
    try:
        document = _read(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: got something that is no result file, expected {expected}") from error
    got = repr(document.get("name")) if "schema" in document else "JSON that is no result file"
    check("schema" in document and document.get("name") == name, f"{path}", got, expected)


def _read(path: Path) -> dict:
    document = read_json(path)
    check(isinstance(document, dict), f"{path}", type(document).__name__, "a result file, which is a mapping")
    return document


def _problems(node: object, place: str) -> Iterator[str]:
    """What of `node` cannot go into a result file, each with its dotted place."""
    if isinstance(node, dict):
        for key, child in node.items():
            if not isinstance(key, str) or key == "" or "." in key:
                yield f"key {key!r} in {place or 'the top level'}"
            else:
                yield from _problems(child, f"{place}.{key}" if place else key)
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from _problems(child, f"{place}.{index}")
    elif isinstance(node, float):
        if not math.isfinite(node):
            yield f"{node} at {place}"
    elif node is not None and not isinstance(node, str | bool | int):
        yield f"{type(node).__name__} at {place}"


def _columns(rows_read: list[dict]) -> list[str]:
    return list(dict.fromkeys(column for row in rows_read for column in row))


def _listing(keys: Iterable[object]) -> str:
    shown = [str(key) for key in keys]
    return ", ".join(shown[:20]) + (" …" if len(shown) > 20 else "") if shown else "there is none"


def _count(number: int) -> str:
    return _COUNTS[number] if number < len(_COUNTS) else str(number)


def _cpu() -> dict:
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        model = found[1].strip() if found else model
    # the cores this process may use, which a container limits
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {"model": model, "cores": cores, "threads": torch.get_num_threads(), "memory_gib": memory}


def _gpu(count: int) -> dict:
    import torch

    check(torch.cuda.is_available(), "device", "'cuda'", "'cpu': PyTorch sees no GPU here")
    check(count <= torch.cuda.device_count(), "device_count", count, f"at most {torch.cuda.device_count()}")
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    memory = round(properties.total_memory / 2**30, 1)
    return {"name": properties.name, "count": count, "memory_gib": memory, "capability": capability,
            "cuda": torch.version.cuda}  # fmt: skip


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return (_run(command) or "").split("\n")[0] or None if shutil.which("nvidia-smi") else None


def _commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout and whether files differ from it; None for what is not known.

    A copy without a readable ``.git``, as on a bare GPU machine, can be told the commit by the environment
    variable MINISYS_COMMIT; whether the copy differs from it is then unknown. Git is asked where it answers.
    """
    root = paths.checkout()
    if root is None or not (root / ".git").exists() or shutil.which("git") is None:
        return os.environ.get("MINISYS_COMMIT") or None, None
    commit = _run(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"])
    if not commit:
        return os.environ.get("MINISYS_COMMIT") or None, None
    # result files change with every run: they do not make the measured code another one
    code = ["--", ".", ":(exclude)benchmarks/results"]
    status = _run(["git", "-C", str(root), "status", "--porcelain", *code])
    return commit, None if status is None else status != ""


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
