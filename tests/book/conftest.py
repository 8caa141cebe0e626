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


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page that holds nothing but the given HTML, from a server or from a file; gives the tab."""

    @contextlib.contextmanager
    def open_body(body, *, width=1280, theme="light", from_file=False):
        head = '<meta charset="utf-8"><title>t</title><link rel="icon" href="data:,">'
        style = "<style>:root { color-scheme: light dark } body { margin: 0 12px } </style>"
        ground = "<style>body { background: light-dark(#fff, #121212) }</style>"
        html = f'<!doctype html><html lang="en">{head}{style}{ground}<main><h1>t</h1>{body}</main>'
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        with contextlib.ExitStack() as stack:
            base = tmp_path.as_uri() if from_file else stack.enter_context(chromium.serve(tmp_path))
            tab = stack.enter_context(chromium.open_tab(stack.enter_context(chromium.new_context(browser))))
            tab.look(width, theme)
            tab.visit(f"{base}/page.html", base, patience=2000)
            yield tab

    return open_body
