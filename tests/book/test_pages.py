"""Every page of the built book in Chromium: nothing from outside, nothing broken, nobody kept out."""

import contextlib
import zlib

import pytest

from . import explorables, reader
from .browser import BUILT, inspect, new_context, open_tab, pages, redirect

pytestmark = pytest.mark.book

DESK, PHONE = 1280, 390

# Where no book is built the one page named here makes the tests fail, and say what to do, rather than skip.
PAGES = [name for name in pages(BUILT) if not redirect(BUILT / name)] or ["book/index.html"]
SOURCE = {
    name: (BUILT / name).read_text(encoding="utf-8") if (BUILT / name).is_file() else "" for name in PAGES
}
WRITTEN = [name for name in PAGES if not name.startswith(("_modules/", "book/api/"))]
GENERATED = [name for name in PAGES if name not in WRITTEN]
WITH_EXPLORABLES = [name for name in WRITTEN if "data-explorable=" in SOURCE[name]]
WITH_MATHS = [name for name in PAGES if 'class="math ' in SOURCE[name]]


def visits():
    """(page, width, theme): all four for what people wrote and for the longest page of each generated kind.

    The other generated pages, one a module and one a source file, have that page's template, colours and
    scripts. What is their own, such as long names and links, goes wrong on a phone first. So they are opened
    there, half of them in light and half in dark.
    """
    longest = [max(kind, key=lambda name: len(SOURCE[name])) for kind in _kinds(GENERATED)]
    for name in [*WRITTEN, *longest]:
        yield from ((name, width, theme) for width in (DESK, PHONE) for theme in ("light", "dark"))
    for name in GENERATED:
        if name not in longest:
            yield name, PHONE, ("light", "dark")[zlib.crc32(name.encode()) % 2]


def _kinds(names):
    kinds = {}
    for name in names:
        kinds.setdefault(name.split("/")[0], []).append(name)
    return kinds.values()


@pytest.mark.parametrize(("name", "width", "theme"), list(visits()))
def test_page(name, width, theme, tab, base, built):
    tab.look(width, theme)
    problems = inspect(tab, f"{base}/{name}", base, built) + reader.examine(tab.page, theme)
    assert not problems, "\n".join(problems)


def test_root_leads_to_the_first_page(context, base, built):
    first = redirect(built / "index.html")
    assert first in PAGES
    with contextlib.closing(context.new_page()) as page:
        page.goto(f"{base}/", wait_until="commit")
        page.wait_for_url(f"{base}/{first}")


@pytest.mark.parametrize("name", ["book/index.html", *WITH_EXPLORABLES])
def test_page_opens_from_disk(name, browser, built):
    """A reader who unpacked the book needs no server."""
    base = built.as_uri()
    with new_context(browser) as context, open_tab(context) as tab:
        assert inspect(tab, f"{base}/{name}", base, built) == []


def test_the_book_has_explorables_and_maths(built):
    assert WITH_EXPLORABLES
    assert WITH_MATHS


@pytest.mark.parametrize("name", WITH_EXPLORABLES)
def test_explorables_before_scripts_run(name, page_without_scripts, base):
    page_without_scripts.goto(f"{base}/{name}")
    assert explorables.without_scripts(page_without_scripts) == []


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("name", WITH_EXPLORABLES)
def test_explorables_move_by_keyboard(name, width, tab, base):
    tab.look(width, "light")
    tab.visit(f"{base}/{name}", base)
    assert explorables.by_keyboard(tab.page) == []
    assert tab.problems == []


@pytest.mark.parametrize("name", WITH_MATHS)
def test_maths_and_code_are_printed(name, tab, base):
    """From a screen in dark colours, as paper has its own."""
    tab.look(DESK, "dark")
    tab.visit(f"{base}/{name}", base)
    assert reader.on_paper(tab.page) == []
    assert tab.problems == []


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_search_finds_a_word_of_the_glossary(width, tab, base):
    tab.look(width, "light")
    tab.visit(f"{base}/book/index.html", base)
    assert reader.search(tab.page, "log-sum-exp", "book/glossary.html") == []
    assert tab.problems == []


def test_execution_table_fits_a_desk(tab, base):
    """It has one row a chapter and is read as a whole: no column hides behind a scroll bar."""
    tab.look(DESK, "light")
    tab.visit(f"{base}/book/execution.html", base)
    assert tab.page.locator("table.execution").evaluate(
        "(table) => table.scrollWidth <= table.parentElement.clientWidth"
    )
