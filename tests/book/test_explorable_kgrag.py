"""The explorable kgrag_graph in Chromium: what its JavaScript finds and draws is what the package finds."""

from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Locator, expect

from minisys.kgrag.chunking import text_to_search
from minisys.kgrag.embedding import HashingEmbedder
from minisys.kgrag.entities import link_triples
from minisys.kgrag.metrics import retrieval_scores
from minisys.kgrag.types import Corpus
from minisys.kgrag.world import make_world
from minisys.viz.kgrag_graph import METHODS, drawn_paths, evidence, expansion, kgrag_graph, static_picture

from . import explorables, reader
from .browser import serve

pytestmark = pytest.mark.book

CHAPTER = "notebooks/21_kgrag_organization.html"
FIGURE = "[data-explorable=kgrag_graph]"
HOSTILE = "</script><script>document.title = 'x'</script><img src=x onerror='alert(1)'>"
# What the figure shows: the table, the lists, and the paths and stars of the picture.
SHOWN = """(figure) => ({
    scores: [...figure.querySelectorAll(".kg-methods tbody tr")].map(
        (row) => [...row.cells].slice(2).map((cell) => cell.innerText)),
    places: [...figure.querySelectorAll(".kg-places")].map((each) => each.textContent),
    inside: [...figure.querySelectorAll(".kg-places")].map((each) => each.querySelectorAll(".in").length),
    current: [...figure.querySelectorAll(".kg-methods tbody tr")].findIndex((row) => row.ariaCurrent),
    context: [...figure.querySelectorAll(".kg-context ol li")].map((item) => item.textContent),
    missed: [...figure.querySelectorAll(".kg-context ul li")].map((item) => item.textContent),
    facts: [...figure.querySelectorAll(".kg-facts li button")].map(
        (button) => [button.ariaPressed, button.textContent]),
    hits: figure.querySelectorAll(".graph path.hit").length,
    paths: Object.fromEntries([...figure.querySelectorAll(".graph path:not(.hit)")].map(
        (path) => [path.getAttribute("class"), path.getAttribute("d")])),
})"""

# What the reader does: keys pressed on a slider, the entry chosen in a menu, or the fact that is pressed.
STEPS = [
    ("Sentences k", ["ArrowRight"]),
    ("Hops m", ["Home"]),
    ("Hops m", ["End"]),
    ("fact", 0),
    ("fact", 3),
    ("Method", "kg2rag"),
    ("Hops m", ["ArrowLeft"]),
    ("fact", 2),
    ("Sentences k", ["End"]),
    ("fact", 0),
    ("Method", "dense"),
    ("fact", 4),
    ("Sentences k", ["Home"]),
    ("Question", "1"),
    ("Method", "kg2rag-paper"),
    ("Sentences k", ["PageUp", "ArrowRight"]),
    ("Hops m", ["Home", "ArrowRight"]),
    ("fact", 1),
    ("Method", "kg2rag"),
    ("fact", 1),
    ("fact", 2),
    ("Question", "4"),
    ("Sentences k", ["ArrowRight"] * 4),
    ("fact", 0),
]


@pytest.fixture(scope="module")
def explorable():
    """The small world under a hashing embedder, with names and sentences that try to get out of elements."""
    questions, embedder = make_world(0, 100).questions, HashingEmbedder(64)
    chunks = questions.chunks()
    vectors = embedder([text_to_search(chunk) for chunk in chunks]).astype(np.float16)
    graph = link_triples(questions.triples, chunks)
    near = np.argsort(-(vectors @ embedder([questions.questions[31].text])[0]))[:3]
    for number in near.tolist():
        chunks[number] = replace(chunks[number], text=chunks[number].text + HOSTILE)
    triple = int(np.flatnonzero(np.isin(graph.chunks, near))[0])
    graph.entities[graph.tails[triple]] += HOSTILE
    graph.relations[triple] += HOSTILE
    asked = tuple(replace(each, text=each.text + HOSTILE) if each.id == "world-0017" else each
                  for each in questions.questions)  # fmt: skip
    return kgrag_graph(replace(questions, questions=asked), Corpus(chunks, vectors, graph), embedder)


def do(figure: Locator, label: str, action: list[str] | str | int) -> None:
    if isinstance(action, int):
        figure.locator(".kg-facts li button").nth(action).press("Enter")
        return
    explorables.operate(figure, label, action)


def compare(figure: Locator, state: dict) -> None:
    """Everything shown in one state of the figure against the package."""
    shown = explorables.computed(figure)
    choice = {name: shown[name] for name in ("question", "method", "hops", "k", "cut")}
    found = {method: evidence(state, choice | {"method": method}) for method in METHODS}
    far = {method: evidence(state, choice | {"method": method, "k": state["most_k"]}) for method in METHODS}
    own, gold = found[choice["method"]], state["questions"][choice["question"]]["gold"]
    triples, reached = expansion(state, choice)
    assert shown["triples"] == triples
    assert shown["reached"] == reached
    assert tuple(shown["seeds"]) == found["kg2rag"].seeds
    assert shown["found"] == found["kg2rag"].found.tolist() == found["kg2rag-paper"].found.tolist()
    assert {name: tuple(each) for name, each in shown["contexts"].items()} == {
        name: each.chunks for name, each in found.items()
    }
    trees = [list(tree.triples) for tree in own.trees if tree.triples]
    if choice["method"] == "kg2rag":  # by score in the package, by their heaviest edge in the figure
        shown["trees"].sort()
        trees.sort()
    assert shown["trees"] == trees
    scores = {name: retrieval_scores(each.chunks, gold) for name, each in found.items()}
    for name, each in scores.items():
        expected = {"precision": each.precision, "recall": each.recall, "f1": each.f1}
        assert shown["scores"][name] == pytest.approx(expected, abs=1e-12)

    drawn = figure.evaluate(SHOWN)
    exact = [[each.precision, each.recall, each.f1] for each in scores.values()]
    assert np.array(drawn["scores"], float) == pytest.approx(np.array(exact), abs=0.00501)
    stars = lambda chunks: ["★" if chunk in gold else "·" for chunk in chunks]
    assert drawn["places"] == ["".join(stars(each.chunks)) for each in far.values()]
    assert drawn["inside"] == [len(each.chunks) for each in found.values()]
    assert drawn["current"] == METHODS.index(choice["method"])
    assert drawn["paths"] == drawn_paths(state, choice)
    for item, number in zip(drawn["context"], own.chunks, strict=True):
        assert item.startswith(("★ " if number in gold else "") + state["chunks"][number][2])
        assert item.endswith("(seed)") == (number in shown["seeds"])
    for item, number in zip(drawn["missed"], [c for c in gold if c not in own.chunks], strict=True):
        assert item.startswith("☆ missed: " + state["chunks"][number][2])
        order = far[choice["method"]].chunks
        assert number not in order or item.endswith(f": at place {order.index(number) + 1}")
        if choice["method"] != "dense":
            assert ("not reached" in item) == (number not in shown["found"])
    chunk = [triple[3] for triple in state["triples"]]
    facts = {t for t in range(len(chunk)) if chunk[t] in own.chunks} | set(choice["cut"])
    assert sorted(text.split(" ", 1 + (pressed == "true"))[-1] for pressed, text in drawn["facts"]) == sorted(
        in_words(state, number) for number in facts
    )
    assert sum(pressed == "true" for pressed, _ in drawn["facts"]) == len(choice["cut"])
    assert drawn["hits"] == len(set(triples) | facts)


def in_words(state: dict, number: int) -> str:
    head, relation, tail, _ = state["triples"][number]
    return f"{state['entities'][head]} {state['relations'][relation]} {state['entities'][tail]}"


def drive(figure: Locator, state: dict) -> None:
    explorables.drive(figure, state, STEPS, compare, lambda label: "svg.graph", do)


def test_finds_what_the_package_finds(opened, explorable):
    with opened(explorable.html() * 2) as tab:
        first, second = tab.page.locator(FIGURE).all()
        before = second.inner_html()
        drive(first, explorable.state)
        assert second.inner_html() == before  # two on a page do not meet
        assert tab.page.title() == "t"  # no script of a document ran
        assert tab.page.locator(f"{FIGURE} img").count() == 0
        assert tab.problems == []


def test_chapter_finds_what_the_package_finds(tab, base):
    tab.look(1280, "light")
    tab.visit(f"{base}/{CHAPTER}", base)
    drive(tab.page.locator(FIGURE), explorables.stored_state(tab.page.locator(FIGURE)))
    assert tab.problems == []


def test_cutting_every_edge_and_restoring(opened, explorable):
    """One fact after the other is cut from the keyboard, which stays where it is; then all come back."""
    with opened(explorable.html(), from_file=True) as tab:
        figure, state = tab.page.locator(FIGURE), explorable.state
        do(figure, "Method", "kg2rag")
        before, restore = explorables.computed(figure), figure.get_by_role("button", name="Restore all edges")
        assert restore.is_disabled()
        for number in range(4):
            button = figure.locator(".kg-facts li button").nth(number)
            words = button.locator("span").text_content()
            button.press("Space")
            expect(button).to_have_attribute("aria-pressed", "true")
            assert button.evaluate("(e) => e === document.activeElement")
            assert in_words(state, explorables.computed(figure)["cut"][-1]) == words
            compare(figure, state)
        after = explorables.computed(figure)["contexts"]
        assert [after[name] == before["contexts"][name] for name in METHODS] == [True, False, False]
        button.press("Space")
        assert len(explorables.computed(figure)["cut"]) == 3
        restore.press("Enter")
        assert explorables.computed(figure) == before
        assert tab.problems == []


def test_cutting_in_the_picture(opened, explorable):
    """A press on an edge of the picture cuts it; another question begins with the whole graph."""
    with opened(explorable.html()) as tab:
        figure, state = tab.page.locator(FIGURE), explorable.state
        edge = figure.locator(".graph path.hit").first
        words = edge.locator("title").text_content()
        edge.dispatch_event("click")
        [cut] = explorables.computed(figure)["cut"]
        assert in_words(state, cut) == words
        compare(figure, state)
        do(figure, "Question", "2")
        assert explorables.computed(figure)["cut"] == []
        shown, before = explorables.computed(figure), figure.get_attribute("data-computed")
        places, triples = state["questions"][2]["places"], state["triples"]
        drawn = [t for t, triple in enumerate(triples) if triple[3] in shown["contexts"]["kg2rag-paper"]]
        (x1, y1), (x2, y2) = (places[end] for end in triples[drawn[0]][::2])
        box = figure.locator("svg.graph").bounding_box()
        x, y = (0.85 * x1 + 0.15 * x2) / 1000 * box["width"], 0.85 * y1 + 0.15 * y2
        tab.page.mouse.click(box["x"] + x, box["y"] + y)  # another edge may cross it there
        expect(figure).not_to_have_attribute("data-computed", before)
        assert len(explorables.computed(figure)["cut"]) == 1
        compare(figure, state)
        assert tab.problems == []


def test_static_picture_is_what_the_page_starts_with(opened, explorable):
    """The same paths, headings and size before and after scripts run; labels find room once there is one."""
    shapes = """(svg) => ({
        paths: [...svg.querySelectorAll("path:not(.hit)")].map(
            (e) => [e.getAttribute("class"), e.getAttribute("d")]),
        headings: [...svg.querySelectorAll(":scope > text.muted")].map(
            (e) => [e.textContent, e.getAttribute("y")]),
        title: svg.querySelector(":scope > title").textContent,
        height: svg.getBoundingClientRect().height,
    })"""
    static = f'<div class="explorable">{static_picture(explorable.state)}</div>'
    with opened(explorable.html() + static) as tab:
        moving, static = (tab.page.locator("svg.graph").nth(i).evaluate(shapes) for i in (0, 1))
        assert moving == static


@pytest.mark.parametrize("width", [1280, 390])
def test_labels_are_apart(opened, explorable, width):
    """No name or number of the picture covers another, and none is cut off."""
    boxes = """(svg) => [...svg.querySelectorAll("g text")].map((text) => {
        const [own, all] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
        return [own.left - all.left, own.top - all.top, own.right - all.left, own.bottom - all.top];
    })"""
    with opened(explorable.html(), width=width) as tab:
        figure = tab.page.locator(FIGURE)
        do(figure, "Sentences k", ["End"])
        found = figure.locator("svg.graph").evaluate(boxes)
        across = figure.locator("svg.graph").bounding_box()["width"]
        assert len(found) > 12
        for i, (left, top, right, bottom) in enumerate(found):
            assert left > -3
            assert right < across + 3
            for other in found[:i]:
                over = min(right, other[2]) - max(left, other[0]), min(bottom, other[3]) - max(top, other[1])
                assert min(over) < 5, (found[i], other)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_for_every_reader(opened, explorable, width, theme):
    with opened(explorable.html(), width=width, theme=theme) as tab:
        figure = tab.page.locator(FIGURE)
        do(figure, "Sentences k", ["End"])
        do(figure, "Hops m", ["ArrowRight"])
        do(figure, "fact", 1)
        assert reader.examine(tab.page, theme) == []
        assert tab.problems == []


def test_by_keyboard_and_without_scripts(opened, explorable, page_without_scripts, tmp_path):
    with opened(explorable.html()) as tab:
        assert explorables.by_keyboard(tab.page) == []
        with serve(tmp_path) as base:
            page_without_scripts.goto(f"{base}/page.html")
            assert explorables.without_scripts(page_without_scripts) == []
