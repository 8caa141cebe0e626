"""Serving a built book on loopback, opening its pages in Chromium and listing what is wrong with them.

Every function here works on any folder of HTML pages, so that the tests can show on small broken pages
that each defect is found.
"""

import contextlib
import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, Response
from playwright.sync_api import TimeoutError as PlaywrightTimeout

BUILT = Path(__file__).parents[2] / "_build" / "html"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_OPTIONS = [
    "--no-sandbox",  # containers run as root
    # No name but the book's own server leads anywhere. (Playwright's routes would switch the cache off.)
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    # Chromium itself asks for nothing.
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SETTLE = """async () => {
    await document.fonts.ready;
    await window.MathJax?.startup?.promise;
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => {});
    }
}"""
# An explorable has drawn itself when it shows what it computed.
STARTED = "() => [...document.querySelectorAll('[data-explorable]')].every((e) => e.dataset.computed)"
BROKEN_IMAGES = "() => [...document.images].filter((i) => !i.naturalWidth).map((i) => i.currentSrc || i.src)"
# TeX that MathJax could not read, and TeX that it never saw.
BROKEN_MATHS = """() => [
    ...[...document.querySelectorAll("mjx-merror")].map((e) => e.getAttribute("title") || e.textContent),
    ...[...document.querySelectorAll(".math")].filter((e) => !e.querySelector("mjx-container"))
        .map((e) => "not typeset: " + e.textContent.slice(0, 60)),
]"""
LINKS = """() => [...document.querySelectorAll("a[href], area[href]")].map(
    (a) => new URL(a.getAttribute("href"), document.baseURI).href)"""


# --- the book ---------------------------------------------------------------------------------------------


def pages(folder: Path) -> list[str]:
    """The HTML pages of a book, relative to its folder; `_static` holds fragments of the theme, not pages."""
    found = (path.relative_to(folder) for path in folder.rglob("*.html"))
    return sorted(path.as_posix() for path in found if path.parts[0] != "_static")


def redirect(page: Path) -> str | None:
    """Where a page that holds nothing itself sends its reader, such as the root of a book."""
    found = re.search(
        r'http-equiv="refresh" content="0; *url=([^"]+)"', page.read_text(encoding="utf-8"), re.I
    )
    return found[1] if found else None


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of loopback; gives its address, without a slash at the end."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for many requests

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Anchors(HTMLParser):
    """Collects what a fragment of a link can point at."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.names.add(value)


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    parser = Anchors()
    parser.feed(page.read_text(encoding="utf-8"))
    return frozenset(parser.names)


def dead_link(link: str, base: str, folder: Path) -> str | None:
    """Why an internal link leads nowhere; None for one that does not, or that leaves the book."""
    if not link.startswith(base + "/"):
        return None
    parts = urlsplit(link[len(base) + 1 :])
    target = folder / unquote(parts.path)
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return f"dead link: {parts.path} does not exist"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
        return f"dead link: {parts.path} has no #{parts.fragment}"
    return None


# --- the browser ------------------------------------------------------------------------------------------


def launch(playwright: Playwright) -> Browser:
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        raise RuntimeError(f"no Chromium found: none of {', '.join(CHROMIUM_NAMES)} is installed")
    return playwright.chromium.launch(executable_path=executable, args=CHROMIUM_OPTIONS)


def is_inside(address: str, base: str) -> bool:
    """Whether a request stays in the book: its own server or folder, or data that the page itself holds."""
    return address.startswith((base + "/", "data:", "blob:", "about:"))


@contextlib.contextmanager
def new_context(browser: Browser, **options: object) -> Iterator[BrowserContext]:
    """A fresh browser profile; options are Playwright's, such as ``viewport``."""
    fresh = browser.new_context(service_workers="block", **options)
    with contextlib.closing(fresh) as context:
        yield context


class Tab:
    """A browser tab that shows one page after the other, and lists what goes wrong with the one it shows.

    One tab for many pages takes a quarter of the time of a tab for each: Chromium keeps the process, and in
    it the compiled scripts.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.base = ""
        self.problems: list[str] = []
        page.on("request", lambda request: self._on_request(request.url))
        page.on("websocket", lambda socket: self._on_request(socket.url))
        page.on("response", self._on_response)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error.message}"))

    def look(self, width: int, theme: str, media: str = "screen") -> None:
        """What the next page meets: a window of that many pixels, and a system that is light or dark."""
        self.page.set_viewport_size({"width": width, "height": 900})
        # Without transitions no check sees a colour that is still on its way.
        self.page.emulate_media(color_scheme=theme, media=media, reduced_motion="reduce")

    def visit(self, address: str, base: str, patience: int = 10_000) -> None:
        """Open a page and let it settle; from then on `problems` is about this page.

        patience: milliseconds in which the page's explorables have to start.
        """
        self.base, self.problems = base, []
        self.page.goto(address, wait_until="load")
        self.page.evaluate(SETTLE)
        try:
            self.page.wait_for_function(STARTED, timeout=patience)
        except PlaywrightTimeout:
            self.problems.append("an explorable did not start")

    def _on_request(self, target: str) -> None:
        if not is_inside(target, self.base):
            self.problems.append(f"request leaves the book: {target}")

    def _on_response(self, answer: Response) -> None:
        if answer.status >= 400:
            self.problems.append(f"HTTP {answer.status}: {answer.url}")

    def _on_console(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self.problems.append(f"console error: {line.text}")


@contextlib.contextmanager
def open_tab(context: BrowserContext) -> Iterator[Tab]:
    with contextlib.closing(context.new_page()) as page:
        yield Tab(page)


@contextlib.contextmanager
def open_page(
    context: BrowserContext, address: str, base: str, patience: int = 10_000
) -> Iterator[tuple[Page, list[str]]]:
    """Open a page in a tab of its own; gives it with the list of its problems, which goes on growing."""
    with open_tab(context) as tab:
        tab.visit(address, base, patience)
        yield tab.page, tab.problems


def inspect(tab: Tab, address: str, base: str, folder: Path) -> list[str]:
    """Everything that is broken on one page: requests, errors, images, maths and links."""
    tab.visit(address, base)
    tab.problems += [f"missing image: {source}" for source in tab.page.evaluate(BROKEN_IMAGES)]
    tab.problems += [f"maths: {message}" for message in tab.page.evaluate(BROKEN_MATHS)]
    dead = (dead_link(link, base, folder) for link in tab.page.evaluate(LINKS))
    tab.problems += [reason for reason in dead if reason]
    return list(dict.fromkeys(tab.problems))
