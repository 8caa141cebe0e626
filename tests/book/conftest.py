"""The browser and the built book, shared by the tests of a process."""

import contextlib

import pytest
from playwright.sync_api import sync_playwright

from . import browser as chromium


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright, contextlib.closing(chromium.launch(playwright)) as running:
        yield running


@pytest.fixture(scope="session")
def built():
    """The folder of the built book; a test that needs it fails where it is missing."""
    if not (chromium.BUILT / "index.html").is_file():
        pytest.fail("the book is not built: run `make book`", pytrace=False)
    return chromium.BUILT


@pytest.fixture(scope="session")
def base(built):
    """The book's address on loopback."""
    with chromium.serve(built) as address:
        yield address


@pytest.fixture(scope="session")
def context(browser, base):
    with chromium.new_context(browser) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def tab(browser):
    """One tab for page after page: see `Tab`."""
    with chromium.new_context(browser) as context, chromium.open_tab(context) as shared:
        yield shared


@pytest.fixture(scope="session")
def page_without_scripts(browser):
    """A page for readers who switched JavaScript off."""
    with chromium.new_context(browser, java_script_enabled=False) as context, context.new_page() as page:
        yield page
