"""The table of how each notebook was executed, read from the notebooks themselves.

The tool that executes a notebook stores in its metadata, under `KEY`:
``{"seconds": float, "device": str, "versions": {name: version}, "date": "YYYY-MM-DD"}``.
"""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

KEY = "minisys_execution"
HEADINGS = ("Notebook", "Seconds", "Device", "Versions", "Date")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How a notebook was executed: wall time in seconds, device, versions by name, day."""

    seconds: float
    device: str
    versions: dict[str, str | None]
    date: date


def read_execution(notebook: Path) -> Execution:
    """Read the record of one notebook; ``ValueError`` names the notebook and what is wrong with it."""
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    record = metadata.get(KEY)
    if not isinstance(record, dict):
        raise ValueError(
            f"{notebook.name}: metadata {KEY!r}: got {record!r}, expected a record of its execution"
        )
    seconds, device, versions, day = (record.get(key) for key in ("seconds", "device", "versions", "date"))

    def check(good: bool, key: str, expected: str) -> None:
        if not good:
            raise ValueError(f"{notebook.name}: {KEY}[{key!r}]: got {record.get(key)!r}, expected {expected}")

    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    check(number and seconds >= 0, "seconds", "a number of seconds")
    check(isinstance(device, str) and bool(device), "device", "the name of a device")
    named = isinstance(versions, dict) and all(isinstance(v, str | None) for v in versions.values())
    check(
        named and bool(versions), "versions", "versions by name, as text, or null for what is not installed"
    )
    try:
        day = date.fromisoformat(day)
    except (TypeError, ValueError):
        check(False, "date", "a day as YYYY-MM-DD")
    return Execution(float(seconds), device, versions, day)


class ExecutionTable(SphinxDirective):
    """``{execution-table}``: a row for each notebook of the book. A missing or wrong record is a warning."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # which notebooks are in the book depends on other pages
        rows = []
        for docname in sorted(self.env.found_docs):
            notebook = Path(self.env.doc2path(docname))
            if notebook.suffix != ".ipynb":
                continue
            self.env.note_dependency(str(notebook))
            try:
                rows.append((docname, read_execution(notebook)))
            except ValueError as error:
                logger.warning("execution-table: %s", error, location=self.get_location())
        if not rows:
            return [nodes.paragraph("", "This copy of the book holds no executed notebook.")]
        return [self._table(rows)]

    def _table(self, rows: list[tuple[str, Execution]]) -> nodes.table:
        group = nodes.tgroup(cols=len(HEADINGS))
        for _ in HEADINGS:
            group += nodes.colspec(colwidth=1)
        group += nodes.thead("", _row([nodes.Text(heading) for heading in HEADINGS]))
        body = nodes.tbody()
        for docname, execution in rows:
            link = addnodes.pending_xref(
                "", nodes.inline(), refdomain="std", reftype="doc", reftarget=f"/{docname}",
                refexplicit=False, refdoc=self.env.docname,
            )  # fmt: skip
            versions = ", ".join(
                f"{name} {version or 'none'}" for name, version in execution.versions.items()
            )
            texts = (f"{execution.seconds:.1f}", execution.device, versions, execution.date.isoformat())
            body += _row([link, *map(nodes.Text, texts)])
        group += body
        return nodes.table("", group, classes=["execution"])


def _row(cells: list[nodes.Node]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))
