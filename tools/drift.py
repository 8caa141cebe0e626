"""List, as Markdown, what is installed in another version than the lock pins.

    python tools/drift.py

The weekly run installs the newest versions inside the ranges of pyproject.toml and puts this list into its
summary, so that a failure can be seen beside what changed.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.txt"


def main() -> int:
    rows = list(drifted(LOCK.read_text(encoding="utf-8")))
    print(f"Packages that differ from the lock: {len(rows)}\n")
    if rows:
        print("| package | locked | installed |\n|---|---|---|")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return 0


def drifted(lock: str) -> Iterator[tuple[str, str, str]]:
    """(package, locked, installed) of each pin; not builds such as +cpu, nor what is absent."""
    for name, locked in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE):
        try:
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:  # of another system
            continue
        if installed != locked:
            yield name, locked, installed


if __name__ == "__main__":
    sys.exit(main())
