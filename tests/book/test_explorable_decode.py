"""The explorable nsa_decode in Chromium: what its JavaScript computes and draws is what Python says."""

import math
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from minisys.viz.nsa_decode import (
    decades,
    nsa_decode,
    parts,
    predicted,
    short,
    shown,
    static_picture,
    time_label,
)

from . import explorables, reader
from .browser import serve

pytestmark = pytest.mark.book

CHAPTER = "notebooks/03_nsa_decoding.html"
FIGURE = "[data-explorable=nsa_decode]"
MEASURED = Path(__file__).parents[1] / "viz" / "decode_results"
PICTURE = "svg.decode[role=img]"
# What the figure shows: the table, the words, and the shapes of the picture.
SHOWN = """(figure) => {
    const svg = figure.querySelector("svg.decode[role=img]");
    const all = (what) => [...svg.querySelectorAll(what)];
    return {
        rows: Object.fromEntries([...figure.querySelectorAll(".decode-table tbody tr")].map(
            (row) => [row.className, [...row.cells].slice(1).map((cell) => cell.innerText)])),
        caption: figure.querySelector("caption").innerText,
        summary: figure.querySelector(".decode-summary").value,
        note: figure.querySelector(".decode-note").innerText,
        bars: all("rect").map((e) => [e.getAttribute("class"), parseFloat(e.getAttribute("width"))]),
        letters: all("text.letter").map((e) => e.textContent).join(""),
        labels: all("text.muted").map((e) => e.textContent),
        points: all("circle").map((e) => e.getAttribute("class")),
        places: all("circle").map((e) => ["cx", "cy"].map((at) => parseFloat(e.getAttribute(at)))),
        lines: all("path").map((e) => e.getAttribute("d").match(/[\\d.-]+/g).map(Number)),
    };
}"""
# What the reader does: keys pressed on a slider, one after the other.
STEPS = [
    ("Length", ["ArrowLeft"] * 3),
    ("Length", ["Home"]),
    ("Batch", ["End"]),
    ("Group size g", ["Home"]),
    ("Window w", ["End"]),
    ("Selected blocks n", ["End"]),  # 64 blocks of 64 tokens, of which 1,024 tokens have 16
    ("Length", ["End"]),
    ("Selected blocks n", ["Home"]),
    ("Time of a launch", ["Home"]),
    ("Time of a launch", ["ArrowRight"] * 5),
    ("Group size g", ["ArrowRight"] * 3),  # as measured, but for window and n
    ("Batch", ["Home"]),
    ("Length", ["ArrowLeft"] * 4),
    ("Window w", ["ArrowLeft"] * 3),
    ("Selected blocks n", ["ArrowRight"] * 13),  # as measured
    ("Batch", ["ArrowRight"] * 6),
    ("Group size g", ["ArrowRight"]),
]


@pytest.fixture(scope="module")
def explorable():
    return nsa_decode(directory=MEASURED)


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    return nsa_decode(directory=tmp_path_factory.mktemp("no results"), d_qk=192)


def expected_rows(state: dict, found: dict) -> dict[str, list[str]]:
    """The table, from Python's numbers."""
    moved, took = parts(found["bytes"]), parts(found["us"])
    whole, step_us = found["bytes"]["nsa"], found["step_us"]
    rows = {
        name: [shown(moved[name] / 1e6), f"{100 * moved[name] / whole:.1f} %", shown(took[name])]
        for name in moved
    }
    return rows | {
        "launches": ["", "", shown(state["launches"]["nsa"] * found["launch_us"])],
        "nsa": [shown(whole / 1e6), "100 %", shown(step_us["nsa"])],
        "dense": [shown(found["bytes"]["dense"] / 1e6), "", shown(step_us["dense"])],
        "quotient": [
            f"{found['bytes']['dense'] / whole:.1f}×", "", f"{step_us['dense'] / step_us['nsa']:.1f}×",
        ],
    }  # fmt: skip


def compare(figure: Locator, state: dict) -> None:
    """Everything shown in one state of the figure against Python."""
    computed = explorables.computed(figure)
    fields = ("length", "batch", "group", "window", "top_n", "launch_us")
    found = predicted(state, {name: computed[name] for name in fields})
    assert computed == found  # to the last digit

    drawn, (low, high) = figure.evaluate(SHOWN), decades(found)
    assert drawn["rows"] == expected_rows(state, found)
    bytes_, most = found["bytes"], max(found["bytes"]["dense"], found["bytes"]["nsa"])
    spans = [("dense", bytes_["dense"] / most), *((n, x / most) for n, x in parts(bytes_).items())]
    spans += [(name, count / bytes_["nsa"]) for name, count in parts(bytes_).items()]
    assert [name for name, _ in drawn["bars"]] == [name for name, _ in spans]
    widths = [width for _, width in drawn["bars"]]
    assert widths == pytest.approx([100 * share for _, share in spans], abs=0.006)
    wide = [name[0].upper() for name, x in parts(bytes_).items() if x / bytes_["nsa"] >= 0.05]
    assert drawn["letters"] == "".join(wide)
    assert drawn["labels"] == [
        *(time_label(decade) for decade in range(low, high + 1)),
        *(short(length) for length in state["lengths"][::2]),
    ]
    height = lambda us: (math.log10(us) - low) / (high - low)
    for line, curve in zip(drawn["lines"], (found["curve"]["nsa"], found["curve"]["dense"]), strict=True):
        assert line[::2] == [10 * i for i in range(11)]
        assert line[1::2] == pytest.approx([100 - 100 * height(us) for us in curve], abs=0.006)
    points = [(name, *point) for name in ("nsa", "dense") for point in found["points"][name]]
    assert drawn["points"] == [f"point {name}" for name, _, _ in points]
    for (_, t, us), (x, y) in zip(points, drawn["places"], strict=True):
        assert x == pytest.approx(13 + 84 * (math.log2(t) - 10) / 10, abs=0.006)
        assert y == pytest.approx(164 + 170 * (1 - height(us)), abs=0.006)
    heads = state["sizes"]["hq"] // found["group"]
    assert drawn["caption"].startswith(f"One layer with 64 query heads and {heads} key/value head")
    assert f"At {found['length']:,} tokens and batch {found['batch']} " in drawn["summary"]
    assert f"{bytes_['dense'] / bytes_['nsa']:.1f} times the bytes" in drawn["summary"]


def drive(figure: Locator, state: dict) -> None:
    explorables.drive(figure, state, STEPS, compare, lambda label: PICTURE)


def test_computes_what_python_computes(opened, explorable):
    with opened(explorable.html() * 2) as tab:
        first, second = tab.page.locator(FIGURE).all()
        before = second.inner_html()
        drive(first, explorable.state)
        assert second.inner_html() == before  # two on a page do not meet
        assert tab.problems == []


def test_chapter_computes_what_python_computes(tab, base):
    tab.look(1280, "light")
    tab.visit(f"{base}/{CHAPTER}", base)
    drive(tab.page.locator(FIGURE), explorables.stored_state(tab.page.locator(FIGURE)))
    assert tab.problems == []


def test_without_a_result_file(opened, unmeasured):
    """Keys longer than values, no points, and the page says why."""
    with opened(unmeasured.html(), from_file=True) as tab:
        figure = tab.page.locator(FIGURE)
        drive(figure, unmeasured.state)
        assert figure.locator("circle").count() == 0
        assert "there is no result file" in figure.evaluate(SHOWN)["note"]
        assert "3.00 TB/s, about the rate of an H100" in figure.inner_text()
        assert tab.problems == []


def test_says_what_was_measured_here(opened, explorable):
    notes = {
        None: "Measured here: NSA 41.2 µs, dense 368 µs, 8.9 times as long.",
        ("Length", "ArrowLeft"): "This length was not measured at this batch.",
        ("Batch", "ArrowRight"): "This length was not measured at this batch.",
        ("Window w", "ArrowRight"): "NSA was not measured with these settings: points are there for g = 16, "
        "w = 512, n = 16 and batch 1, 8, 64.",
    }
    with opened(explorable.html()) as tab:
        figure = tab.page.locator(FIGURE)
        for action, note in notes.items():
            if action == ("Batch", "ArrowRight"):
                note = notes["Window w", "ArrowRight"]  # no row at batch 16
            if action:
                explorables.operate(figure, action[0], [action[1]])
            expect(figure.locator(".decode-note").first).to_have_text(note)
        assert "Made-up GPU" in figure.inner_text()


def test_static_picture_is_what_the_page_starts_with(opened, explorable):
    """The same shapes, labels and size before and after scripts run."""
    shapes = """(svg) => ({
        elements: [...svg.querySelectorAll(":not(title)")].map((e) => [e.localName,
            ...[...e.attributes].map((a) => `${a.name}=${a.value}`).sort(),
            e.children.length ? "" : e.textContent]),
        title: svg.querySelector("title").textContent,
        height: svg.getBoundingClientRect().height,
    })"""
    static = f'<div class="explorable">{static_picture(explorable.state)}</div>'
    with opened(explorable.html() + static) as tab:
        moving, static = (tab.page.locator(PICTURE).nth(i).evaluate(shapes) for i in (0, 1))
        assert moving == static


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_for_every_reader(opened, explorable, width, theme):
    with opened(explorable.html(), width=width, theme=theme) as tab:
        figure = tab.page.locator(FIGURE)
        assert reader.examine(tab.page, theme) == []
        explorables.operate(figure, "Length", ["Home"])
        explorables.operate(figure, "Group size g", ["Home"])
        assert reader.examine(tab.page, theme) == []
        assert tab.problems == []


def test_by_keyboard_and_without_scripts(opened, explorable, page_without_scripts, tmp_path):
    with opened(explorable.html()) as tab:
        assert explorables.by_keyboard(tab.page) == []
        with serve(tmp_path) as base:
            page_without_scripts.goto(f"{base}/page.html")
            assert explorables.without_scripts(page_without_scripts) == []
