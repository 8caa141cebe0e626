"""Right or wrong, and in what words: the cases of one part against what a submission returns.

The right results are computed here, on the grader's side, with the course's own reference; a submission's
process only ever sees the arguments. A wrong result is held against what typical mistakes give, and the first
mistake that explains every wrong case is named.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch

from minisys.core.seeds import generator_for
from minisys.grade.assignment import Case, Mistake, Part, Topic
from minisys.grade.wire import Given
from minisys.grade.worker import Ended, Worker

# What a part's result can be; all but the first two give no points.
STATUSES = {
    "passed": "every case is right",
    "skipped": "it cannot run on this machine",
    "wrong": "a result is not the expected one",
    "not written": "the stub is still there",
    "missing": "the file or the function is not there",
    "raised": "an exception was raised, or the process left through sys.exit",
    "memory": "it ran into the memory limit",
    "time": "it ran into the time limit",
    "ended": "its process ended or was ended",
    "refused": "it reads the solution",
    "error": "the grader itself could not run it",
}
MOST_SHOWN = 16  # numbers in a row


@dataclass
class PartResult:
    """What came of one part. Everything here is JSON."""

    name: str
    title: str
    points: int
    out_of: int
    bonus: bool
    status: str
    says: str
    cases_right: int = 0
    cases: int = 0
    tried: str = ""
    came: str = ""
    expected: str = ""
    more: str = ""
    mistake: str = ""
    looks_like: str = ""
    costs: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    printed: str = ""
    printed_bytes: int = 0
    seconds: float = 0.0


def empty_result(part: Part, status: str, says: str) -> PartResult:
    """A result without points."""
    return PartResult(part.name, part.title, 0, part.points, part.bonus, status, says)


class CaseFailed(Exception):  # noqa: N818
    """One case is not right. `got` is the result where there is one."""

    def __init__(
        self, status: str, says: str, came: str = "", expected: str = "", got: object = None, more: str = ""
    ) -> None:
        super().__init__(says)
        self.status, self.says, self.came, self.expected = status, says, came, expected
        self.got, self.more = got, more


def judge(worker: Worker, topic: Topic, part: Part, file: str, seed: int) -> PartResult:
    """Load `file` in the worker's process and run all cases of the part."""
    started = time.monotonic()
    result = empty_result(part, "passed", "")
    try:
        judge_cases(worker, topic, part, file, seed, result)
    except Ended as end:
        result.status, result.says, result.costs = end.status, end.says, []
    if result.status == "passed":
        result.points = part.points
    result.seconds = round(time.monotonic() - started, 3)
    return result


def judge_cases(worker: Worker, topic: Topic, part: Part, file: str, seed: int, result: PartResult) -> None:
    """Fill `result`. Raises Ended where the process is gone."""
    answer = worker.ask({"do": "load", "file": file, "function": part.function})
    if "loaded" not in answer:
        problem = explain(answer.get("problem"), part)
        result.status, result.says, result.came = problem.status, problem.says, problem.came
        return
    cases = part.cases(generator_for(seed, topic.name, part.name))
    result.cases = len(cases)
    failures: list[tuple[Case, CaseFailed]] = []
    for case in cases:
        result.tried = f"{case.label} (seed {seed})"
        try:
            judge_case(worker, topic, part, case)
            result.cases_right += 1
        except CaseFailed as wrong:
            failures.append((case, wrong))
            if wrong.status in ("not written", "memory"):
                break
    result.tried = ""
    if failures:
        describe(result, failures, part, topic, seed)
    elif part.cost is not None:
        add_costs(worker, topic, part, seed, result)


def add_costs(worker: Worker, topic: Topic, part: Part, seed: int, result: PartResult) -> None:
    """Ask once more for the cost figures; where that fails, a note says why, and the points stay."""
    ask = lambda arguments, measure=None: call(worker, part, arguments, measure)
    try:
        costs = part.cost(ask, generator_for(seed, topic.name, part.name, "cost"), topic.given)
        result.costs = [asdict(cost) for cost in costs]
    except CaseFailed as failed:
        result.notes.append(f"No cost figure: {failed.says} {failed.came}".strip())
    except Ended as end:
        if end.status == "refused":
            raise
        result.notes.append(f"No cost figure: {end.says}")
    except (
        Exception
    ) as error:  # the figure is made from what a submission returned, right in the cases or not
        result.notes.append(f"No cost figure: the result makes no sense ({type(error).__name__}).")


def judge_case(worker: Worker, topic: Topic, part: Part, case: Case) -> None:
    """Raise CaseFailed unless the submission's result is right."""
    got, measured = call(worker, part, case.arguments, part.measure)
    want = part.expected(**made(case.arguments, topic))
    difference(got, want, part, case)
    hidden = part.inspect(measured, case.arguments) if part.inspect else None
    if hidden is not None:
        raise CaseFailed("wrong", hidden.says, got=hidden)


def call(worker: Worker, part: Part, arguments: Mapping, measure: str | None = None) -> tuple[object, dict]:
    """The submission's result and what was measured.

    Raises CaseFailed where there is none, or where an argument was changed.
    """
    answer = worker.ask({"do": "call", "arguments": dict(arguments), "measure": measure})
    if "result" not in answer:
        raise explain(answer.get("problem"), part)
    changed = answer.get("changed")
    if isinstance(changed, list) and changed:
        names = ", ".join(map(str, changed))
        says = f"{part.function} changed its argument {names} in place."
        raise CaseFailed("wrong", says, f"a changed {names}", "arguments left as they were")
    measured = answer.get("measured")
    measured = measured if isinstance(measured, dict) else {}
    return answer["result"], {name: value for name, value in measured.items() if type(value) is int}


def made(arguments: Mapping[str, object], topic: Topic) -> dict[str, object]:
    """The arguments of a case with everything that was `Given` made."""
    return {
        name: value.make(topic.given) if isinstance(value, Given) else value
        for name, value in arguments.items()
    }


def explain(problem: object, part: Part) -> CaseFailed:
    """The words for what a submission's process reports instead of a result."""
    problem = problem if isinstance(problem, dict) else {}
    kind, text = problem.get("kind"), str(problem.get("text", ""))
    where = f" in line {problem['line']} of {problem.get('file', part.file)}" if problem.get("line") else ""
    source = f": {problem['source']}" if problem.get("source") else ""
    name = f"{part.function} in {part.file}"
    if kind == "no function":
        why = f"{part.function} is a {text} there" if text else "nothing of that name is there"
        return CaseFailed("missing", f"{part.file} defines no function {part.function}: {why}.")
    if kind == "not written":  # by the asked function, or by one that it calls
        written = f"{problem.get('function', part.function)} in {problem.get('file', part.file)}"
        return CaseFailed("not written", f"{written} still raises NotImplementedError.")
    if kind == "syntax":
        return CaseFailed("raised", f"Python cannot read it: {text}{where}{source}")
    if kind == "missing import":
        return CaseFailed(
            "raised", f"An import failed{where}: {text}. Only what the course installs is there."
        )
    if kind == "memory":
        return CaseFailed(
            "memory", f"It ran out of the {part.memory_mib} MiB of memory it may use{where}{source}"
        )
    if kind == "exit":
        return CaseFailed("raised", f"It called sys.exit({text}){where}; a submission returns or raises.")
    if kind == "returned":
        return CaseFailed(
            "wrong", f"{name} returned something that is no tensor or too large.", text, "a tensor"
        )
    return CaseFailed("raised", f"{problem.get('type', 'An exception')} was raised{where}{source}", text)


def difference(got: object, want: object, part: Part, case: Case) -> None:
    """Raise CaseFailed, with what came and what was expected, unless the two are the same."""
    if not isinstance(want, torch.Tensor):
        if type(got) is not type(want) or got != want:
            raise CaseFailed("wrong", "A result is wrong.", repr(got), repr(want), got)
        return
    axes = f" [{', '.join(part.axes.split())}]" if part.axes else ""
    if not isinstance(got, torch.Tensor):
        raise CaseFailed("wrong", "A result is no tensor.", f"a {type(got).__name__}", "a tensor", got)
    if got.shape != want.shape:
        raise CaseFailed("wrong", "A result has the wrong shape.", f"shape {tuple(got.shape)}",
                    f"shape {tuple(want.shape)}{axes}", got)  # fmt: skip
    if not same_kind(got, want):
        raise CaseFailed("wrong", "A result has the wrong dtype.", str(got.dtype), f"{want.dtype}", got)
    wrong = ~close(got, want, part.tolerance)
    if not wrong.any():
        return
    index = tuple(wrong.nonzero()[0].tolist())
    row = not want.is_floating_point() and want.ndim > 0 and want.shape[-1] <= MOST_SHOWN
    index = index[:-1] if row else index
    names = part.axes.split() or ["?"] * want.ndim
    place = ", ".join(f"{name}={at}" for name, at in zip(names, index, strict=False))
    more = f"{int(wrong.sum())} of {want.numel()} numbers differ"
    if part.show is not None:
        more += f"; {part.show(case.arguments, index)}"
    came = f"{shown(got[index])} at [{place}]"
    raise CaseFailed("wrong", "A result is wrong.", came, shown(want[index]), got, more)


def same_kind(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Equal dtypes, or whole numbers of any width on both sides."""
    whole = lambda x: not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
    return got.dtype == want.dtype or (whole(got) and whole(want))


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Element by element; NaN equals NaN here, so that mistakes which give it can be recognised."""
    if not want.is_floating_point():
        return got == want
    return torch.isclose(got, want.to(got.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)


def shown(value: torch.Tensor) -> str:
    """A number, or a row of them."""
    if value.ndim:
        return "[" + ", ".join(map(str, value.tolist())) + "]"
    return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())


def describe(
    result: PartResult, failures: list[tuple[Case, CaseFailed]], part: Part, topic: Topic, seed: int
) -> None:
    """Put the first failure and the mistake that explains all of them into `result`."""
    case, wrong = failures[0]
    result.status = wrong.status
    result.says = wrong.says
    if wrong.status == "not written":
        return
    if wrong.status == "wrong" and result.cases > 1:
        result.says = f"{wrong.says} {len(failures)} of {result.cases} cases fail."
    result.tried = f"{case.label} (seed {seed})"
    result.came, result.expected, result.more = wrong.came, wrong.expected, wrong.more
    mistake = recognise(failures, part, topic)
    if mistake is not None:
        result.mistake, result.looks_like = mistake.key, mistake.says
    else:
        result.looks_like = next((case.edge for case, _ in failures if case.edge), "")


def recognise(failures: list[tuple[Case, CaseFailed]], part: Part, topic: Topic) -> Mistake | None:
    """The first known mistake whose answer is what came, in every case with a wrong result."""
    hidden = [wrong.got for _, wrong in failures if isinstance(wrong.got, Mistake)]
    if hidden:
        return hidden[0]
    results = [(made(case.arguments, topic), wrong.got) for case, wrong in failures if wrong.got is not None]
    for mistake in part.mistakes if results else ():
        if all(matches(got, mistake.answer(**arguments), part.tolerance) for arguments, got in results):
            return mistake
    return None


def matches(got: object, answer: object, tolerance: float) -> bool:
    """Whether a submission's result is the answer of a mistake."""
    if not isinstance(answer, torch.Tensor) or not isinstance(got, torch.Tensor):
        return answer is not None and type(answer) is type(got) and answer == got
    same = got.shape == answer.shape and same_kind(got, answer)
    return same and bool(close(got, answer, tolerance).all())
