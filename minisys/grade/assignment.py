"""What an assignment is written with. A topic is a folder ``assignments/TOPIC`` that holds

* ``parts.py``: ``TITLE``, ``PACKAGE`` (whose modules hold the solution), ``ALLOWED`` (public names of it that
  a submission may import, and the module of each), and ``PARTS``, a list of `Part`;
* ``given.py``: functions that make the arguments which are no tensors; loaded beside the submission as well,
  so it must not import the solution;
* ``solution/``: a submission with full score, with ``# BEGIN SOLUTION`` and ``# END SOLUTION`` around what
  students write; ``handout/`` is generated from it;
* ``wrong.py``: ``WRONG``, a list of `Wrong`: edits of the solution that must fail, and the mistake to name;
* ``README.md``: the handout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from minisys.core import paths
from minisys.core.checks import check
from minisys.grade.modules import load_module


@dataclass(frozen=True)
class Case:
    """One call of the asked function.

    Attributes:
        label: what is tried, in words.
        arguments: its arguments in the order of the signature: numbers, tensors, `wire.Given`.
        edge: what to remember about this case, said where it fails and no known mistake explains it.
    """

    label: str
    arguments: Mapping[str, object]
    edge: str = ""


@dataclass(frozen=True)
class Mistake:
    """A typical mistake, recognised by what comes out.

    Attributes:
        key: a short name.
        says: what the student probably did and what is right, in a sentence or two.
        answer: what comes out of it, called like the asked function; None where it makes no difference.
    """

    key: str
    says: str
    answer: Callable[..., object] = lambda **arguments: None


@dataclass(frozen=True)
class Cost:
    """One figure of what a right answer costs, and what to hold it against."""

    what: str
    value: float
    unit: str
    beside: Mapping[str, float]


# Calls the submission: ask(arguments, measure=None) -> (result, measured); measure.py has the measures.
Ask = Callable[..., tuple[object, dict]]


@dataclass(frozen=True)
class Part:
    """One part of an assignment. It gives its points when every case is right.

    Attributes:
        name, title: for the command line and for people.
        points: what it gives.
        minutes: how long a student is expected to need.
        file, function: what is asked for.
        cases: makes the cases from a `torch.Generator`, fresh ones for each seed.
        expected: the right result, called with the arguments of a case by name.
        axes: names of the result's axes.
        mistakes: what wrong results are held against, the likeliest first.
        tolerance: relative and absolute; whole numbers must be equal.
        bonus: its points are counted apart, and are not needed for the full score.
        needs: modules that must be installed, else the part is skipped. They are loaded before the limits
            hold: PyTorch with CUDA alone takes more address space than a part gets.
        measure: a measure for every case, looked at by `inspect`.
        inspect: says which mistake a right result still hides, from what was measured.
        show: more about one place of a case, for the message: ``show(arguments, index)``.
        cost: asks once more and returns figures; called when all cases are right.
        seconds, memory_mib: limits.
    """

    name: str
    title: str
    points: int
    minutes: int
    file: str
    function: str
    cases: Callable[..., Sequence[Case]]
    expected: Callable[..., object]
    axes: str = ""
    mistakes: Sequence[Mistake] = ()
    tolerance: float = 1e-9
    bonus: bool = False
    needs: Sequence[str] = ()
    measure: str | None = None
    inspect: Callable[[dict, Mapping[str, object]], Mistake | None] | None = None
    show: Callable[[Mapping[str, object], tuple[int, ...]], str] | None = None
    cost: Callable[..., Sequence[Cost]] | None = None
    seconds: float = 20.0
    memory_mib: int = 1024


@dataclass(frozen=True)
class Wrong:
    """A wrong answer, planted: edits of the solution's file of one part.

    Attributes:
        part: name of the part that must fail.
        mistake: key of the mistake that must be named, or a piece of the message where it is none of those.
        edits: (old, new) pieces of text; each old one occurs exactly once.
    """

    part: str
    mistake: str
    edits: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Topic:
    """An assignment: its folder and what its ``parts.py`` says."""

    name: str
    title: str
    folder: Path
    package: str
    allowed: Mapping[str, str]
    parts: Sequence[Part]
    given: ModuleType | None = None

    @property
    def files(self) -> list[str]:
        """Names of the asked files, each once."""
        return list(dict.fromkeys(part.file for part in self.parts))


def topics() -> list[str]:
    """Names of the assignments. Raises ValueError where their folder is missing."""
    folder = paths.assignments_directory()
    check(folder.is_dir(), "assignments", f"no folder {folder}", "the folder of the assignments")
    return sorted(path.parent.name for path in folder.glob("*/parts.py"))


def load_topic(name: str) -> Topic:
    """The assignment of that name. Raises ValueError for a name that is none."""
    known = topics()
    listed = ", ".join(known) or f"none, as {paths.assignments_directory()} is empty"
    check(name in known, "topic", repr(name), f"one of {listed}")
    return read_topic(paths.assignments_directory() / name)


def read_topic(folder: Path) -> Topic:
    """The assignment in `folder`."""
    module = load_module(f"minisys_assignment_{folder.name}", folder / "parts.py", package=True)
    given = folder / "given.py"
    return Topic(
        name=folder.name,
        title=module.TITLE,
        folder=folder,
        package=module.PACKAGE,
        allowed=module.ALLOWED,
        parts=tuple(module.PARTS),
        given=load_module(f"minisys_given_{folder.name}", given) if given.is_file() else None,
    )
