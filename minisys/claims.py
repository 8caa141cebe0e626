"""The claims ledger: what others say about these systems, and what we measured.

``book/claims.yml`` holds one row a claim; ``claims.schema.json`` beside this file states its fields. A number
of ours is never typed: a row names a result file and a dotted path in it (`minisys.bench.results`), and the
number and the hardware are read from there. `load` checks the whole ledger and reports all problems at once::

    ledger = load()
    ledger["nsa-stride"].status
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisys.bench import results
from minisys.core import paths

STATUSES = {
    "open": "nothing was measured yet",
    "reproduced": "we measured it and found what is claimed",
    "partly": "part of the claim held when we measured it; the row says which part",
    "not reproduced": "we measured it and found something else",
    "simulated": "a simulator or a cost model of ours gave the number, not the hardware that the claim names",
    "out of reach": "testing it needs hardware or a model that nobody here has; the row says which",
    "inconsistent": "the source contradicts itself, its own source or arithmetic; the row shows where",
}
MEASURED = ("reproduced", "partly", "not reproduced", "simulated")


class ClaimsError(ValueError):
    """A ledger that breaks its rules, or a row that does not exist. `problems` holds one line each."""

    def __init__(self, path: str | Path, problems: list[str]):
        self.path, self.problems = Path(path), problems
        count = f"{len(problems)} problems:\n  " if len(problems) > 1 else ""
        super().__init__(f"{path}: {count}" + "\n  ".join(problems))


@dataclass(frozen=True)
class Source:
    """Who makes a claim. `cite` is a key of the bibliography."""

    key: str
    name: str
    about: str
    cite: str


@dataclass(frozen=True)
class Claimed:
    """One number that is claimed, or a text where the claim has none."""

    value: int | float | None = None
    unit: str | None = None
    text: str | None = None

    def __str__(self) -> str:
        return _phrase(None if self.value is None else f"{self.value:,.10g}", self.unit, self.text)


@dataclass(frozen=True)
class Ours:
    """One number of ours with where it was measured and by which command; or arithmetic, as text alone."""

    value: int | float | None = None
    unit: str | None = None
    text: str | None = None
    result: str | None = None
    hardware: str | None = None
    command: str | None = None

    def __str__(self) -> str:
        return _phrase(None if self.value is None else format_number(self.value), self.unit, self.text)


@dataclass(frozen=True)
class Claim:
    """One row. `hardware` is what the measurement needs; where ours ran is in each `Ours`."""

    id: str
    claim: str
    source: tuple[str, ...]
    claimed: tuple[Claimed, ...]
    how: str
    hardware: str
    status: str
    ours: tuple[Ours, ...] = ()
    command: str | None = None
    evidence: str | None = None
    needs: str | None = None

    @property
    def commands(self) -> tuple[str, ...]:
        """What to type to measure again: the row's own command and those that wrote its result files."""
        found = [self.command, *(ours.command for ours in self.ours)]
        return tuple(dict.fromkeys(command for command in found if command))

    @property
    def measured_on(self) -> dict[str, str]:
        """The result files that our numbers come from, each with its machine."""
        return {ours.result: ours.hardware for ours in self.ours if ours.result and ours.hardware}


class Ledger:
    """The rows in file order. ``ledger["nsa-stride"]`` gives a `Claim`; an unknown id raises ClaimsError."""

    def __init__(self, path: Path, results_directory: Path, sources: dict[str, Source], claims: list[Claim]):
        self.path = path
        self.results_directory = results_directory
        self.sources = sources
        self._claims = {claim.id: claim for claim in claims}

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._claims.values())

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, id: object) -> bool:
        return id in self._claims

    def __getitem__(self, id: str) -> Claim:
        if id not in self._claims:
            near = difflib.get_close_matches(str(id), self._claims, n=3, cutoff=0.5)
            hint = f", for example {', '.join(near)}" if near else f"; there are {len(self)}"
            raise ClaimsError(self.path, [f"id: got {id!r}, expected the id of a row{hint}"])
        return self._claims[id]

    def counts(self) -> dict[str, int]:
        """Number of rows by status, in the order of STATUSES; statuses without rows are left out."""
        count = Counter(claim.status for claim in self)
        return {status: count[status] for status in STATUSES if count[status]}

    def result_files(self, claim: Claim | None = None) -> list[Path]:
        """The result files that a row reads, or that the whole ledger reads."""
        rows = [claim] if claim is not None else list(self)
        found = {name for row in rows for name in row.measured_on}
        return [self.results_directory / f"{name}.json" for name in sorted(found)]


def load(path: str | Path | None = None, results_directory: str | Path | None = None) -> Ledger:
    """Read and check the ledger; by default the project's own.

    Raises ClaimsError (a ValueError) with every problem found, each naming row, field, what came and what
    was expected: a file that is missing, cut short or no YAML; a wrong, unknown or missing field; an id used
    twice; a status without what it needs; a result file, or a path in it, that does not exist.
    """
    path = paths.claims_file() if path is None else Path(path)
    directory = paths.results_directory() if results_directory is None else Path(results_directory)
    document = _parse(path)
    if not isinstance(document, dict):
        raise ClaimsError(path, [_got("file", document, "a mapping with sources and claims")])
    problems = []
    broken: set[int] = set()  # rows that the schema rejects: the rules below would stumble over them
    for error in _schema_errors(document):
        where = list(error.absolute_path)
        if len(where) > 1 and where[0] == "claims":
            broken.add(where[1])
        problems.append(_explain(error, document))
    claims = []
    if isinstance(document.get("claims"), list):
        problems += _duplicates(document["claims"])
        known = document["sources"] if isinstance(document.get("sources"), dict) else {}
        for index, row in enumerate(document["claims"]):
            if index not in broken:
                found, claim = _read_row(row, list(known), directory)
                problems += found
                claims.append(claim)
    if problems:
        raise ClaimsError(path, list(dict.fromkeys(problems)))
    sources = {key: Source(key=key, **source) for key, source in document["sources"].items()}
    return Ledger(path, directory, sources, claims)


def format_number(value: int | float) -> str:
    """Three significant digits, thousands separated, no exponent where a reader can do without."""
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{float(f'{value:.3g}'):,.10g}"
    return f"{value:.3g}"


def _phrase(number: str | None, unit: str | None, text: str | None) -> str:
    if number is None:
        return text or ""
    quantity = f"{number}×" if unit == "×" else f"{number} {unit}"
    return f"{quantity} {text}" if text else quantity


def _read_row(row: dict, sources: list[str], directory: Path) -> tuple[list[str], Claim]:
    """The rules beyond the schema, and the row with its numbers read from the result files."""
    id, status, ours = row["id"], row["status"], row["ours"]
    numbers = [entry for entry in ours or () if "result" in entry]
    problems = []

    def expect(condition: bool, field: str, expected: str) -> None:
        if not condition:
            problems.append(_got(f"{id}: {field}", row.get(field), f"{expected} (status '{status}')"))

    for key in row["source"]:
        if key not in sources:
            problems.append(_got(f"{id}: source", key, f"one of {', '.join(sources)}"))
    if status in MEASURED:
        expect(bool(numbers), "ours", "a result file and a path in it")
        expect(len(numbers) == len(ours or ()), "ours", "result files only: numbers are read, never typed")
    expect(ours is None or status not in ("open", "out of reach"), "ours", "null")
    expect("evidence" in row or status != "inconsistent", "evidence", "the contradiction or the arithmetic")
    expect("evidence" in row or status != "partly", "evidence", "which part held and which did not")
    expect("needs" in row or status != "out of reach", "needs", "the hardware or the model that is missing")
    expect("needs" not in row or status == "out of reach", "needs", "nothing")
    read = []
    for index, entry in enumerate(ours or ()):
        try:
            read.append(_read_ours(entry, directory))
        except ValueError as error:
            problems.append(f"{id}: ours.{index}: {error}")
    claim = Claim(
        id=id,
        claim=row["claim"],
        source=tuple(row["source"]),
        claimed=tuple(Claimed(**entry) for entry in row["claimed"]),
        how=row["measure"]["how"],
        command=row["measure"].get("command"),
        hardware=row["hardware"],
        status=status,
        ours=tuple(read),
        evidence=row.get("evidence"),
        needs=row.get("needs"),
    )
    return problems, claim


def _read_ours(entry: dict, directory: Path) -> Ours:
    if "result" not in entry:
        return Ours(text=entry["text"])
    name = entry["result"]
    value = results.value(name, entry["path"], directory)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_got(f"path {entry['path']!r}", value, f"a number in {name}"))
    return Ours(
        value=value,
        unit=entry["unit"],
        text=entry.get("text"),
        result=name,
        hardware=results.hardware(name, directory),
        command=results.load(name, directory)["command"],
    )


def _parse(path: Path) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML lets a repeated key win silently; a ledger must not lose a field that way."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} twice", problem_mark=key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        problem = f"file: got none that can be read ({error.strerror}), expected the ledger"
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "file"
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        problem = f"{line}: got text that is no YAML ({reason}), expected the ledger"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = f"file: got text that is no YAML ({error}), expected the ledger"
    raise ClaimsError(path, [problem])


def _schema_errors(document: dict) -> list:
    import jsonschema

    schema = json.loads(Path(__file__).with_name("claims.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    return list(validator.iter_errors(document))


def _explain(error: Any, document: dict) -> str:
    """One line for a schema error: row, field, got, expected."""
    where = list(error.absolute_path)
    row = ""
    if len(where) > 1 and where[0] == "claims":
        entry = document["claims"][where[1]]
        id = entry.get("id") if isinstance(entry, dict) else None
        row = f"{id}: " if isinstance(id, str) and id else f"row {where[1] + 1}: "
        where = where[2:]
    keyword, wanted, got = error.validator, error.validator_value, error.instance
    if keyword == "additionalProperties":
        allowed = list(error.schema["properties"])
        unknown = [str(key) for key in got if key not in allowed]
        near = [name for key in unknown for name in difflib.get_close_matches(key, allowed, n=1)]
        expected = f"one of {', '.join(allowed)}" + (f"; did you mean {', '.join(near)}?" if near else "")
        return (
            f"{row}{'.'.join(map(str, [*where, '/'.join(unknown)]))}: got no known field, expected {expected}"
        )
    if keyword in ("required", "dependentRequired"):
        if keyword == "dependentRequired":
            wanted = [key for given, needed in wanted.items() if given in got for key in needed]
        missing = "/".join(dict.fromkeys(key for key in wanted if key not in got))
        return f"{row}{'.'.join(map(str, [*where, missing]))}: got nothing, expected a value"
    if keyword == "type":
        names = {"array": "a list", "object": "a mapping", "string": "text", "number": "a number"}
        kinds = wanted if isinstance(wanted, list) else [wanted]
        expected = " or ".join(names.get(kind, kind) for kind in kinds)
    elif keyword == "enum":
        expected = f"one of {', '.join(wanted)}"
    elif keyword == "pattern":
        expected = "text that is not blank" if wanted == r"\S" else f"text of the form {wanted}"
    elif keyword == "uniqueItems":
        expected = "no entry twice"
    else:  # minItems, minProperties
        expected = "at least one entry"
    field = ".".join(map(str, where)) or ("row" if row else "file")
    return _got(f"{row}{field}", got, expected)


def _duplicates(rows: list) -> list[str]:
    ids = [row.get("id") for row in rows if isinstance(row, dict)]
    count = Counter(id for id in ids if isinstance(id, str))
    return [f"{id}: id: got it {times} times, expected it once" for id, times in count.items() if times > 1]


def _got(what: str, got: object, expected: str) -> str:
    shown = "null" if got is None else repr(got)
    return f"{what}: got {shown if len(shown) <= 80 else shown[:77] + '...'}, expected {expected}"
