"""The Sphinx extension of the ledger: pages quote rows; a dangling id fails a strict build."""

import io
import json
import os
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from minisys.bench import results
from minisys.core import paths

pytest.importorskip("myst_parser", reason="needs the extra book")
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

EXTENSIONS = paths.checkout() / "book" / "_ext"
LEDGER = """\
sources:
  A: {name: digest, about: "Second-hand, see `A`.", cite: digest2025}
claims:
  - id: nsa-fwd
    claim: The forward pass is 9 times as fast.
    source: [A]
    claimed: [{value: 9, unit: ×, text: forward}]
    measure: {how: Time `forward` <once>.}
    hardware: one GPU
    ours: [{result: nsa-speed, path: ratio, unit: ×, text: at 64k}]
    status: partly
    evidence: Half of it held.
  - id: nsa-bwd
    claim: The backward pass is 6 times as fast.
    source: [A]
    claimed: [{value: 6, unit: ×}]
    measure: {how: Time it.}
    hardware: one GPU
    ours: null
    status: open
"""
INDEX = """\
# Start

Forward is {claim}`nsa-fwd`, backward {claim}`much slower <nsa-bwd>`.

```{claim-row} nsa-fwd
```

```{toctree}
claims
```
"""
CLAIMS = "# Claims\n\n```{claims-sources}\n```\n\n```{claims-table}\n```\n"
CONF = "extensions = ['myst_parser', 'minisys_claims']\nclaims_file = 'claims.yml'\nclaims_results = '.'\n"


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    folder = tmp_path / "source"
    results.save("nsa-speed", {"ratio": 4.59}, "minisys bench nsa", folder)
    for name, text in {"claims.yml": LEDGER, "index.md": INDEX, "claims.md": CLAIMS, "conf.py": CONF}.items():
        (folder / name).write_text(text)
    return folder


def build(source, builder="html"):
    """Build and return (folder of pages, warnings, pages that were read)."""
    warnings = io.StringIO()
    out = source.parent / builder
    with patch_docutils(source), docutils_namespace():
        app = Sphinx(
            source, source, out, source.parent / "doctrees", builder, {"nitpicky": True}, None, warnings
        )
        read = []
        app.connect("source-read", lambda app, page, content: read.append(page))
        app.build()
    return out, warnings.getvalue().replace(f"{source}{os.sep}", ""), sorted(read)


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def find(self, tag, **wanted):
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]


def test_a_page_quotes_rows_with_status_and_link(source):
    out, warnings, _ = build(source)
    assert warnings == ""
    page = Elements((out / "index.html").read_text())
    links = [link["href"] for link in page.find("a") if "#claim-" in link.get("href", "")]
    assert links == ["claims.html#claim-nsa-fwd", "claims.html#claim-nsa-bwd", "claims.html#claim-nsa-fwd"]
    assert "Forward is nsa-fwd partly, backward much slower open." in page.text
    assert page.find("span", **{"class": "claim-status claim-partly"})
    (row,) = page.find("div", **{"class": "claim-row"})
    assert row["aria-label"] == "Claim nsa-fwd"
    for text in (
        "The forward pass is 9 times as fast.",
        "by digest",
        "9× forward",
        "4.59× at 64k",
        f"nsa-speed.json, {results.hardware('nsa-speed', source)}",
        "Half of it held.",
        "Time forward <once>.",
        "minisys bench nsa",
        "Runs on: one GPU.",
    ):
        assert text in page.text, text


def test_the_table_shows_every_row_and_can_be_read_without_seeing_it(source):
    out, _, _ = build(source)
    page = Elements((out / "claims.html").read_text())
    assert "2 claims: 1 open, 1 partly." in page.text
    assert [row["id"] for row in page.find("tr") if "id" in row] == ["claim-nsa-fwd", "claim-nsa-bwd"]
    assert len(page.find("th", scope="col")) == 4
    assert len(page.find("th", scope="row")) == 2
    assert [cell["data-label"] for cell in page.find("td")] == ["Claimed", "Ours", "Status"] * 2
    (scroll,) = page.find("div", role="region")
    assert scroll["tabindex"] == "0"
    assert scroll["aria-label"]
    assert "4.59× at 64k" in page.text
    assert "not yet" in page.text
    assert "Second-hand, see A." in page.text
    assert (out / "_static" / "minisys_claims.css").is_file()
    assert any("minisys_claims.css" in link["href"] for link in page.find("link"))


def test_other_formats_show_the_same_words(source):
    out, warnings, _ = build(source, "text")
    assert warnings == ""
    assert "Forward is nsa-fwd partly" in (out / "index.txt").read_text()
    assert "The backward pass is 6 times as fast." in (out / "claims.txt").read_text()


@pytest.mark.parametrize("quote", ["{claim}`nsa-fw`", "```{claim-row} nsa-fw\n```"])
def test_a_dangling_id_is_a_warning_with_its_place(source, quote):
    (source / "index.md").write_text(f"{INDEX}\n{quote}\n")
    _, warnings, _ = build(source)
    line = INDEX.count("\n") + 2
    expected = "claim id: got 'nsa-fw', expected the id of a row, for example nsa-fwd"
    assert f"index.md:{line}: WARNING: {expected}" in warnings


def test_a_row_without_a_table_to_link_to_is_a_warning(source):
    (source / "claims.md").write_text("# Claims\n")
    _, warnings, _ = build(source)
    message = "claim 'nsa-fwd' has no row to link to: no page of the book has a claims-table"
    assert f"index.md:3: WARNING: {message}" in warnings


def test_a_broken_ledger_is_a_warning_for_each_problem_in_every_build(source):
    build(source)
    text = LEDGER.replace("status: open", "status: opne").replace("path: ratio", "path: r")
    (source / "claims.yml").write_text(text)
    for _ in range(2):
        _, warnings, _ = build(source)
        assert "claims.yml:13: WARNING: nsa-bwd: status: got 'opne', expected one of open, " in warnings
        assert "claims.yml:4: WARNING: nsa-fwd: ours.0: path 'r': got 'r', expected in nsa-speed" in warnings


def test_pages_are_built_again_when_the_ledger_or_a_result_changes(source):
    (source / "other.md").write_text("---\norphan: true\n---\n# Other\n\nOnly {claim}`nsa-bwd`.\n")
    (source / "plain.md").write_text("---\norphan: true\n---\n# Plain\n")
    assert build(source)[2] == ["claims", "index", "other", "plain"]
    assert build(source)[2] == []

    document = json.loads((source / "nsa-speed.json").read_text())
    (source / "nsa-speed.json").write_text(json.dumps(document | {"results": {"ratio": 7.25}}))
    out, _, read = build(source)
    assert read == ["claims", "index"]
    assert "7.25× at 64k" in (out / "index.html").read_text()

    (source / "claims.yml").write_text(LEDGER.replace("Half of it held.", "A third of it held."))
    out, _, read = build(source)
    assert read == ["claims", "index", "other"]
    assert "A third of it held." in (out / "index.html").read_text()


def test_rows_are_quoted_in_the_markdown_of_a_notebook(source):
    pytest.importorskip("myst_nb")
    text = "# Notebook\n\nSee {claim}`nsa-bwd` and {claim}`nsa-x`.\n\n```{claim-row} nsa-bwd\n```\n"
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    notebook = {"cells": [cell], "metadata": {"orphan": True}, "nbformat": 4, "nbformat_minor": 5}
    (source / "notebook.ipynb").write_text(json.dumps(notebook))
    settings = "nb_execution_mode = 'off'\nsource_suffix = {'.md': 'myst-nb', '.ipynb': 'myst-nb'}\n"
    (source / "conf.py").write_text(CONF.replace("myst_parser", "myst_nb") + settings)
    out, warnings, _ = build(source)
    page = Elements((out / "notebook.html").read_text())
    assert "See nsa-bwd open and nsa-x." in page.text
    assert "The backward pass is 6 times as fast." in page.text
    assert warnings.count("WARNING") == 1
    assert "notebook.ipynb:" in warnings
    assert "WARNING: claim id: got 'nsa-x', expected the id of a row, for example nsa-" in warnings


def test_a_strict_build_fails_on_a_dangling_id(source):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXTENSIONS), str(paths.checkout())])}
    out = str(source.parent / "strict")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", str(source), out]
    (source / "index.md").write_text(INDEX + "\n{claim}`nsa-x`\n")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "WARNING: claim id: got 'nsa-x'" in done.stderr
