"""The checks of explorables find what they are there to find: a sound one, then one defect each."""

import pytest

from . import explorables
from .browser import serve

pytestmark = pytest.mark.book

# A drawing and a control of every kind; what is shown is the sum of their values.
SOUND = """<!doctype html><html lang="en"><title>t</title><link rel="icon" href="data:,">
<style>:focus-visible { outline: 2px solid blue; }</style>
<a href="#before">before</a>
<div data-explorable="demo">
    <svg role="img" aria-label="bars" width="300" height="100"><rect width="9" height="9"/></svg>
    <label>blocks <input type="range" min="1" max="9" value="3"></label>
    <label>layer <select><option>1<option>2<option disabled>3</select></label>
    <label>only one <select><option>5</select></label>
    <label>all <input type="checkbox" value="20"></label>
    <label>few <input name="n" type="radio" value="50" checked></label>
    <label>many <input name="n" type="radio" value="60"></label>
    <label>text <input value="1"></label>
    <div tabindex="0" role="region" aria-label="words">words</div>
    <button type="button" disabled>Reset</button>
    <table><tr><td></table>
    <script>{
        const root = document.currentScript.parentElement, find = (what) => root.querySelector(what);
        const fields = [...root.querySelectorAll("input, select")];
        const counts = (e) => e.checked || !["checkbox", "radio"].includes(e.type);
        const draw = () => {
            const sum = fields.filter(counts).reduce((sum, e) => sum + Number(e.value), 0);
            find("rect").setAttribute("width", sum);
            root.dataset.computed = JSON.stringify({sum});
        };
        root.addEventListener("input", () => { find("button").disabled = false; draw(); });
        find("button").addEventListener("click", () => {
            find("input").value = 2;
            find("button").disabled = true;
            draw();
        });
        draw();
    }</script>
</div>
<a href="#after">after</a>"""


def problems_of(tmp_path, tab, page_without_scripts, html, patience=200):
    (tmp_path / "page.html").write_text(html)
    with serve(tmp_path) as base:
        page_without_scripts.goto(f"{base}/page.html")
        found = explorables.without_scripts(page_without_scripts)
        tab.look(1280, "light")
        tab.visit(f"{base}/page.html", base, patience=500)
        return found + explorables.by_keyboard(tab.page, patience) + tab.problems


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ('value="3"', 'value="9"'),  # the slider begins at its end
        ('find("rect").setAttribute("width", sum)', 'find("td").textContent = sum'),
    ],
)
def test_sound_explorable(tmp_path, tab, page_without_scripts, old, new):
    assert old in SOUND
    assert problems_of(tmp_path, tab, page_without_scripts, SOUND.replace(old, new), 2000) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (' aria-label="bars"', "", "no label: <svg"),
        ("<label>blocks <input", "<label></label>blocks <input", "no label: <input"),
        ('width="300"', 'width="0"', "no drawing before scripts run"),
        ("<svg ", '<svg style="display: none" ', "no drawing before scripts run"),
        ("root.dataset.computed =", "const unused =", "an explorable did not start"),
        ('"input", () =>', '"click", () =>', "blocks: the drawing does not follow ArrowUp"),
        ('find("rect")', 'document.createElement("rect")', "blocks: the drawing does not follow ArrowUp"),
        ("JSON.stringify({sum})", "1", "blocks: data-computed does not follow ArrowUp"),
        (", select", "", "layer 123: the drawing does not follow ArrowDown"),
        ("e.checked ||", "", "all: the drawing does not follow Space"),
        ('"click", ()', '"dblclick", ()', "Reset: the drawing does not follow Enter"),
        ("draw();\n        });", "});", "Reset: the drawing does not follow Enter"),
        ("2px solid blue", "none", "blocks: does not show that it holds the keyboard"),
        ("<input type", '<input tabindex="-1" type', "blocks: Tab does not reach it"),
        ("<button", '<button tabindex="-1"', "Reset: Tab does not reach it"),
        (
            '"input", () => {',
            '"input", () => { find("svg").focus(); find("select").focus();',
            "blocks: loses",
        ),
        (
            "draw();\n    }",
            'draw(); root.onkeydown = (e) => { if (e.key === "Tab") e.preventDefault(); }; }',
            "Tab does not leave the explorable",
        ),
    ],
)
def test_defect_is_found(tmp_path, tab, page_without_scripts, old, new, expected):
    assert old in SOUND
    found = problems_of(tmp_path, tab, page_without_scripts, SOUND.replace(old, new))
    assert any(expected in problem for problem in found), found


def test_explorable_without_controls_is_found(tmp_path, tab, page_without_scripts):
    html = (
        '<div data-explorable="d" data-computed="1"><svg width="300" height="100" aria-label="a"></svg></div>'
    )
    assert "no control" in problems_of(tmp_path, tab, page_without_scripts, html)
