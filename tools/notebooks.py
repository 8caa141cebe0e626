"""Write, run and check the notebooks: each notebooks/NAME.py (py:percent) is the source of NAME.ipynb.

    python tools/notebooks.py sync                write NAME.ipynb, keep outputs of unchanged cells
    python tools/notebooks.py execute [NAME.py]   write it, run it in a fresh kernel, store outputs and times
    python tools/notebooks.py execute --changed   only where the source, the package or its data changed
    python tools/notebooks.py check               say what is out of step; exit 1 if anything is

`execute` stores in the notebook's metadata, for the page that lists the runs:
minisys_execution = {seconds, device, versions: {python, torch, triton}, date, inputs}.
"""

import argparse
import ast
import copy
import datetime
import hashlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 300  # seconds, as nbval's in tools/check.py
# What decides a notebook's outputs besides its own source.
INPUTS = ("minisys", "book/claims.yml", "benchmarks/results", "requirements.txt")
# Set by editors; they say nothing about the content.
EDITOR_METADATA = {"collapsed", "scrolled", "execution", "jupyter", "trusted", "editable", "ExecuteTime"}
IGNORED_BY_NBVAL = {"nbval-ignore-output", "nbval-skip"}
MAY_RAISE = {"raises-exception", "nbval-raises-exception"}

# Runs as the last cell, in the notebook's own kernel, and is then taken off again.
PROBE = """
import importlib.metadata, json, platform

def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

_device = str(globals().get("device", "cpu"))
if _device.startswith("cuda"):
    import torch
    _device = torch.cuda.get_device_name(_device)
_versions = {"python": platform.python_version()} | {name: _version(name) for name in ("torch", "triton")}
print(json.dumps({"device": _device, "versions": _versions}))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write, run and check the notebooks.")
    parser.add_argument("action", choices=["sync", "execute", "check"])
    parser.add_argument("sources", nargs="*", type=Path, help="NAME.py files; all if none is named")
    parser.add_argument("--changed", action="store_true", help="execute only what is out of date")
    parser.add_argument("--folder", type=Path, default=ROOT / "notebooks")
    arguments = parser.parse_args(argv)
    sources = [find_source(path, arguments.folder) for path in arguments.sources]

    if arguments.action == "check":
        problems = check_folder(arguments.folder)
        for problem in problems:
            print(problem)
        count = len(list(arguments.folder.glob("*.ipynb")))
        advice = "; `make notebooks` writes and runs them anew" if problems else ""
        print(f"{count} notebooks, {len(problems)} problems{advice}")
        return 1 if problems else 0

    failed = 0
    for source in sources or sorted(arguments.folder.glob("*.py")):
        target = source.with_suffix(".ipynb")
        if arguments.action == "sync":
            save(synced(source, target), target)
            print(f"{target.name}: written from {source.name}")
        elif arguments.changed and is_current(source, target):
            print(f"{target.name}: up to date")
        else:
            failed += not execute(source, target)
    return 1 if failed else 0


def find_source(path: Path, folder: Path) -> Path:
    """The .py that a user named by path, by file name or by the notebook's name."""
    for candidate in (path, folder / path.name):
        if candidate.with_suffix(".py").is_file():
            return candidate.with_suffix(".py")
    raise SystemExit(f"sources: got {path}, expected a .py file of {folder}")


# --- writing and running ----------------------------------------------------------------------------------


def read_source(source: Path) -> NotebookNode:
    """The notebook that a .py describes, without outputs; a cell's id depends on its content only."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5  # the first version whose cells have ids
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        jupytext={"formats": "ipynb,py:percent"},
    )
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


def synced(source: Path, target: Path) -> NotebookNode:
    """The notebook of a .py, with what the existing notebook stores for the cells that are the same."""
    notebook = read_source(source)
    if target.is_file():
        old = nbformat.read(target, as_version=4)
        stored = {cell.id: cell for cell in old.cells if cell.cell_type == "code"}
        for cell in notebook.cells:
            if cell.cell_type == "code" and cell.id in stored:
                cell.outputs = stored[cell.id].outputs
                cell.execution_count = stored[cell.id].execution_count
        if "minisys_execution" in old.metadata:
            notebook.metadata.minisys_execution = old.metadata.minisys_execution
    return notebook


def execute(source: Path, target: Path) -> bool:
    """Run a notebook from top to bottom and store it; on an error print it and leave the old file alone."""
    import nbclient

    # A kernel of the same name that the user installed elsewhere must not take the place of .venv's.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    notebook = read_source(source)
    ran = copy.deepcopy(notebook)
    ran.cells.append(nbformat.v4.new_code_cell(PROBE))
    client = nbclient.NotebookClient(
        ran,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(source.parent)}},
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    start = time.perf_counter()
    try:
        client.execute()
    except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
        print(f"{source.name}: {error}", file=sys.stderr)
        return False
    seconds = time.perf_counter() - start
    machine = json.loads(ran.cells.pop().outputs[0].text)
    for cell, executed in zip(notebook.cells, ran.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = lasting(executed.outputs), executed.execution_count
    leaked = paths_in_outputs(notebook)
    if leaked:
        print(f"{source.name}: its outputs name a path of this machine, {leaked[0]}", file=sys.stderr)
        return False
    notebook.metadata.minisys_execution = {
        "seconds": round(seconds, 1),
        **machine,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "inputs": inputs_digest(source),
    }
    save(notebook, target)
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    print(f"{target.name}: {code} code cells in {seconds:.1f} s on {machine['device']}", flush=True)
    return True


def lasting(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs without what ends with the kernel: the number of a live widget that also stores its HTML."""
    for output in outputs:
        if "text/html" in output.get("data", {}):
            output.data.pop("application/vnd.jupyter.widget-view+json", None)
    return outputs


def paths_in_outputs(notebook: NotebookNode) -> list[str]:
    outputs = json.dumps([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    return [str(path) for path in (ROOT, Path(sys.prefix), Path.home()) if str(path) in outputs]


def save(notebook: NotebookNode, target: Path) -> None:
    from minisys.core.files import write_atomic

    nbformat.validate(notebook)
    write_atomic(target, (nbformat.writes(notebook) + "\n").encode())


def inputs_digest(source: Path) -> str:
    """A digest of all that a notebook's outputs depend on in this repository."""
    digest = hashlib.sha256(source.read_bytes())
    for name in INPUTS:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def is_current(source: Path, target: Path) -> bool:
    if not target.is_file():
        return False
    stored = nbformat.read(target, as_version=4).metadata.get("minisys_execution", {})
    return stored.get("inputs") == inputs_digest(source)


# --- checking ---------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> list[str]:
    """Every way in which the notebooks of a folder and their sources are out of step, a line each."""
    problems = []
    for name in sorted({path.stem for suffix in ("*.py", "*.ipynb") for path in folder.glob(suffix)}):
        source, target = folder / f"{name}.py", folder / f"{name}.ipynb"
        if not source.is_file():
            problems.append(f"{target.name}: has no {source.name}, which is its source")
        elif not target.is_file():
            problems.append(f"{source.name}: has no {target.name}")
        else:
            problems += check_pair(source, target)
    return problems


def check_pair(source: Path, target: Path) -> list[str]:
    try:
        ast.parse(source.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return [f"{source.name}:{error.lineno}: is no valid Python: {error.msg}"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nbformat mends some broken notebooks with a warning
            notebook = nbformat.read(target, as_version=4)
            nbformat.validate(notebook)
    except Exception as error:  # its reader raises many kinds
        return [f"{target.name}: cannot be read: {error}"]
    problems = compare(read_source(source).cells, notebook.cells, source.name)
    problems += [problem for cell in notebook.cells for problem in check_cell(cell)]
    counts = [cell.execution_count for cell in notebook.cells if is_run(cell) and cell.execution_count]
    if counts != list(range(1, len(counts) + 1)):
        problems.append("was not run from top to bottom in one go")
    if set(notebook.metadata.get("minisys_execution", {})) < {"seconds", "device", "versions", "date"}:
        problems.append("its metadata do not say how it was executed")
    return [f"{target.name}: {problem}" for problem in problems]


def compare(wanted: list[NotebookNode], found: list[NotebookNode], source_name: str) -> list[str]:
    """The first difference between the cells of a source and of its notebook."""
    for number, (want, have) in enumerate(zip(wanted, found, strict=False), start=1):
        for field, of in (("kind", kind), ("source", text), ("tags", tags), ("metadata", own_metadata)):
            if of(want) != of(have):
                return [f"cell {number} differs from {source_name} in its {field} ({first_line(want)})"]
    if len(wanted) != len(found):
        return [f"has {len(found)} cells, {source_name} has {len(wanted)}"]
    return []


def kind(cell: NotebookNode) -> str:
    return cell.cell_type


def text(cell: NotebookNode) -> str:
    return cell.source


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def own_metadata(cell: NotebookNode) -> dict:
    return {name: value for name, value in cell.metadata.items() if name not in EDITOR_METADATA | {"tags"}}


def first_line(cell: NotebookNode) -> str:
    return cell.source.strip().split("\n")[0][:60]


def is_run(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def check_cell(cell: NotebookNode) -> list[str]:
    """What is wrong with a code cell's stored outputs.

    nbval runs a cell that has no execution count but does not compare it, so each cell must have been run.
    A cell that shows something must also store it: a print at its top level, or a value as its last line.
    """
    if not is_run(cell):
        return []
    where = f"the cell `{first_line(cell)}`"
    if cell.execution_count is None:
        return [f"{where} was not executed"]
    problems = []
    if "NBVAL_" in cell.source:
        problems.append(f"{where} steers nbval by a comment; use a tag")
    compared = not tags(cell) & IGNORED_BY_NBVAL
    if compared and not cell.outputs and shows_something(cell.source):
        problems.append(f"{where} shows something and stores no output")
    if compared and cell.source.rstrip().endswith(";"):
        problems.append(f"{where} ends in a semicolon, which hides nothing from nbval; assign the value")
    for output in cell.outputs:
        if output.output_type == "error" and not tags(cell) & MAY_RAISE:
            problems.append(f"{where} stores the error {output.ename}")
        if output.output_type == "stream" and output.name == "stderr" and compared:
            problems.append(f"{where} stores a warning or other text of stderr")
    if any("image/png" in output.get("data", {}) for output in cell.outputs):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if not alt.strip():
            problems.append(f'{where} draws without alt text: # %% mystnb={{"image": {{"alt": "…"}}}}')
    return problems


def shows_something(code: str) -> bool:
    """Whether a cell surely shows something: it prints at its top level, or ends in a plain value."""
    try:
        statements = ast.parse(code).body
    except SyntaxError:  # a magic: nothing is sure
        return False
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            function = statement.value.func
            if isinstance(function, ast.Name) and function.id in ("print", "display"):
                return True
    last = statements[-1] if statements else None
    # A call may well give None, which shows nothing.
    return isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call | ast.Await)


if __name__ == "__main__":
    sys.exit(main())
