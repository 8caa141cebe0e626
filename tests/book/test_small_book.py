"""A small book, built with the project's settings and extension, with and without a repository address."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import book_execution  # noqa: E402
import book_stack  # noqa: E402

ADDRESS = "https://github.com/someone/minisys"
CHAPTER = "notebooks/01_native_sparse_attention"
TOPICS = [topic for _, topics in book_stack.ROWS for topic in topics]
RECORD = {
    "seconds": 12.34,
    "device": "cpu",
    "versions": {"python": "3.11.7", "torch": "2.13.0", "triton": None},
    "date": "2026-01-31",
}
INDEX = """\
# A book

```{stack-picture}
```

```{execution-table}
```

```{repository-note}
```

Use {py:func}`minisys.core.double`.
"""
MODULE = '''\
"""Doubling, as an example.

What is left out:
- halving,
- everything else.
"""

from jaxtyping import Float
from torch import Tensor


def double(x: Float[Tensor, "b t dim"], times: int = 1) -> Float[Tensor, "b t dim"]:
    """Twice `x` (Someone 2020, eq. 4) as often as `times` says.

    Args:
        x, times: what the signature says.
    """
    return x * 2**times


class Pair:
    """Two numbers.

    Attributes:
        first, second: the numbers.
    """

    @property
    def total(self) -> int:
        """What both are together: the sum."""
        return 2


def _hidden() -> None:
    """Not in the reference."""
'''
FILES = {
    "book/index.md": INDEX,
    "book/api.md": "# Reference\n\n```{api-modules}\n```\n",
    "book/api/generated/minisys.gone.rst": "gone\n====\n",
    "minisys/__init__.py": '"""A package."""\n',
    "minisys/core/__init__.py": '"""What `all` use."""\nfrom minisys.core.things import double\n',
    "minisys/core/things.py": MODULE,
    "minisys/core/_private.py": '"""Not in the reference."""\n',
}


# --- records of how a notebook was executed -----------------------------------------------------------------


def write_notebook(path: Path, record: object = None, title: str = "A chapter") -> Path:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cell = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {title}\n"}
    metadata = kernel | ({book_execution.KEY: record} if record is not None else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_a_record_is_read(tmp_path):
    execution = book_execution.read_execution(write_notebook(tmp_path / "a.ipynb", RECORD | {"inputs": "0f"}))
    assert (execution.seconds, execution.device) == (12.34, "cpu")
    assert execution.versions == RECORD["versions"]
    assert execution.date.isoformat() == "2026-01-31"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", "12"),
        ("seconds", -1.0),
        ("seconds", True),
        ("device", ""),
        ("versions", {}),
        ("versions", {"torch": 2}),
        ("date", "31.1.2026"),
        ("date", None),
    ],
)
def test_a_wrong_record_is_named(tmp_path, field, value):
    notebook = write_notebook(tmp_path / "a.ipynb", RECORD | {field: value})
    expected = re.escape(f"a.ipynb: minisys_execution[{field!r}]: got {value!r}, expected")
    with pytest.raises(ValueError, match=expected):
        book_execution.read_execution(notebook)


@pytest.mark.parametrize("record", [None, "yesterday"])
def test_a_missing_record_is_named(tmp_path, record):
    notebook = write_notebook(tmp_path / "a.ipynb", record)
    with pytest.raises(ValueError, match=r"a\.ipynb: metadata 'minisys_execution': got"):
        book_execution.read_execution(notebook)


# --- the build ----------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Collects where the links of a page lead, and what the page loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "a":
            self.links.append(found.get("href") or "")
        elif tag in ("script", "img", "iframe", "link"):
            self.loaded.append(found.get("src") or found.get("href") or "")


def build(folder: Path, url: str, *options: str) -> subprocess.CompletedProcess:
    """Build the small book with the project's own settings, but for what it does not need."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = url
    config["logo"] = str(ROOT / config["logo"])
    config["html"]["favicon"] = str(ROOT / config["html"]["favicon"])
    config["bibtex_bibfiles"] = [str(ROOT / "book" / "references.bib")]
    config["sphinx"]["local_extensions"] = {"minisys_book": str(ROOT / "book" / "_ext")}
    sphinx = config["sphinx"]["config"]
    for unused in ("minisys_claims", "sphinx-mathjax-offline"):
        sphinx["extensions"].remove(unused)
    sphinx["html_static_path"] = [str(ROOT / "book" / "_static")]
    sphinx["templates_path"] = [str(ROOT / "book" / "_templates")]
    chapters = [
        {"glob": "notebooks/*"},
        {"file": "book/api", "sections": [{"glob": "book/api/generated/*"}]},
    ]
    toc = {"format": "jb-book", "root": "book/index", "chapters": chapters}
    for name, text in {
        **FILES,
        "_config.yml": yaml.safe_dump(config),
        "_toc.yml": yaml.safe_dump(toc),
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", "-n", "--keep-going", *options, str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Without an address, and with a second notebook that holds no record of its execution."""
    folder = tmp_path_factory.mktemp("plain")
    write_notebook(folder / f"{CHAPTER}.ipynb", RECORD)
    write_notebook(folder / "notebooks/02_other.ipynb", title="Another")
    run = build(folder, "")
    return folder / "_build" / "html", run


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """With an address; every warning is an error."""
    folder = tmp_path_factory.mktemp("linked")
    write_notebook(folder / f"{CHAPTER}.ipynb", RECORD)
    run = build(folder, ADDRESS, "-W")
    return folder / "_build" / "html", run


def read(folder: Path, name: str) -> str:
    return (folder / f"{name}.html").read_text(encoding="utf-8")


def test_the_small_book_builds_without_a_warning(linked):
    _, run = linked
    assert run.returncode == 0, run.stderr


def test_a_notebook_without_a_record_is_a_warning(plain):
    _, run = plain
    warnings = [line for line in run.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 1, run.stderr
    assert "02_other.ipynb: metadata 'minisys_execution': got None" in warnings[0]


def test_pages_without_an_address_lead_to_no_repository(plain):
    folder, _ = plain
    for page in folder.rglob("*.html"):
        assert not [link for link in Links(page).links if link.startswith("http")], page
    assert "without a web address" in read(folder, "book/index")


def test_pages_with_an_address_link_to_it(linked):
    folder, _ = linked
    chapter = Links(folder / f"{CHAPTER}.html").links
    assert f"https://colab.research.google.com/github/someone/minisys/blob/main/{CHAPTER}.ipynb" in chapter
    assert f"https://mybinder.org/v2/gh/someone/minisys/main?urlpath=lab/tree/{CHAPTER}.ipynb" in chapter
    assert f"{ADDRESS}/edit/main/{CHAPTER}.ipynb" in chapter
    index = Links(folder / "book/index.html").links
    assert f"{ADDRESS}/edit/main/book/index.md" in index
    assert ADDRESS in index
    assert not [link for link in index if "colab" in link or "mybinder" in link]  # the page is no notebook


def test_generated_pages_have_no_link_to_a_source_that_is_not_there(linked):
    folder, _ = linked
    links = Links(folder / "book/api/generated/minisys.core.things.html").links
    assert not [link for link in links if "_sources" in link or link.startswith("http")], links


def test_pages_load_nothing_from_elsewhere(plain, linked):
    for folder, _ in (plain, linked):
        pages = list(folder.rglob("*.html"))
        assert len(pages) > 5
        for page in pages:
            assert not [source for source in Links(page).loaded if source.startswith(("http", "//"))], page


def test_the_picture_links_to_the_pages_that_exist(plain):
    folder, _ = plain
    links = Links(folder / "book/index.html").links
    for target in ("../notebooks/01_native_sparse_attention.html", "api/generated/minisys.core.html"):
        assert links.count(target) >= 2  # on the wide and on the narrow drawing
        assert (folder / "book" / target).resolve().is_file()
    drawings = re.findall(r"<svg class=\"stack-.*?</svg>", read(folder, "book/index"), re.S)
    assert len(drawings) == 2
    for drawing in drawings:
        assert drawing.count(">not yet written<") == len(TOPICS) - 2


def test_the_execution_table_shows_the_record(linked):
    folder, _ = linked
    text = re.sub(r"<[^>]+>", " ", read(folder, "book/index"))
    for shown in ("A chapter", "12.3", "cpu", "python 3.11.7, torch 2.13.0, triton none", "2026-01-31"):
        assert shown in text
    assert f"../{CHAPTER}.html" in Links(folder / "book/index.html").links


def test_the_reference_lists_modules_by_itself(linked):
    folder, _ = linked
    generated = {path.stem for path in (folder / "book/api/generated").glob("*.html")}
    assert generated == {"minisys", "minisys.core", "minisys.core.things"}  # not the private, not the old one


def test_a_module_page_shows_plain_docstrings_and_tensor_types(linked):
    folder, _ = linked
    page = re.sub(r"<[^>]+>", "", read(folder, "book/api/generated/minisys.core.things"))
    page = " ".join(page.replace("&#39;", "'").replace("’", "'").split())
    assert "x: Float[Tensor, 'b t dim']" in page
    assert "Twice x (Someone 2020, eq. 4) as often as times says." in page
    assert "What both are together: the sum." in page
    assert "_hidden" not in page
    links = Links(folder / "book/api/generated/minisys.core.things.html").links
    assert "../../../_modules/minisys/core/things.html#double" in links


def test_a_name_as_users_import_it_links_to_the_module_that_defines_it(linked):
    folder, _ = linked
    links = Links(folder / "book/index.html").links
    assert "api/generated/minisys.core.things.html#minisys.core.things.double" in links


def test_the_root_of_the_book_leads_to_the_first_page(plain):
    folder, _ = plain
    assert 'location.replace("book/index.html"' in read(folder, "index")
    assert Links(folder / "index.html").links == ["book/index.html"]


def test_a_page_sets_its_colours_before_it_is_drawn(plain):
    """Without a stored choice the theme reports an error; the template sets the mode before that."""
    page = read(plain[0], "book/index")
    assert page.index("localStorage.getItem") < page.index('root.mode = "auto"') < page.index("<body")
