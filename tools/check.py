"""Run the checks of the repository one after another; say what failed and what each took.

    python tools/check.py                 every step
    python tools/check.py lint unit       these steps
    python tools/check.py --list          their names

A step that fails does not hide the others. Run by ``make test`` with the Python of .venv.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


class StepSkipped(Exception):  # noqa: N818 (it is no error)
    """The step cannot run here; its reason is printed and it counts as skipped."""


def lint() -> bool:
    """ruff: errors and format; types; spelling and links"""
    return all(
        [
            run(PYTHON, "-m", "ruff", "check", "."),
            run(PYTHON, "-m", "ruff", "format", "--check", "."),
            run(PYTHON, "-m", "mypy", "--config-file", "tools/mypy.ini"),
            run(PYTHON, "tools/prose.py"),
        ]
    )


def notebooks() -> bool:
    """notebooks and their .py in step, every checked cell with its output"""
    return run(PYTHON, "tools/notebooks.py", "check")


def claims() -> bool:
    """the claims ledger fits its schema and its evidence exists"""
    return run(PYTHON, "-c", "from minisys.cli import app; app()", "claims", "--check")


def unit() -> bool:
    """unit tests"""
    return pytest("tests", "-m", "not book", "--dist", "worksteal", workers=cores())


def nbval() -> bool:
    """every notebook runs and gives its stored outputs"""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.ipynb"))
    if not files:
        say("notebooks/ holds no notebook; `make notebooks` writes them")
        return False
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300"]
    options += ["--nbval-sanitize-with", "tools/nbval_sanitize.cfg", "--dist", "loadfile"]
    return pytest(*options, *files, workers=min(cores(), len(files)))


def book() -> bool:
    """strict build of the book from nothing"""
    # Sphinx warns about a page only when it reads it: pages kept from a former build would hide warnings.
    for name in ("_build/.doctrees", "_build/html", "book/api/generated"):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    return run(Path(PYTHON).with_name("jb"), "build", "-n", "-W", "--keep-going", ".")


def browser() -> bool:
    """every page and explorable of the built book in Chromium"""
    if not any(shutil.which(name) for name in CHROMIUM_NAMES):
        if IN_CI:
            say("no Chromium found, and CI requires it")
            return False
        raise StepSkipped("no Chromium found; install the system's package `chromium` to run it")
    return pytest("tests/book", "-m", "book", "--dist", "worksteal", workers=cores())


STEPS = [lint, notebooks, claims, unit, nbval, book, browser]


def main() -> int:
    names = [step.__name__ for step in STEPS]
    parser = argparse.ArgumentParser(description="Run the repository's checks.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(names)}; none means all")
    parser.add_argument("--list", action="store_true", help="print the steps and end")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.steps if name not in names]
    if unknown:
        parser.error(f"steps: got {' '.join(unknown)}, expected some of {' '.join(names)}")
    chosen = [step for step in STEPS if not arguments.steps or step.__name__ in arguments.steps]
    if arguments.list:
        print("\n".join(f"{step.__name__:<10} {step.__doc__}" for step in STEPS))
        return 0

    rows = []
    for step in chosen:
        say(f"\n== {step.__name__}: {step.__doc__}")
        start = time.perf_counter()
        note = ""
        try:
            outcome = "passed" if step() else "failed"
        except StepSkipped as reason:
            outcome, note = "skipped", str(reason)
        seconds = time.perf_counter() - start
        rows.append((step.__name__, outcome, seconds, note))
        say(f"== {step.__name__}: {outcome} in {seconds:.1f} s" + (f" ({note})" if note else ""))

    say(f"\n{'step':<10} {'result':<8} {'seconds':>8}")
    for name, outcome, seconds, note in rows:
        say(f"{name:<10} {outcome:<8} {seconds:8.1f}" + (f"  {note}" if note else ""))
    say(f"{'all':<10} {'':<8} {sum(row[2] for row in rows):8.1f}\n")
    count = {word: sum(row[1] == word for row in rows) for word in ("passed", "failed", "skipped")}
    say(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


def run(*command: object, threads: int | None = None) -> bool:
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL).returncode == 0
    except OSError as error:
        say(f"cannot run {words[0]}: {error.strerror}")
        return False


def pytest(*arguments: str, workers: int) -> bool:
    """Run pytest on that many processes, which share the cores between them."""
    parallel = ["-n", str(workers)] if workers > 1 else ["-n", "0"]
    return run(PYTHON, "-m", "pytest", *parallel, *arguments, threads=max(1, cores() // workers))


def cores() -> int:
    return min(4, os.cpu_count() or 1)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
