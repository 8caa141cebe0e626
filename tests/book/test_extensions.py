"""The book's own Sphinx extension in parts: repository options, picture of the stack, API pages."""

import ast
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import book_api  # noqa: E402
import book_stack  # noqa: E402
import minisys_book  # noqa: E402

ADDRESS = "https://github.com/someone/minisys"
SOURCE = '''
from math import sin

def double(x):
    """Documented."""

class Pair:
    """Documented."""

    def inside(self):
        """Not of the module itself."""

if True:
    def late():
        """Documented."""

def bare(): ...

def _hidden():
    """Private."""
'''


# --- one setting for the repository's address ---------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "  "])
def test_without_an_address_nothing_leads_to_a_repository(url):
    options = minisys_book.repository_options(url)
    assert options == {
        "repository_url": "",
        "launch_buttons": {},
        "use_repository_button": False,
        "use_edit_page_button": False,
        "use_issues_button": False,
    }


@pytest.mark.parametrize("url", [ADDRESS, ADDRESS + "/", ADDRESS + ".git"])
def test_an_address_switches_every_button_on(url):
    options = minisys_book.repository_options(url, "trunk")
    assert options["repository_url"] == ADDRESS
    assert options["repository_branch"] == "trunk"
    assert options["use_repository_button"]
    assert options["use_edit_page_button"]
    assert options["use_issues_button"]
    assert options["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert options["launch_buttons"]["binderhub_url"] == "https://mybinder.org"


@pytest.mark.parametrize(
    ("host", "colab", "binder", "issues"),
    [
        ("github.com", True, True, True),
        ("gitlab.com", False, True, True),
        ("bitbucket.org", False, False, False),
    ],
)
def test_a_host_gets_the_buttons_that_work_there(host, colab, binder, issues):
    options = minisys_book.repository_options(f"https://{host}/someone/minisys")
    assert ("colab_url" in options["launch_buttons"]) is colab
    assert ("binderhub_url" in options["launch_buttons"]) is binder
    assert options["use_issues_button"] is issues


@pytest.mark.parametrize(
    "url",
    [
        "github.com/a/b",
        "http://github.com/a/b",
        "https://example.org/a/b",
        "https://github.com/a",
        "https://github.com",
    ],
)
def test_a_wrong_address_is_named(url):
    with pytest.raises(
        ValueError, match=re.escape(f"repository url: got {url!r}, expected https://HOST/OWNER/NAME")
    ):
        minisys_book.repository_options(url)


# --- the picture of the stack -------------------------------------------------------------------------------

TOPICS = [topic for _, topics in book_stack.ROWS for topic in topics]


def link_to_core(topic: book_stack.Topic) -> str | None:
    return "core.html?a&b" if topic.name == "Core" else None


@pytest.mark.parametrize(("columns", "width", "label_width"), [(2, 720, 92), (1, 352, 0)])
def test_the_picture_holds_every_topic_inside_its_frame(columns, width, label_width):
    svg = ElementTree.fromstring(book_stack.draw(columns, width, label_width, link_to_core))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [e for e in svg.iter() if "stack-box" in e.get("class", "")]
    assert [box.get("aria-label").split(":")[0] for box in boxes] == [topic.name for topic in TOPICS]
    _, _, frame_width, frame_height = map(float, svg.get("viewBox").split())
    taken = []
    for box in boxes:
        rect = box.find(f"{space}rect")
        x, y, w, h = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + w <= frame_width
        assert y + h <= frame_height
        assert not any(x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h for x2, y2, w2, h2 in taken)
        taken.append((x, y, w, h))
        for text in box.findall(f"{space}text"):
            assert float(text.get("x")) + len(text.text) * book_stack.GLYPH <= x + w
            assert y < float(text.get("y")) < y + h


def test_a_box_is_a_link_or_says_that_it_is_not_yet_written():
    svg = ElementTree.fromstring(book_stack.draw(2, 720, 92, link_to_core))
    for box in (e for e in svg.iter() if "stack-box" in e.get("class", "")):
        written = box.get("aria-label").startswith("Core:")
        assert box.get("href") == ("core.html?a&b" if written else None)
        assert ("not yet written" in "".join(box.itertext())) is not written
        assert ("not yet written" in box.get("aria-label")) is not written


# --- pages of the API reference -----------------------------------------------------------------------------


def test_public_names_are_those_the_module_documents():
    tree = ast.parse(SOURCE)
    assert book_api.public_names(tree) == ["double", "Pair", "late"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            ["Text:", "- one", "  more", "- two", "After."],
            ["Text:", "", "- one", "  more", "- two", "", "After."],
        ),
        (["Text.", "", "1. one", "2. two", "", "After."], ["Text.", "", "1. one", "2. two", "", "After."]),
        (["a - b", "-1 is no item"], ["a - b", "-1 is no item"]),
        (
            ["``a``   one", "        more", "``bc``  two", "", "After."],
            ["``a``", "    one", "    more", "", "``bc``", "    two", "", "After."],
        ),
    ],
)
def test_lists_and_columns_of_plain_docstrings_are_prepared(given, wanted):
    lines = list(given)
    book_api.prepare_docstring(None, "module", "m", None, None, lines)
    assert lines == wanted


# --- the project's own files --------------------------------------------------------------------------------


def test_no_script_lies_in_the_static_folder():
    assert not list((ROOT / "book" / "_static").rglob("*.js"))  # Jupyter Book would load it on every page


def test_every_notebook_and_page_is_in_the_table_of_contents():
    listed = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    pages = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]
    named = re.findall(r"^ *(?:- file|root): *(\S+)", listed, re.M)
    assert sorted(page.relative_to(ROOT).with_suffix("").as_posix() for page in pages) == sorted(named)


def test_the_hosted_cell_installs_the_corpus_of_the_course():
    from minisys.core.data import CORPUS_VERSION

    assert f"sympy=={CORPUS_VERSION}" == minisys_book.CORPUS


@pytest.mark.parametrize(
    ("module", "chapter"),
    [
        ("minisys.nsa.reference", "01_native_sparse_attention"),
        ("minisys.nsa.kernels.selected", "02_nsa_kernels"),
        ("minisys.nsa.kernels.decode_step", "03_nsa_decoding"),
        ("minisys.nsa.cache", "03_nsa_decoding"),
    ],
)
def test_a_module_leads_to_the_chapter_that_teaches_it(module, chapter):
    assert book_api.chapter_of(module) == f"notebooks/{chapter}"
    assert (ROOT / f"notebooks/{chapter}.ipynb").is_file()
