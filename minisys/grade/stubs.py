"""Handouts from solutions: what stands between the markers is taken out, the rest stays as it is.

    # BEGIN SOLUTION
    ...
    # END SOLUTION

Inside a function a ``raise NotImplementedError`` takes its place, at the top level a line that says what
goes there.
"""

from collections.abc import Sequence
from pathlib import Path

from minisys.core.checks import check
from minisys.core.files import write_atomic
from minisys.grade.assignment import Part, Topic

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
TABLE_BEGIN, TABLE_END = "<!-- BEGIN PARTS -->", "<!-- END PARTS -->"


def stub(source: str, name: str) -> str:
    """The student's file from the solution's. Raises ValueError, with `name`, where markers do not pair."""
    kept: list[str] = []
    open_at = 0
    for number, line in enumerate(source.splitlines(), 1):
        marker = line.strip()
        if marker == BEGIN:
            check(not open_at, name, f"{BEGIN} in line {number}", f"the {END} of line {open_at} before it")
            open_at = number
            indent = line[: len(line) - len(line.lstrip())]
            kept.append(f"{indent}raise NotImplementedError" if indent else "# Your own helpers go here.")
        elif marker == END:
            check(bool(open_at), name, f"{END} in line {number}", f"a {BEGIN} before it")
            open_at = 0
        elif not open_at:
            kept.append(line)
    check(not open_at, name, f"{BEGIN} in line {open_at}", f"an {END} after it")
    return "\n".join(kept) + "\n"


def parts_table(parts: Sequence[Part]) -> str:
    """The parts as a Markdown table, for the handout."""
    rows = ["| Part | Function | File | Points | Minutes |", "|---|---|---|---|---|"]
    for part in parts:
        points = f"{part.points} (bonus)" if part.bonus else str(part.points)
        rows.append(f"| {part.title} | `{part.function}` | `{part.file}` | {points} | {part.minutes} |")
    sums = [sum(getattr(part, name) for part in parts if not part.bonus) for name in ("points", "minutes")]
    rows.append(f"| Together, without the bonus | | | {sums[0]} | {sums[1]} |")
    return "\n".join(rows)


def readme(topic: Topic) -> str:
    """The handout's text with the table of its parts as they are now."""
    path = topic.folder / "README.md"
    text = path.read_text(encoding="utf-8")
    paired = text.count(TABLE_BEGIN) == text.count(TABLE_END) == 1
    check(paired, str(path), "no such pair", f"one {TABLE_BEGIN} and one {TABLE_END}")
    before, rest = text.split(TABLE_BEGIN)
    return f"{before}{TABLE_BEGIN}\n{parts_table(topic.parts)}\n{TABLE_END}{rest.split(TABLE_END)[1]}"


def handout(topic: Topic) -> dict[str, str]:
    """What students get, by file name."""
    files = {"README.md": readme(topic)}
    for name in topic.files:
        source = (topic.folder / "solution" / name).read_text(encoding="utf-8")
        files[name] = stub(source, f"solution/{name}")
    return files


def write_handout(topic: Topic, folder: Path, *, replace: bool = False) -> list[Path]:
    """Write the handout into `folder`; returns what was written.

    Raises ValueError, and writes nothing, where a file of another content is in the way, unless `replace`.
    """
    check(not folder.exists() or folder.is_dir(), "make-stub", f"the file {folder}", "a folder")
    files = {folder / name: text for name, text in handout(topic).items()}
    if (
        folder.resolve() == (topic.folder / "handout").resolve()
    ):  # the assignment's own, with the text it is from
        files[topic.folder / "README.md"] = readme(topic)
    for path, text in files.items():
        check(not path.is_dir(), "make-stub", f"the folder {path}", "a file or nothing of that name")
        same = not path.exists() or path.read_bytes() == text.encode()
        check(same or replace, "make-stub", f"{path}, which is another", "no such file, or --force")
    for path, text in files.items():
        write_atomic(path, text.encode())
    return list(files)
