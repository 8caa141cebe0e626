"""The command ``minisys grade``; ``python -m minisys.grade`` is the same where typer is not installed."""

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from minisys.core.checks import check
from minisys.grade.assignment import load_topic, topics

FULL, NOT_FULL, USAGE = 0, 1, 2
ABOUT = """Grade an assignment: one folder, a class of folders, or the assignment itself.
A submission runs with your rights: this is no security sandbox (see the page "How to grade")."""


class Arguments(argparse.ArgumentParser):
    """Reports bad arguments as the rest of the course does: a ValueError."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises ValueError for bad ones."""
    parser = Arguments(prog="minisys grade", description=ABOUT)
    parser.add_argument("topic", nargs="?", help="an assignment; without it, they are listed")
    parser.add_argument("--submission", type=Path, metavar="DIR", help="grade this folder")
    parser.add_argument("--all", type=Path, metavar="DIR", help="grade every folder in this one")
    parser.add_argument("--self-check", action="store_true", help="prove that the assignment can tell")
    parser.add_argument("--make-stub", type=Path, metavar="DIR", help="write the handout there")
    parser.add_argument("--force", action="store_true", help="with --make-stub: replace other files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each submission")
    parser.add_argument("--part", action="append", metavar="NAME", help="only this part; may be repeated")
    parser.add_argument("--seed", type=int, help="of the inputs; a fresh one unless given")
    parser.add_argument("--jobs", type=int, metavar="N", help="parts that run at a time; cores, at most 4")
    parser.add_argument("--seconds", type=float, metavar="S", help="time limit of a part")
    parser.add_argument("--memory", type=int, metavar="MIB", help="memory limit of a part (Linux)")
    return parser.parse_args(words)


def run(words: Sequence[str]) -> int:
    """Do what the words say and return the exit status: 0 full score, 1 not full.

    Raises ValueError, before anything is run or written, for bad arguments; that is exit status 2.
    """
    wanted = parse(words)
    if wanted.topic is None:
        print("\n".join(topics()) or "There is no assignment.")
        return FULL
    topic = load_topic(wanted.topic)
    modes = {"--submission": wanted.submission, "--all": wanted.all, "--make-stub": wanted.make_stub,
             "--self-check": wanted.self_check or None}  # fmt: skip
    given = [name for name, value in modes.items() if value is not None]
    check(len(given) == 1, "arguments", " and ".join(given) or "none of them", f"one of {', '.join(modes)}")
    if wanted.make_stub:
        from minisys.grade.stubs import write_handout

        print("\n".join(map(str, write_handout(topic, wanted.make_stub, replace=wanted.force))))
        return FULL
    seed = secrets.randbelow(2**31) if wanted.seed is None else wanted.seed
    check(seed >= 0, "seed", seed, "a whole number of at least 0")
    if wanted.self_check:
        from minisys.grade.selfcheck import self_check

        problems = self_check(topic, seed, print)
        print("\n".join([*problems, f"{len(problems)} problems (seed {seed})."]))
        return NOT_FULL if problems else FULL
    try:
        return grade(topic, wanted, seed)
    except OSError as error:
        raise ValueError(
            f"{error.filename}: got {error.strerror}, expected to read or write there"
        ) from error


def grade(topic, wanted: argparse.Namespace, seed: int) -> int:
    """Grade a folder or a class, show it, and write what was asked for."""
    from minisys.grade import report as out
    from minisys.grade import runner

    for name in ("json", "csv"):
        out.check_output(name, getattr(wanted, name))
    same = (
        wanted.json is not None and wanted.csv is not None and wanted.json.absolute() == wanted.csv.absolute()
    )
    check(not same, "csv", wanted.csv, "another file than --json")
    topic = runner.limited(topic, wanted.seconds, wanted.memory)
    names = [part.name for part in topic.parts]
    for name in wanted.part or ():
        check(name in names, "part", repr(name), f"one of {', '.join(names)}")
    jobs = min(4, os.cpu_count() or 1) if wanted.jobs is None else wanted.jobs
    parts = [part for part in topic.parts if part.name in wanted.part] if wanted.part else []
    skipped = None
    if wanted.submission is not None:
        reports = [
            out.cleaned(runner.grade_submission(topic, wanted.submission, seed=seed, jobs=jobs, parts=parts))
        ]
        out.show(reports[0])
    else:
        tell = lambda report: print(f"{report.submission}: {out.total(out.cleaned(report))}", file=sys.stderr)
        reports, skipped = runner.grade_class(
            topic, wanted.all, seed=seed, jobs=jobs, parts=parts, progress=tell
        )
        reports = [out.cleaned(report) for report in reports]
        out.show_class(reports)
        for name in skipped:
            print(f"{out.clean(name)}: skipped, as it is no folder", file=sys.stderr)
    if wanted.json is not None:
        out.write_reports(wanted.json, reports, skipped)
    if wanted.csv is not None:
        out.write_csv(wanted.csv, reports)
    return FULL if all(report.full for report in reports) else NOT_FULL


def main(words: Sequence[str] | None = None) -> int:
    """`run`, with bad arguments as one line on standard error and exit status 2."""
    try:
        return run(sys.argv[1:] if words is None else words)
    except ValueError as error:
        print(f"minisys: {error}", file=sys.stderr)
        return USAGE
