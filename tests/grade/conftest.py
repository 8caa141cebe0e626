"""A toy assignment, and submissions written on the spot."""

import secrets
import shutil
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from minisys.core import paths
from minisys.grade import runner, worker
from minisys.grade.assignment import load_topic

TOY = Path(__file__).parent / "toy"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy as the only assignment there is, in a folder that a test may change."""
    folder = tmp_path / "assignments"
    shutil.copytree(TOY, folder / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "assignments_directory", lambda: folder)
    return load_topic("toy")


@pytest.fixture
def submit(tmp_path):
    """Write a submission; by default one whose `negate` is right and whose `double` has the given body."""

    def write(source, name="submission", file="toy_assignment.py"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(textwrap.dedent(source), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def grade_double(toy, submit, monkeypatch):
    """Grade the part `double` of a submission, and look for processes that it left."""
    mark = secrets.token_hex(16)  # ours, as other tests may be grading at the same time
    monkeypatch.setattr(worker, "secrets", SimpleNamespace(token_hex=lambda size: mark))

    def grade(source, **limits):
        topic = runner.limited(toy, limits.get("seconds"), limits.get("memory_mib"))
        result = runner.grade_part(topic, topic.parts[0], submit(source), seed=1)
        assert marked(mark) == []
        return result

    return grade


def marked(mark):
    """Living processes with that mark in their environment (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found
