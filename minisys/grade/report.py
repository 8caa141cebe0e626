"""What graders and students read: a table and words on the screen, JSON, and CSV for a class.

What comes from a submission loses its control characters before it reaches a terminal or a file, and a cell
of the CSV that a spreadsheet would run as a formula is quoted.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minisys.core.checks import check
from minisys.core.files import write_atomic, write_json
from minisys.grade.judge import PartResult
from minisys.grade.runner import Report

LONGEST_PRINTED = 400  # characters of what a submission printed


def cleaned(report: Report) -> Report:
    """The report with every text safe to print and to write."""
    parts = []
    for part in report.parts:
        texts = {name: clean(value) for name, value in vars(part).items() if isinstance(value, str)}
        parts.append(replace(part, **texts, notes=[clean(note) for note in part.notes]))
    return replace(report, submission=clean(report.submission), parts=parts)


def clean(text: str) -> str:
    """Without control characters, which could rewrite a terminal, and without lone surrogates."""
    printable = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
    return printable.encode("utf-8", "replace").decode()


def show(report: Report) -> None:
    """Print one submission's report."""
    rows = [(part.name, part.title, part.status, _points(part)) for part in report.parts]
    print_table(
        f"{report.topic}: {report.submission} (seed {report.seed})", ("part", "", "result", "points"), rows
    )
    for part in report.parts:
        for line in lines(part):
            print(line)
    print(total(report))


def show_class(reports: Sequence[Report]) -> None:
    """Print one row for each submission."""
    names = [part.name for part in reports[0].parts]
    rows = [
        (report.submission, f"{report.score}/{report.out_of}", *(_short(part) for part in report.parts))
        for report in reports
    ]
    title = f"{reports[0].topic}: {len(reports)} submissions (seed {reports[0].seed})"
    print_table(title, ("submission", "score", *names), rows)


def total(report: Report) -> str:
    """The score in one line."""
    bonus = f", bonus {report.bonus} of {report.bonus_out_of}" if report.bonus_out_of else ""
    return f"Score {report.score} of {report.out_of}{bonus}."


def lines(part: PartResult) -> list[str]:
    """What there is to say about a part beside its row in the table."""
    told = []
    if part.status != "passed":
        told.append(f"{part.name}: {part.says}")
        pairs = {
            "tried": part.tried,
            "came": part.came,
            "expected": part.expected,
            "differs": part.more,
            "looks like": part.looks_like,
        }
        told += [f"  {name:<10}  {value}" for name, value in pairs.items() if value]
    for cost in part.costs:
        beside = ", ".join(f"{name} {_number(value)}" for name, value in cost["beside"].items())
        told.append(f"{part.name}: cost: {cost['what']} {_number(cost['value'])} {cost['unit']} ({beside})")
    told += [f"{part.name}: note: {note}" for note in part.notes]
    if part.printed_bytes and part.status != "passed":
        start = part.printed[:LONGEST_PRINTED].strip().replace("\n", "\n    ")
        told.append(f"  printed     {part.printed_bytes:,} bytes, which begin\n    {start}")
    return told


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """With rich where it is installed, else as plain text."""
    try:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        print(plain_table(title, headings, rows))
        return
    table = Table(title=escape(title), title_justify="left", box=SIMPLE)
    for heading in headings:
        table.add_column(
            heading, justify="right" if heading in ("points", "score") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)


def plain_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in (headings, *rows)]  # fmt: skip
    return "\n".join([title, *texts, ""])


def check_output(argument: str, path: Path | None) -> None:
    """Check that a file can be put there, before minutes are spent on what goes into it."""
    if path is None:
        return
    check(not path.is_dir(), argument, f"the folder {path}", "a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    check(parent.is_dir(), argument, f"{path}, under the file {parent}", "a path under a folder")
    check(os.access(parent, os.W_OK), argument, f"{path}, where nothing can be written", "another place")


def write_reports(path: Path, reports: Sequence[Report], skipped: Sequence[str] | None = None) -> None:
    """JSON: one report, or for a class (`skipped` is given) all of them."""
    if skipped is None:
        write_json(path, reports[0].as_json())
    else:
        write_json(path, {"submissions": [report.as_json() for report in reports], "skipped": list(skipped)})


def write_csv(path: Path, reports: Sequence[Report]) -> None:
    """One row for each submission: score, points and result of each part, what went wrong first."""
    names = [part.name for part in reports[0].parts]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "submission",
            "score",
            "out_of",
            "bonus",
            *names,
            *(f"{name}_result" for name in names),
            "problem",
            "seed",
        ]
    )
    for report in reports:
        problem = next(
            (f"{p.name}: {p.looks_like or p.says}" for p in report.parts if p.status != "passed"), ""
        )
        row = [report.submission, report.score, report.out_of, report.bonus]
        row += [part.points for part in report.parts] + [part.status for part in report.parts]
        table.writerow([_cell(value) for value in [*row, problem, report.seed]])
    write_atomic(path, text.getvalue().encode())


def _cell(value: object) -> object:
    starts_formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if starts_formula else value


def _points(part: PartResult) -> str:
    return f"{part.points}/{part.out_of}" + (" bonus" if part.bonus else "")


def _short(part: PartResult) -> str:
    return str(part.points) if part.status == "passed" else part.status


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.3g}"
