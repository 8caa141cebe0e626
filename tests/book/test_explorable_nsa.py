"""The explorable nsa_reads in Chromium: what its JavaScript computes and draws is what Python computes."""

import contextlib
import functools
from dataclasses import asdict

import pytest
import torch
from playwright.sync_api import Locator, expect

from minisys.core.decoder import Decoder, DecoderConfig
from minisys.nsa import NativeSparseAttention, NSAConfig
from minisys.nsa.costs import query_bytes, query_flops, tokens_read
from minisys.nsa.reference import attention_weights, block_importance, compressed_mask
from minisys.nsa.small import layer_branches, load_small
from minisys.viz import nsa_reads
from minisys.viz.nsa_reads import selected_blocks

from . import explorables
from .browser import new_context, open_page, serve
from .explorables import computed, stored_state

pytestmark = pytest.mark.book

CHAPTER = "notebooks/01_native_sparse_attention.html"
FIGURE = "[data-explorable=nsa_reads]"
# What the figure shows besides its map: the table's rows, and the characters marked as read.
SHOWN = """(figure) => ({
    rows: Object.fromEntries([...figure.querySelectorAll(".text ~ table tr[class]")].map(
        (row) => [row.className, [...row.cells].slice(1).map((cell) => cell.innerText)])),
    marks: Object.fromEntries(["selected", "window"].map((kind) =>
        [kind, [...figure.querySelectorAll(".text mark." + kind)].map((mark) => mark.textContent).join("")])),
})"""

# What the reader does: keys pressed on a slider, or the entry chosen in a menu, one after the other.
STEPS = [
    ("Query position", ["Home"]),
    ("Query position", ["End"]),
    ("Selected blocks n", ["ArrowRight"] * 2),
    ("Window w", ["PageUp", "ArrowRight"]),
    ("Query position", ["PageDown", "PageDown", "ArrowLeft"]),
    ("Stride d", "8"),
    ("Compressed block l", "8"),
    ("Layer", "first"),
    ("Head group", "last"),
    ("Query position", ["PageDown"] * 3),
    ("Compressed block l", "64"),
    ("Stride d", "32"),
    ("Selected blocks n", ["End"]),
    ("Window w", ["Home"]),
    ("Selected blocks n", ["Home"]),
    ("Count for", "8192"),
    ("Count for", "65536"),
    ("Window w", ["End"]),
]


def do(figure: Locator, label: str, action: list[str] | str) -> None:
    if action in ("first", "last"):
        values = figure.get_by_label(label).locator("option").evaluate_all("(all) => all.map((o) => o.value)")
        action = values[0 if action == "first" else -1]
    explorables.operate(figure, label, action)


def expected_numbers(state: dict, shown: dict) -> dict:
    """What Python says for the settings that the page says it shows."""
    config, sizes = NSAConfig(**shown["config"]), state["sizes"]
    position = shown["length"] - 1 if shown["length"] else shown["position"]
    d_qk, d_v, hq, hk = (sizes[name] for name in ("d_qk", "d_v", "hq", "hk"))
    return {
        "counted_position": position,
        "read": asdict(tokens_read(position, config)),
        "flops": query_flops(position, config, d_qk=d_qk, d_v=d_v, hq=hq),
        "bytes": query_bytes(
            position, config, d_qk=d_qk, d_v=d_v, hk=hk, element_bytes=sizes["element_bytes"]
        ),
        "selected": selected_blocks(state, shown["layer"], shown["group"], shown["position"], config.top_n),
    }


def expected_marks(state: dict, shown: dict) -> dict[str, str]:
    """The characters that are marked as read in the text; line ends are marked, but hold no character."""
    before = list(enumerate(state["text"][: shown["position"]]))
    size, window = shown["config"]["select_block"], shown["config"]["window"]
    read = {
        "selected": [c for i, c in before if i // size in shown["selected"]],
        "window": [c for i, c in before if shown["position"] - i < window],
    }
    printable = {kind: [c if c in "\t\n" or " " <= c <= "~" else "·" for c in read[kind]] for kind in read}
    return {kind: "".join(characters).replace("\n", "") for kind, characters in printable.items()}


def compare(figure: Locator, state: dict) -> None:
    """Numbers, table and text of one state of the figure against Python."""
    shown = computed(figure)
    expected = expected_numbers(state, shown)
    assert {name: shown[name] for name in expected} == expected

    nsa = sum(expected["read"].values())
    keys = {**expected["read"], "nsa": nsa, "dense": expected["counted_position"] + 1}
    drawn = figure.evaluate(SHOWN)
    for row in ("compressed", "selected", "window", "nsa", "dense"):
        columns = (keys, expected["flops"], expected["bytes"])
        assert drawn["rows"][row] == [f"{column[row]:,}" for column in columns], row
    assert drawn["rows"]["quotient"][0] == f"{keys['dense'] / nsa:.2f}×"
    assert drawn["marks"] == expected_marks(state, shown)


def drive(figure: Locator) -> None:
    """Through `STEPS`, and back to the trained settings."""
    state = stored_state(figure)
    explorables.drive(
        figure, state, STEPS, compare, lambda label: "table" if label == "Count for" else "svg.map", do
    )
    figure.get_by_role("button", name="Trained settings").press("Enter")
    assert computed(figure)["config"] == state["config"]
    compare(figure, state)


def test_chapter_computes_what_python_computes(tab, base):
    tab.look(1280, "light")
    tab.visit(f"{base}/{CHAPTER}", base)
    drive(tab.page.locator(FIGURE))
    assert tab.problems == []


def test_chapter_shows_the_blocks_the_trained_model_reads(tab, base):
    """The model reads left to right: the first 1,024 bytes say all about the queries among them.

    A block that is read is at least as important as one that is not, up to the rounding of another machine.
    """
    tab.visit(f"{base}/{CHAPTER}", base)
    state = stored_state(tab.page.locator(FIGURE))
    config, text = NSAConfig(**state["config"]), state["text"][:1024].encode("latin-1")
    found = layer_branches(load_small(), torch.tensor([list(text)]))
    mask = compressed_mask(len(text), config)
    for layer in state["layers"]:
        q, k_cmp = found[layer]["q"], found[layer]["k_cmp"]
        weights = attention_weights(q, k_cmp, mask, q.shape[-1] ** -0.5)
        importance = block_importance(weights, config)[0]
        for position in range(state["query_step"] - 1, len(text), state["query_step"]):
            own = position // config.select_block
            for group in range(k_cmp.shape[2]):
                blocks = selected_blocks(state, layer, group, position, config.top_n)
                assert len(blocks) == min(config.top_n, own + 1)
                forced = {j for j in blocks if j < config.initial_blocks or j > own - config.local_blocks}
                others = importance[position, group, [j for j in range(own + 1) if j not in blocks]]
                ranked = importance[position, group, sorted(set(blocks) - forced)]
                assert not len(others) or ranked.min() >= others.max() - 1e-4


# --- on a page of its own: what does not depend on the chapter --------------------------------------------

HOSTILE = b"</script><script>document.title = 'x'</script><img src=x onerror='alert(1)'>\x00\xff\r\t\n"
ICON = '<link rel="icon" href="data:,">'  # or Chromium would ask for one


@pytest.fixture(scope="module")
def explorable():
    """An untrained model over a text that tries to get out of its element."""
    config = NSAConfig(compress_block=32, compress_stride=16, select_block=64, top_n=8, window=128)
    sizes = DecoderConfig(dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=16)
    attention = functools.partial(NativeSparseAttention, config=config)
    model = Decoder(sizes, attention=attention, generator=torch.Generator().manual_seed(0))
    return nsa_reads(model, (HOSTILE * 30)[:1500], config)


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page that holds nothing but the given HTML, from a server or from a file."""

    @contextlib.contextmanager
    def open_body(body, *, theme="light", from_file=False, **options):
        html = f'<!doctype html><html lang="en" data-theme="{theme}">'
        head = f'{html}<meta charset="utf-8"><title>t</title>{ICON}'
        (tmp_path / "page.html").write_text(head + body, encoding="utf-8")
        with contextlib.ExitStack() as stack:
            base = tmp_path.as_uri() if from_file else stack.enter_context(serve(tmp_path))
            context = stack.enter_context(new_context(browser, **options))
            yield stack.enter_context(open_page(context, f"{base}/page.html", base, patience=2000))

    return open_body


def test_several_on_a_page_do_not_meet(opened, explorable):
    with opened(explorable.html() + explorable.html()) as (page, problems):
        first, second = page.locator(FIGURE).all()
        before = computed(second), second.inner_html()
        drive(first)
        do(first, "Query position", ["Home"])
        assert (computed(second), second.inner_html()) == before
        assert page.title() == "t"  # no script of the text ran
        assert page.locator(".text img, .text script").count() == 0
        assert problems == []


def test_opens_from_a_file(opened, explorable):
    with opened(explorable.html(), from_file=True) as (page, problems):
        compare(page.locator(FIGURE), stored_state(page.locator(FIGURE)))
        assert problems == []


def test_options_that_do_not_fit_are_off_and_say_why(opened, explorable):
    with opened(explorable.html()) as (page, _):
        figure = page.locator(FIGURE)

        def off(label):
            disabled = figure.get_by_label(label).locator("option:disabled")
            return disabled.evaluate_all("(options) => options.map((o) => Number(o.value))")

        for block, stride in [(32, 16), (32, 32), (64, 32), (64, 8), (8, 8), (16, 8), (16, 16)]:
            do(figure, "Compressed block l", "64")  # every stride divides it
            do(figure, "Stride d", str(stride))
            do(figure, "Compressed block l", str(block))
            config = computed(figure)["config"]
            assert (config["compress_block"], config["compress_stride"]) == (block, stride)
            blocks = [x for x in (8, 16, 32, 64) if x % stride]
            strides = [x for x in (8, 16, 32) if block % x]
            assert (off("Compressed block l"), off("Stride d")) == (blocks, strides)
            reason = figure.locator(".foot p").inner_text()
            refused = [f"l = {x}" for x in blocks] + [f"d = {x}" for x in strides]
            rule = f"The stride d (now {stride}) has to divide l (now {block}) and the selection block (64)."
            assert reason == (f"Off: {', '.join(refused)}. {rule}" if refused else rule)


def test_theme_follows_the_page(opened, explorable):
    colours = "(e) => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
    seen = {}
    for theme in ("light", "dark", "auto"):
        with opened(explorable.html(), theme=theme, color_scheme="dark") as (page, _):
            seen[theme] = page.locator(FIGURE).evaluate(colours)
    assert seen["light"] == ["rgb(255, 255, 255)", "rgb(29, 35, 43)"]
    assert seen["dark"] == seen["auto"] == ["rgb(20, 24, 30)", "rgb(231, 234, 238)"]


def test_pointer_picks_the_query_in_map_and_text(opened, explorable):
    with opened(explorable.html()) as (page, _):
        figure = page.locator(FIGURE)
        state = stored_state(figure)
        box = figure.locator("svg.map").bounding_box()
        page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
        assert computed(figure)["position"] == 447  # 0.3 · 1,500 = 450, and queries stand at 16·i - 1
        compare(figure, state)
        run = figure.locator(".text .line").nth(2).locator("[data-first]").first
        run.click()
        assert abs(computed(figure)["position"] - int(run.get_attribute("data-first"))) <= 8
        compare(figure, state)


def test_query_stays_in_view_and_the_page_does_not_scroll(opened, explorable):
    with opened(explorable.html()) as (page, _):
        figure = page.locator(FIGURE)
        figure.get_by_label("Query position").focus()
        scrolled = page.evaluate("scrollY")
        for keys in (["Home"], ["End"], ["PageDown"] * 4):
            before = figure.get_attribute("data-computed")
            do(figure, "Query position", keys)
            expect(figure).not_to_have_attribute("data-computed", before)
            figure.evaluate("() => new Promise(requestAnimationFrame)")  # the pane may move in the next frame
            pane, line = (figure.locator(name).bounding_box() for name in (".text", "[aria-current]"))
            assert pane["y"] <= line["y"] <= line["y"] + line["height"] <= pane["y"] + pane["height"]
        assert page.evaluate("scrollY") == scrolled


def test_broken_module_leaves_the_picture_and_says_so(browser, tmp_path, explorable):
    broken = explorable.html().replace("export default { render };", "export default {};")
    assert broken != explorable.html()
    (tmp_path / "page.html").write_text(f"<!doctype html>{broken}", encoding="utf-8")
    with serve(tmp_path) as base, new_context(browser) as context, context.new_page() as page:
        page.goto(f"{base}/page.html")
        view = page.locator(".explorable-view")
        view.locator("p").wait_for()
        assert "could not start" in view.inner_text()
        assert view.locator("svg[role=img]").count() == 1
