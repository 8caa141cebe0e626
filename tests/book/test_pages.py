"""Every page of the built book in Chromium: nothing from outside, nothing broken; explorables move."""

import contextlib

import pytest

from . import explorables
from .browser import BUILT, inspect, new_context, open_page, pages, redirect

pytestmark = pytest.mark.book

# Where no book is built the one page named here makes the tests fail, and say what to do, rather than skip.
PAGES = [name for name in pages(BUILT) if not redirect(BUILT / name)] or ["index.html"]
WITH_EXPLORABLES = [
    name
    for name in PAGES
    if (BUILT / name).is_file()
    and not name.startswith("_modules/")
    and "data-explorable=" in (BUILT / name).read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", PAGES)
def test_page(name, context, base, built):
    assert inspect(context, f"{base}/{name}", base, built) == []


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
    with new_context(browser, base) as context:
        assert inspect(context, f"{base}/{name}", base, built) == []


def test_the_book_has_explorables(built):
    assert WITH_EXPLORABLES


@pytest.mark.parametrize("name", WITH_EXPLORABLES)
def test_explorables_before_scripts_run(name, browser, base):
    with new_context(browser, base, java_script_enabled=False) as context, context.new_page() as page:
        page.goto(f"{base}/{name}")
        assert explorables.without_scripts(page) == []


@pytest.mark.parametrize("name", WITH_EXPLORABLES)
def test_explorables_move_by_keyboard(name, context, base):
    with open_page(context, f"{base}/{name}", base) as (page, problems):
        assert explorables.by_keyboard(page) == []
        assert problems == []
