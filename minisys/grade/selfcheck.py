"""Proof that an assignment can tell right from wrong, by what it holds itself.

The handout is in step with the solution; the solution gets full points in every part; the handout's stub
gets none in any; every planted wrong answer fails its part, and the message names the mistake. All run as in
grading, in a process apart, but one after another in the same one, as nothing here is foreign.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from minisys.core.checks import check
from minisys.grade.assignment import Part, Topic, Wrong
from minisys.grade.judge import PartResult, judge
from minisys.grade.modules import load_module
from minisys.grade.stubs import handout, readme
from minisys.grade.worker import Worker

FEWEST_WRONG = 3


def self_check(topic: Topic, seed: int, say: Callable[[str], None] = lambda line: None) -> list[str]:
    """Every problem in a sentence; none where the assignment is sound. `say` is told what was checked."""
    problems = out_of_step(topic)
    say(f"handout: {len(problems)} files out of step")
    planted = load_module(f"minisys_wrong_{topic.name}", topic.folder / "wrong.py").WRONG
    names = {part.name for part in topic.parts}
    problems += [f"wrong.py: part {one.part!r} is none" for one in planted if one.part not in names]
    for part in topic.parts:
        count = sum(one.part == part.name for one in planted)
        if count < FEWEST_WRONG:
            problems.append(f"{part.name}: {count} wrong answers, expected at least {FEWEST_WRONG}")
    stubs = handout(topic)
    for needs in dict.fromkeys(
        tuple(part.needs) for part in topic.parts
    ):  # one process for each set of modules
        parts = [part for part in topic.parts if tuple(part.needs) == needs]
        if any(importlib.util.find_spec(name) is None for name in needs):
            say(f"{', '.join(part.name for part in parts)}: skipped, as {', '.join(needs)} is not installed")
            continue
        for part, line, found in check_parts(topic, parts, planted, stubs, seed):
            say(f"{part.name}: {line}: {len(found)} problems")
            problems += found
    return problems


def out_of_step(topic: Topic) -> list[str]:
    """Files of the committed handout that differ from what the solution gives."""
    problems = []
    if (topic.folder / "README.md").read_text(encoding="utf-8") != readme(topic):
        problems.append("README.md: its table of parts is not in step with parts.py")
    for name, text in handout(topic).items():
        path = topic.folder / "handout" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            again = f"minisys grade {topic.name} --make-stub {path.parent} --force"
            problems.append(f"handout/{name}: not in step with the solution; write it with {again}")
    return problems


def check_parts(
    topic: Topic, parts: list[Part], planted: list[Wrong], stubs: dict[str, str], seed: int
) -> Iterator[tuple[Part, str, list[str]]]:
    """Solution, stub and wrong answers of each part, in one process."""
    whole = replace(parts[0], seconds=600.0, memory_mib=max(part.memory_mib for part in parts))
    with (
        tempfile.TemporaryDirectory(prefix="minisys-check-") as name,
        Worker(topic, whole, Path(name)) as worker,
    ):
        for part in parts:
            path = Path(name, part.name, part.file)
            path.parent.mkdir()

            def run(source: str, part: Part = part, path: Path = path) -> PartResult:
                path.write_text(source, encoding="utf-8")
                worker.begin(part)
                return judge(worker, topic, part, str(path), seed)

            solution = (topic.folder / "solution" / part.file).read_text(encoding="utf-8")
            wrong = [one for one in planted if one.part == part.name]
            problems = []
            if (result := run(solution)).status != "passed":
                problems.append(f"{part.name}: the solution fails: {told(result)}")
            if (result := run(stubs[part.file])).status != "not written":
                problems.append(f"{part.name}: the stub is {result.status}, expected not written")
            problems += [problem for one in wrong if (problem := unnamed(one, solution, run))]
            yield part, f"solution, stub and {len(wrong)} wrong answers", problems


def unnamed(wrong: Wrong, solution: str, run: Callable[[str], PartResult]) -> str:
    """What is the matter with a planted wrong answer: nothing where it fails and its mistake is named."""
    try:
        source = edited(solution, wrong)
    except ValueError as error:
        return str(error)
    result = run(source)
    planted = f"{wrong.part}: the wrong answer with {wrong.mistake!r}"
    if result.status == "passed":
        return f"{planted} passes"
    named = wrong.mistake == result.mistake or (not result.mistake and wrong.mistake in told(result))
    return "" if named else f"{planted} gives {result.mistake or 'no known mistake'!r}: {told(result)}"


def edited(source: str, wrong: Wrong) -> str:
    """The solution with a wrong answer's edits. Raises ValueError where one does not apply exactly once."""
    for old, new in wrong.edits:
        count = source.count(old)
        check(count == 1, f"wrong.py: {wrong.part} {wrong.mistake}", f"{count} times {old!r}", "exactly once")
        source = source.replace(old, new)
    return source


def told(result: PartResult) -> str:
    """All that the report says, in one line."""
    pieces = [result.says, result.tried, result.came, result.expected, result.more, result.looks_like]
    return " | ".join(piece for piece in pieces if piece)
