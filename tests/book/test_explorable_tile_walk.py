"""The explorable nsa_tile_walk in Chromium: what its JavaScript computes and draws is what Python says."""

import functools
import math

import pytest
import torch
from playwright.sync_api import Locator

from minisys.core.decoder import Decoder, DecoderConfig
from minisys.nsa import NativeSparseAttention, NSAConfig, select_blocks
from minisys.nsa.small import CONFIG, layer_branches, load_small
from minisys.viz.nsa_tile_walk import merged_list, nsa_tile_walk, static_picture, stored_blocks, walk_counts

from . import explorables, reader
from .browser import serve

pytestmark = pytest.mark.book

CHAPTER = "notebooks/02_nsa_kernels.html"
FIGURE = "[data-explorable=nsa_tile_walk]"
HOSTILE = b"</script><script>document.title = 'x'</script><img src=x onerror='alert(1)'>\x00\xff\r\t\n"
# What the figure shows: numbers, the list, and the cells of the picture by kind, in strip and grid.
SHOWN = """(figure) => ({
    counts: [...figure.querySelectorAll(".walk-counts tbody tr")].map(
        (row) => [...row.cells].slice(1).map((cell) => cell.innerText)),
    whole: [...figure.querySelectorAll(".walk-whole tbody td")].map((cell) => cell.innerText.split("\\n")),
    current: [...figure.querySelectorAll(".walk-whole td")].findIndex((cell) => cell.ariaCurrent === "true"),
    codes: [...figure.querySelectorAll(".walk-codes li")].map((entry) => entry.innerText),
    marked: [...figure.querySelectorAll(".walk .current")].map(
        (e) => e.getAttribute("width") === "0" ? null : Number(e.getAttribute("x"))),
    done: figure.querySelectorAll(".walk-codes li.done").length,
    cells: Object.fromEntries(["asked", "later", "masked", "empty", "forced"].map((kind) =>
        [kind, [...figure.querySelectorAll(".walk path." + kind)].map(
            (path) => (path.getAttribute("d").match(/M/g) ?? []).length)])),
})"""

# What the reader does: keys pressed on a slider, or the entry chosen in a menu, one after the other.
STEPS = [
    ("Step of the walk", ["Home"]),
    ("Step of the walk", ["ArrowRight"]),
    ("Step of the walk", ["End"]),
    ("Selection of", "2"),
    ("Tokens of a tile", "8"),
    ("Tile at token", ["ArrowRight"] * 3),
    ("Step of the walk", ["ArrowLeft"] * 2),
    ("Tile at token", ["End"]),
    ("Tokens of a tile", "2"),
    ("Tile at token", ["Home"]),
    ("Tile at token", ["PageUp", "ArrowRight"]),
    ("Selection of", "1"),
    ("Tokens of a tile", "1"),
    ("Tile at token", ["End"]),  # the last token of a block: it needs no causal mask
    ("Tile at token", ["PageDown", "ArrowLeft"]),  # to a position that no tile of 4 begins at
    ("Tokens of a tile", "4"),
    ("Tile at token", ["PageUp"] * 4),
    ("Selection of", "0"),
]


@pytest.fixture(scope="module")
def explorable():
    """An untrained model over a text that tries to get out of its element."""
    config = NSAConfig(compress_block=32, compress_stride=16, select_block=64, top_n=8, window=128)
    sizes = DecoderConfig(dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=16)
    attention = functools.partial(NativeSparseAttention, config=config)
    model = Decoder(sizes, attention=attention, generator=torch.Generator().manual_seed(0))
    return nsa_tile_walk(model, (HOSTILE * 30)[:1536], config, d_v=64)


def rounded(value: float) -> int:
    return math.floor(value + 0.5)  # a half goes up, as in JavaScript


def texts(counts: dict) -> list[str]:
    """Numbers as the table shows them, from a count by Python."""
    share = f"{rounded(100 * counts['rows_useful'] / counts['rows_computed'])} %" if counts["loaded"] else "–"
    kib = [rounded(counts[name] / 1024) for name in ("bytes_loaded", "bytes_saved")]
    numbers = [counts["asked"], counts["loaded"], *kib, counts["rows_computed"], counts["rows_useful"]]
    return [*(f"{number:,}" for number in numbers), share]


def compare(figure: Locator, state: dict) -> None:
    """Everything shown in one state of the figure against Python."""
    shown, sizes = explorables.computed(figure), state["sizes"]
    tokens, step = shown["tokens"], shown["step"]
    blocks = stored_blocks(state, shown["set"])
    codes, past = merged_list(blocks, shown["position"], tokens, sizes["select_block"])
    so_far, whole = (walk_counts(part, tokens, sizes) for part in (codes[:step], codes))
    assert shown["position"] % tokens == 0
    assert 0 <= step <= len(codes)
    expected = {"codes": codes, "past": past, "so_far": so_far, "whole": whole}
    assert {name: shown[name] for name in expected} == expected

    drawn = figure.evaluate(SHOWN)
    assert drawn["counts"] == [list(row) for row in zip(texts(so_far), texts(whole), strict=True)]
    bits = [(code >> tokens, code & (1 << tokens) - 1) for code in codes]
    assert drawn["codes"] == [f"{block}:{wanted:0{tokens}b}" for block, wanted in bits]
    assert drawn["done"] == max(0, step - 1)
    assert drawn["marked"] == ([bits[step - 1][0], step - 1] if step else [None, None])
    own = shown["position"] // sizes["select_block"]
    forced = sum(block == 0 or block >= own - 1 for block, _ in bits)
    assert drawn["cells"] == {
        "asked": [step, so_far["asked"]],
        "later": [len(codes) - step, whole["asked"] - so_far["asked"]],
        "masked": [tokens * len(codes) - whole["asked"]],
        "empty": [len(codes) if tokens < 4 else 0],  # 4 tokens of 16 heads fill an instruction
        "forced": [forced],
    }
    sets, counted = state["sets"], len(state["text"]) - sizes["n"] * sizes["select_block"]
    assert drawn["whole"] == [
        [f"{rounded(counts['bytes_loaded'] / counted / 1024)} KiB", texts(counts)[-1]]
        for each in sets
        for counts in each["counts"]
    ]
    assert drawn["current"] == shown["set"] * 4 + [1, 2, 4, 8].index(tokens)
    said = figure.locator(".walk-step").inner_text()
    if step:
        block, wanted = bits[step - 1]
        assert f"code {codes[step - 1]:,} = {block}·" in said
        assert f"{wanted.bit_count()} of {tokens} token" in said
        assert ("causal mask is on" in said) == (step > past)
        assert ("always read" in said) == (block == 0 or block >= own - 1)
    else:
        assert "Nothing is loaded yet" in said


def drive(figure: Locator, state: dict) -> None:
    def stays(figure: Locator, label: str) -> bool:
        """Before token n·l' every block is read, whatever is selected."""
        enough = state["sizes"]["n"] * state["sizes"]["select_block"]
        return label == "Selection of" and explorables.computed(figure)["position"] < enough

    explorables.drive(figure, state, STEPS, compare, lambda label: "svg.walk", stays=stays)


def test_computes_what_python_computes(opened, explorable):
    with opened(explorable.html() * 2) as tab:
        first, second = tab.page.locator(FIGURE).all()
        before = second.inner_html()
        drive(first, explorable.state)
        assert second.inner_html() == before  # two on a page do not meet
        assert tab.page.title() == "t"  # no script of the text ran
        assert tab.page.locator(f"{FIGURE} img").count() == 0
        assert tab.problems == []


def test_chapter_computes_what_python_computes(tab, base):
    tab.look(1280, "light")
    tab.visit(f"{base}/{CHAPTER}", base)
    drive(tab.page.locator(FIGURE), explorables.stored_state(tab.page.locator(FIGURE)))
    assert tab.problems == []


def test_chapter_shows_what_the_trained_model_selects(tab, base):
    """The model reads left to right: the first 1,024 bytes say all about the tokens among them."""
    tab.visit(f"{base}/{CHAPTER}", base)
    state = explorables.stored_state(tab.page.locator(FIGURE))
    text = state["text"][:1024].encode("latin-1")
    model = load_small()
    found = layer_branches(model, torch.tensor([list(text)]))
    for layer, x in enumerate(found):
        scale = model.blocks[layer].attention.scale
        blocks = select_blocks(x["q"], x["k_cmp"], config=CONFIG, scale=scale)[0, :, 0]
        same = (stored_blocks(state, layer)[: len(text)] == blocks).all(dim=1)
        assert same.float().mean() > 0.995  # another machine may round a tie the other way


def test_excerpts_are_the_text(opened, explorable):
    with opened(explorable.html(), from_file=True) as tab:
        figure, state = tab.page.locator(FIGURE), explorable.state
        shown = explorables.computed(figure)
        size, position, tokens = 64, shown["position"], shown["tokens"]
        block = shown["codes"][shown["step"] - 1] >> tokens
        names = {"\n": "↵", "\t": "⇥"}
        visible = lambda text: "".join(c if " " <= c <= "~" else names.get(c, "·") for c in text)
        tile, loaded = figure.locator(".walk-text dd").evaluate_all("(all) => all.map((e) => e.textContent)")
        assert loaded == visible(state["text"][block * size : (block + 1) * size])
        assert visible(state["text"][position : position + tokens]) in tile
        mark = figure.locator(".walk-text mark")
        assert mark.text_content() == visible(state["text"][position : position + tokens])
        explorables.operate(figure, "Selection of", "2")
        assert figure.locator(".walk-text").text_content().count("random: there is no text") == 2
        assert tab.problems == []


def test_static_picture_is_what_the_page_starts_with(opened, explorable):
    """The same shapes, labels and size before and after scripts run, but for what only the page shows."""
    shapes = """(svg) => ({
        texts: [...svg.querySelectorAll("text")].map((e) => e.textContent).filter(Boolean).sort(),
        paths: [...svg.querySelectorAll("path:not(.forced)")].map(
            (e) => [e.getAttribute("class"), e.getAttribute("d")]),
        current: [...svg.querySelectorAll("svg[viewBox]")].at(1).getAttribute("viewBox"),
        height: svg.getBoundingClientRect().height,
    })"""
    static = f'<div class="explorable">{static_picture(explorable.state)}</div>'
    with opened(explorable.html() + static) as tab:
        moving, static = (tab.page.locator("svg.walk").nth(i).evaluate(shapes) for i in (0, 1))
        assert moving == static


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_for_every_reader(opened, explorable, width, theme):
    with opened(explorable.html(), width=width, theme=theme) as tab:
        figure = tab.page.locator(FIGURE)
        explorables.operate(figure, "Tokens of a tile", "8")
        explorables.operate(figure, "Selection of", "2")
        assert reader.examine(tab.page, theme) == []
        assert tab.problems == []


def test_by_keyboard_and_without_scripts(opened, explorable, page_without_scripts, tmp_path):
    with opened(explorable.html()) as tab:
        assert explorables.by_keyboard(tab.page) == []
        with serve(tmp_path) as base:
            page_without_scripts.goto(f"{base}/page.html")
            assert explorables.without_scripts(page_without_scripts) == []
