"""The reader's checks find what they are there to find: a sound page, and the same with one defect each."""

import pytest

from . import reader
from .browser import serve

pytestmark = pytest.mark.book

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
SOUND = f"""<!doctype html><html lang=en><title>t</title>
<style>
    :root {{ color-scheme: light dark; }}
    body {{ background: light-dark(#fff, #111); color: light-dark(#111, #eee); }}
    .box {{ width: 200px; height: 60px; overflow: auto; }}
    .far {{ position: absolute; left: -9999px; visibility: hidden; }}
</style>
<main>
    <h1>Title</h1> <h2>Part</h2> <h3>Piece</h3> <h2>Part</h2>
    <p>Words and <a href="#there">a link</a> among them. <span class="far">off</span></p>
    <div class="box" tabindex="0"><p style="width: 2000px">wide</p></div>
    <div class="box"><p style="height: 200px"><a href="#there">high</a></p></div>
    <img src="{PIXEL}" alt="A dot"> <img src="{PIXEL}" alt="" role="none"> <svg aria-hidden="true"></svg>
    <svg role="img" aria-label="two words" width="300" height="100">
        <rect width="200" height="50" fill="#222"/>
        <text x="9" y="30" fill="#fff"><tspan>on a box</tspan></text>
        <text x="9" y="90" style="fill: light-dark(#111, #eee)">below</text>
        <rect width="90" height="90" fill="none"/>
    </svg>
    <pre><span>if</span> <b>if</b> <span>if</span></pre>
    <!-- here -->
</main>"""


def show(tab, html, width=1280, theme="light"):
    tab.look(width, theme)
    tab.page.set_content(html)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_sound_page(tab, width, theme):
    show(tab, SOUND, width, theme)
    assert reader.examine(tab.page, theme) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<div style="width: 2000px"><b>x</b></div>', "pixels wide in a window of 1280"),
        (
            '<div style="overflow: hidden"><p style="width: 1300px; text-align: right">x</p></div>',
            "too wide: <p",
        ),
        ('<p style="margin-left: -50px">x</p>', "too wide: <p"),
        ('<div class="box"><p style="width: 900px">x</p></div>', 'cannot scroll: <div class="box">'),
        ('<div class="box"><p style="height: 900px">x</p></div>', 'cannot scroll: <div class="box">'),
        (
            '<div class="box"><p style="height: 900px" tabindex="-1">x</p></div>',
            'cannot scroll: <div class="box">',
        ),
        (f'<img src="{PIXEL}">', "no alt text: <img"),
        (f'<img src="{PIXEL}" alt=" ">', "empty alt text: <img"),
        ('<img src="../images/plot_1.png" alt="images/plot_1.png">', "the name of the file: <img"),
        ('<figure><svg width="9" height="9"></svg></figure>', "no label: <svg"),
        ("<canvas></canvas>", "no label: <canvas"),
        ("<h1>x</h1>", "2 headings of the first level"),
        ("<h4>x</h4>", 'heading skips a level: h4 "x"'),
        ("<button></button>", "axe button-name (critical)"),
        ("<ul><p>x</p></ul>", "axe list (serious)"),
        ("</main><p>x</p>", "axe region (moderate)"),
        ('<svg><text y="9" fill="#999">x</text></svg>', "text in a drawing has a contrast of 2.8"),
        (
            '<svg><rect width="99" height="99"/><text y="9"><tspan fill="#333">x</tspan></text></svg>',
            "text in a drawing has a contrast of 1.7",
        ),
        ('<p style="color: #999">x</p>', "axe color-contrast (serious): <p"),
        (
            '<p>Words <a href="#b" style="color: #444; text-decoration: none">b</a></p>',
            "axe link-in-text-block",
        ),
        # Words that look alike are looked at once, but these are not alike.
        ('<b>if</b> <b style="background: #333">if</b>', "axe color-contrast (serious): <b"),
        ('<b>if</b> <p style="opacity: 0.4"><b>if</b></p>', "axe color-contrast (serious): <b>if</b>"),
        (
            '<p style="color: #888"><i style="font-size: 40px">if</i> <i>if</i></p>',
            "axe color-contrast (serious): <i>if</i>",
        ),
        (
            '<p style="color: #888; font-size: 20px"><b>if</b> <b style="font-weight: 400">if</b></p>',
            "axe color-contrast (serious): <b style",
        ),
        # These are, but axe excuses the first.
        *(
            (f'<div style="color: #999">{first} <i>b</i></div>', "axe color-contrast (serious): <i>b</i>")
            for first in (
                "<i>()</i>",
                "<i hidden>a</i>",
                '<svg><text y="9" fill="#222">a</text></svg>',
                '<i style="visibility: hidden">a</i>',
                '<i style="position: absolute; left: -9999px">a</i>',
                '<i style="position: absolute; left: 9999px">a</i>',
                '<i style="position: absolute; top: -9999px">a</i>',
                '<i style="position: absolute; width: 1px; height: 1px; overflow: hidden">a</i>',
                "<label><i>a</i><input disabled></label>",
                '<button style="color: inherit; background: none; font: inherit" disabled><i>a</i></button>',
                '<span role="button" tabindex="0" aria-disabled="true"><i>a</i></span>',
            )
        ),
    ],
)
def test_defect_is_found(tab, body, expected):
    show(tab, SOUND.replace("<!-- here -->", body))
    found = reader.examine(tab.page, "light", patience=100)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("background: light-dark(#fff, #111)", "background: #fff", "the page is not dark"),
        ("color: light-dark(#111, #eee)", "color: #777", "axe color-contrast (serious)"),
        ("fill: light-dark(#111, #eee)", "fill: #111", "text in a drawing has a contrast of 1.0"),
        (
            '<a href="#there">',
            '<a href="#there" style="color: light-dark(#00f, #bbb); text-decoration: none">',
            "axe link-in-text-block (serious)",
        ),
    ],
)
def test_defect_in_the_dark_is_found(tab, old, new, expected):
    assert old in SOUND
    show(tab, SOUND.replace(old, new), theme="dark")
    found = reader.examine(tab.page, "dark")
    assert any(expected in problem for problem in found), found


def test_light_page_that_is_dark_is_found(tab):
    show(tab, SOUND.replace("light-dark(#fff, #111)", "#111"))
    assert "the page is not light" in reader.examine(tab.page, "light")


def test_defect_of_the_narrow_page_is_found(tab):
    show(tab, SOUND.replace("<!-- here -->", '<p style="min-width: 400px">x</p>'), 390)
    assert reader.examine(tab.page, "light")[0].endswith("pixels wide in a window of 390")
    show(tab, SOUND.replace("<!-- here -->", '<p style="min-width: 400px">x</p>'), 1280)
    assert reader.examine(tab.page, "light") == []


def test_boxes_that_take_the_focus_a_moment_later_are_waited_for(tab):
    script = "<script>setTimeout(() => { document.querySelector('#late').tabIndex = 0; }, 200)</script>"
    body = f'<div class="box" id="late"><p style="width: 900px">x</p></div>{script}'
    show(tab, SOUND.replace("<!-- here -->", body))
    assert reader.examine(tab.page, "light") == []


# --- paper ------------------------------------------------------------------------------------------------

PRINTED = """<!doctype html><style>
    body { background: #111; color: #eee; }
    body.paper { background: #fff; color: #111; }
    pre { white-space: pre; overflow: auto; }
    @media print { pre { white-space: pre-wrap; } }
</style>
<script>addEventListener("beforeprint", () => document.body.classList.add("paper"));</script>
<p>Let <span class="math"><mjx-container><mjx-math>x</mjx-math></mjx-container></span> be</p>
<div class="math"><mjx-container><mjx-math style="display: inline-block">y</mjx-math></mjx-container></div>
<pre>WORDS</pre>""".replace("WORDS", "some words of code " * 20)


def test_sound_print(tab):
    show(tab, PRINTED, theme="dark")
    assert reader.on_paper(tab.page) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("@media print {", "@media print { .math { display: none; }", "maths not printed: x"),
        ("@media print {", "@media print { .math { visibility: hidden; }", "maths not printed: x"),
        ("<p>Let", "<details><p>Let", "maths not printed: x"),
        ("<mjx-math>x</mjx-math>", "", "maths not printed: "),
        ("<mjx-container><mjx-math>x</mjx-math></mjx-container>", "x", "maths not printed: x"),
        ("addEventListener(", "console.log(", "maths printed in light ink: x"),
        ("display: inline-block", "display: inline-block; width: 900px", "maths cut off: y"),
        (
            '<div class="math">',
            '<div class="math" style="overflow: auto; width: 9px; text-indent: 5px">',
            "maths cut off: y",
        ),
        ("pre-wrap", "pre", "code cut off: some words"),
    ],
)
def test_defect_of_a_print_is_found(tab, old, new, expected):
    assert old in PRINTED
    show(tab, PRINTED.replace(old, new), theme="dark")
    found = reader.on_paper(tab.page)
    assert any(expected in problem for problem in found), found


# --- search -----------------------------------------------------------------------------------------------

SEARCH = """<!doctype html><link rel="icon" href="data:,"><title>t</title>
<form action="search.html"><input name="q"></form> <ul id="search-results"></ul>
<script>
    addEventListener("keydown", (event) => {
        if (event.ctrlKey && event.key === "k") {
            event.preventDefault();
            document.querySelector("input").focus();
        }
    });
    const words = new URLSearchParams(location.search).get("q");
    if (words) document.querySelector("ul").innerHTML = `<li><a href="book/${words}.html#term">${words}</a>`;
</script>"""


@pytest.mark.parametrize(
    ("old", "new", "works"),
    [
        ("", "", True),
        ('event.key === "k"', 'event.key === "j"', False),
        ("words)", "false)", False),
        ("book/$", "$", False),
    ],
)
def test_search(tmp_path, tab, old, new, works):
    assert old in SEARCH
    (tmp_path / "book").mkdir()
    for name in ("search.html", "book/glossary.html"):
        (tmp_path / name).write_text(SEARCH.replace(old, new))
    with serve(tmp_path) as base:
        tab.visit(f"{base}/search.html", base)
        found = reader.search(tab.page, "glossary", "book/glossary.html", patience=10_000 if works else 500)
        assert tab.page.url.endswith("book/glossary.html#term") == works
    assert found == ([] if works else ["the search for 'glossary' does not find book/glossary.html"])
