"""The page checks find what they are there to find: small pages with one defect each."""

import pytest

from .browser import dead_link, inspect, launch, pages, serve

pytestmark = pytest.mark.book

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
HEAD = f"<!doctype html><html lang=en><title>t</title><link rel=icon href='{PIXEL}'>"


def problems_of(tmp_path, tab, body, **files):
    for name, text in {"page": body, **files}.items():
        (tmp_path / f"{name}.html").write_text(HEAD + text)
    with serve(tmp_path) as base:
        return inspect(tab, f"{base}/page.html", base, tmp_path)


def test_sound_page(tmp_path, tab):
    body = f"""<h1 id=top>t</h1> <img src="{PIXEL}" alt=""> <a href="#top">a</a> <a href="#">b</a>
        <a href="other.html#there">c</a> <a href="https://example.org/out">d</a> <a href="mailto:a@b.c">e</a>
        <script>console.log("fine"); console.warn("fine")</script>"""
    assert problems_of(tmp_path, tab, body, other="<p id=there>") == []


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
def test_defect_is_found(tmp_path, tab, body, expected):
    found = problems_of(tmp_path, tab, body, other="<p id=there>")
    assert any(expected in problem for problem in found), found


def test_each_page_has_its_own_problems(tmp_path, tab):
    assert problems_of(tmp_path, tab, '<img src="gone.png">') != []
    assert problems_of(tmp_path, tab, "<p>sound</p>") == []


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
