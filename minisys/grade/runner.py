"""Grade one submission, or a class of them: find the files, run the parts side by side, add up the points."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minisys.core.checks import check
from minisys.grade.assignment import Part, Topic
from minisys.grade.judge import PartResult, empty_result, judge
from minisys.grade.worker import Ended, Worker

SCHEMA = "minisys.grade/1"


@dataclass
class Report:
    """What came of one submission."""

    topic: str
    submission: str
    seed: int
    parts: list[PartResult]

    @property
    def score(self) -> int:
        return sum(part.points for part in self.parts if not part.bonus)

    @property
    def out_of(self) -> int:
        return sum(part.out_of for part in self.parts if not part.bonus)

    @property
    def bonus(self) -> int:
        return sum(part.points for part in self.parts if part.bonus)

    @property
    def bonus_out_of(self) -> int:
        return sum(part.out_of for part in self.parts if part.bonus)

    @property
    def full(self) -> bool:
        """Whether every part that is no bonus gave its points."""
        return self.score == self.out_of

    def as_json(self) -> dict:
        names = ("topic", "submission", "seed", "score", "out_of", "bonus", "bonus_out_of", "full")
        own = {name: getattr(self, name) for name in names}
        return {"schema": SCHEMA, **own, "parts": [asdict(part) for part in self.parts]}


def grade_submission(
    topic: Topic, folder: Path, *, seed: int, jobs: int, parts: Sequence[Part] = ()
) -> Report:
    """Grade one folder. Raises ValueError where it is none, or has not one of the asked files."""
    check(folder.is_dir(), "submission", f"no folder {folder}", "a folder with the submitted files")
    found = [name for name in topic.files if find_file(folder, name)[0] is not None]
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    check(bool(found), "submission", f"{folder}, which holds {inside}", " or ".join(topic.files))
    (report,) = grade_folders(topic, [folder], seed=seed, jobs=jobs, parts=parts)
    return report


def grade_class(
    topic: Topic, folder: Path, *, seed: int, jobs: int, parts: Sequence[Part] = (),
    progress: Callable[[Report], None] = lambda report: None,
) -> tuple[list[Report], list[str]]:  # fmt: skip
    """Grade every folder in `folder`; returns the reports and the names of entries that are no folders.

    Raises ValueError where `folder` is none or has no folder in it.
    """
    check(folder.is_dir(), "all", f"no folder {folder}", "a folder with a folder for each submission")
    entries = sorted(folder.iterdir())
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    skipped = [readable(entry) for entry in entries if entry not in folders]
    check(bool(folders), "all", f"{folder} without a folder in it", "a folder for each submission")
    reports = grade_folders(topic, folders, seed=seed, jobs=jobs, parts=parts, progress=progress)
    return reports, skipped


def grade_folders(
    topic: Topic, folders: Sequence[Path], *, seed: int, jobs: int, parts: Sequence[Part] = (),
    progress: Callable[[Report], None] = lambda report: None,
) -> list[Report]:  # fmt: skip
    """A report for each folder, in their order; `jobs` parts run at a time, each in a process of its own.

    All get the same seed, so that all are asked the same.
    """
    check(jobs >= 1, "jobs", jobs, "at least 1")
    parts = parts or topic.parts
    reports = []
    pool = ThreadPoolExecutor(jobs)
    try:
        running = [
            [pool.submit(grade_part, topic, part, folder, seed) for part in parts] for folder in folders
        ]
        for folder, futures in zip(folders, running, strict=True):
            results = [future.result() for future in futures]
            reports.append(Report(topic.name, readable(folder.resolve()), seed, results))
            progress(reports[-1])
    finally:  # after Ctrl-C nothing new is begun
        pool.shutdown(cancel_futures=True)
    return reports


def grade_part(topic: Topic, part: Part, folder: Path, seed: int) -> PartResult:
    """One part of one submission, in a process of its own."""
    absent = [name for name in part.needs if importlib.util.find_spec(name) is None]
    if absent:
        return empty_result(part, "skipped", f"It needs {', '.join(absent)}, which is not installed here.")
    try:
        file, note = find_file(folder, part.file)
        if file is None:
            return empty_result(part, "missing", note)
        with Worker(topic, part, folder) as worker:
            result = judge(worker, topic, part, str(file), seed)
    except Ended as end:  # while it started
        return empty_result(part, "error", end.says)
    except Exception as error:  # a folder that cannot be read, a fault of ours: the rest of the class goes on
        return empty_result(part, "error", f"The grader failed with {type(error).__name__}: {error}")
    result.notes += [*filter(None, [note]), *worker.notes]
    if worker.left_behind:
        count = worker.left_behind
        result.notes.append(f"It left {count} {'process' if count == 1 else 'processes'} running, now ended.")
    result.printed = bytes(worker.printed).decode("utf-8", "replace")
    result.printed_bytes = worker.printed_bytes
    return result


def find_file(folder: Path, name: str) -> tuple[Path | None, str]:
    """The submitted file, and a note.

    Where `name` is missing, the one file that has it in its own name will do: learning platforms put the
    student's name in front.
    """
    if (folder / name).is_file():
        return (folder / name).resolve(), ""
    stem = Path(name).stem
    others = sorted(path for path in folder.glob("*.py") if stem in path.name and path.is_file())
    if len(others) == 1:
        return others[0].resolve(), f"{readable(others[0])} was taken for {name}."
    if others:
        return None, f"{name} is not there, and {len(others)} files have names like it."
    return None, f"{name} is not there."


def limited(topic: Topic, seconds: float | None, memory_mib: int | None) -> Topic:
    """The topic with other limits for all parts."""
    if seconds is not None:
        check(seconds > 0, "seconds", seconds, "a positive number")
        topic = replace(topic, parts=[replace(part, seconds=seconds) for part in topic.parts])
    if memory_mib is not None:
        check(memory_mib > 0, "memory", memory_mib, "a positive number of MiB")
        topic = replace(topic, parts=[replace(part, memory_mib=memory_mib) for part in topic.parts])
    return topic


def readable(path: Path) -> str:
    """The last part of a path as text that can be written anywhere."""
    return os.fsencode(path.name).decode("utf-8", "replace")
