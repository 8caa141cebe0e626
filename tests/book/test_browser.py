"""The page checks find what they are there to find: small pages with one defect each."""

import pytest

from . import explorables
from .browser import dead_link, inspect, launch, new_context, open_page, pages, serve

pytestmark = pytest.mark.book

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
HEAD = f"<!doctype html><html lang=en><title>t</title><link rel=icon href='{PIXEL}'>"


def problems_of(tmp_path, browser, body, **files):
    for name, text in {"page": body, **files}.items():
        (tmp_path / f"{name}.html").write_text(HEAD + text)
    with serve(tmp_path) as base, new_context(browser, base) as context:
        return inspect(context, f"{base}/page.html", base, tmp_path)


def test_sound_page(tmp_path, browser):
    body = f"""<h1 id=top>t</h1> <img src="{PIXEL}" alt=""> <a href="#top">a</a> <a href="#">b</a>
        <a href="other.html#there">c</a> <a href="https://example.org/out">d</a> <a href="mailto:a@b.c">e</a>
        <script>console.error("Got invalid theme mode: x"); console.log("fine")</script>
        <script>const THEBE_JS_URL = 1</script>
        <script>const THEBE_JS_URL = 2</script>"""
    assert problems_of(tmp_path, browser, body, other="<p id=there>") == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<script src="https://cdn.example.org/a.js"></script>', "request leaves the book: https://cdn"),
        ('<img src="http://127.0.0.2:9/a.png">', "request leaves the book: http://127.0.0.2"),
        ("<style>@import url(//fonts.example.org/a.css);</style>", "request leaves the book: http://fonts"),
        ("<script>fetch('https://example.org/data')</script>", "request leaves the book"),
        ("<script>new WebSocket('wss://example.org/s')</script>", "request leaves the book: wss://"),
        ("<script>console.error('broken')</script>", "console error: broken"),
        ("<script>undefinedName.call()</script>", "script error: undefinedName is not defined"),
        ("<script>throw new Error('theme mode is broken')</script>", "script error: theme mode is broken"),
        ('<img src="gone.png">', "missing image: "),
        ('<img src="gone.png" loading="lazy" style="margin-top: 9999px">', "missing image: "),
        ('<link rel="stylesheet" href="gone.css">', "HTTP 404: "),
        ('<a href="gone.html">x</a>', "dead link: gone.html does not exist"),
        ('<a href="other.html#gone">x</a>', "dead link: other.html has no #gone"),
        ('<a href="#gone">x</a>', "dead link: page.html has no #gone"),
        ('<svg><a href="gone.html"><text>x</text></a></svg>', "dead link: gone.html does not exist"),
        ('<span class="math">\\(x\\)</span>', "maths: not typeset: \\(x\\)"),
        (
            '<mjx-merror title="Undefined control sequence">x</mjx-merror>',
            "maths: Undefined control sequence",
        ),
    ],
)
def test_defect_is_found(tmp_path, browser, body, expected):
    found = problems_of(tmp_path, browser, body, other="<p id=there>")
    assert any(expected in problem for problem in found), found


def test_links_are_followed_to_folders_and_through_encoded_names(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "index.html").write_text("<p id='é'>")
    base = "http://127.0.0.1:1"
    assert dead_link(f"{base}/a%20b/#%C3%A9", base, tmp_path) is None
    assert "has no #e" in dead_link(f"{base}/a%20b/index.html#e", base, tmp_path)


def test_pages_leaves_out_the_themes_fragments(tmp_path):
    for name in ("index.html", "_static/macros.html", "api/a.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert pages(tmp_path) == ["api/a.html", "index.html"]


def test_missing_chromium_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="no Chromium found"):
        launch(None)


EXPLORABLE = """<div data-explorable="demo">
    <svg role="img" aria-label="bars" width="300" height="100"><rect width="9" height="9"/></svg>
    <label>blocks <input type="range" min="1" max="9" value="3"></label>
    <script>{
        const root = document.currentScript.parentElement, slider = root.querySelector("input");
        const draw = () => {
            root.querySelector("rect").setAttribute("width", slider.value);
            root.dataset.computed = JSON.stringify({blocks: Number(slider.value)});
        };
        slider.addEventListener("input", draw);
        draw();
    }</script></div>"""


def explorable_problems(tmp_path, browser, html):
    (tmp_path / "page.html").write_text(HEAD + html)
    with serve(tmp_path) as base:
        with new_context(browser, base, java_script_enabled=False) as context, context.new_page() as page:
            page.goto(f"{base}/page.html")
            found = explorables.without_scripts(page)
        with (
            new_context(browser, base) as context,
            open_page(context, f"{base}/page.html", base, patience=500) as (page, problems),
        ):
            return found + explorables.by_keyboard(page) + problems


def test_sound_explorable(tmp_path, browser):
    assert explorable_problems(tmp_path, browser, EXPLORABLE) == []
    at_the_end = EXPLORABLE.replace('value="3"', 'value="9"')
    assert explorable_problems(tmp_path, browser, at_the_end) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (' aria-label="bars"', "", "no label: <svg"),
        ("<label>blocks <input", "<label></label>blocks <input", "no label: <input"),
        ('width="300"', 'width="0"', "no drawing before scripts run"),
        ("<svg ", '<svg style="display: none" ', "no drawing before scripts run"),
        ('"input", draw', '"click", draw', "the drawing does not follow"),
        ("Number(slider.value)", "3", "data-computed does not follow"),
        ("root.dataset.computed =", "const unused =", "an explorable did not start"),
        ('value="3"', 'value="3" disabled', "takes no keyboard focus"),
        ('type="range"', 'type="text"', "no slider"),
    ],
)
def test_defect_of_an_explorable_is_found(tmp_path, browser, old, new, expected):
    assert old in EXPLORABLE
    found = explorable_problems(tmp_path, browser, EXPLORABLE.replace(old, new))
    assert any(expected in problem for problem in found), found
