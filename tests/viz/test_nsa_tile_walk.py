"""The data of nsa_tile_walk: lists are the kernel's, counts are what a slow count finds; bad arguments."""

import json
from dataclasses import replace

import pytest
import torch

from minisys.core.data import load_corpus
from minisys.nsa import NSAConfig, select_blocks
from minisys.nsa.small import CONFIG, layer_branches, load_small
from minisys.viz.nsa_tile_walk import (
    merged_list,
    nsa_tile_walk,
    nsa_tile_walk_state,
    static_picture,
    stored_blocks,
    tile_rows,
    walk_counts,
)

BLOCK, N, LENGTH = 16, 4, 496  # of the fixtures' config, and 31 whole blocks
HEADS = {"d_qk": 24, "d_v": 8, "group_heads": 8}
SIZES = HEADS | {"element_bytes": 2, "product_rows": 64, "select_block": BLOCK, "n": N}


@pytest.fixture(scope="module")
def state(model, text, config):
    chosen = {"layers": [2, 0], "kv_head": 1, "file_name": "a.py"}
    return nsa_tile_walk_state(model, text[:LENGTH], config, **chosen, **HEADS)


def draw_blocks(t, n, blocks, seed):
    """Any blocks: of the future too, and -1; no number twice for a token."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(t, blocks, generator=generator).argsort(dim=-1)[:, :n].sort(dim=-1).values
    return numbers.masked_fill(torch.rand(t, n, generator=generator) < 0.1, -1)


def test_a_list_by_hand():
    """The docstring of minisys.nsa.kernels.lists: {0, 7, 9} and {0, 9} give 0:11, 7:01, 9:11."""
    blocks = torch.full((48, 3), -1)
    blocks[40], blocks[41] = torch.tensor([0, 7, 9]), torch.tensor([0, 9, -1])
    assert merged_list(blocks, 40, 2, 4) == ([0b11, 7 << 2 | 0b01, 9 << 2 | 0b11], 3)
    assert merged_list(blocks, 40, 2, 5) == ([0b11, 7 << 2 | 0b01], 2)  # block 9 of 5 tokens is all behind
    assert merged_list(blocks, 36, 4, 4) == ([], 0)


@pytest.mark.parametrize("tokens", [1, 2, 4, 8])
@pytest.mark.parametrize("length", [1, 7, 48, 90])
def test_lists_are_those_of_the_kernel(tokens, length):
    pytest.importorskip("triton", reason="Triton is not installed")
    from minisys.nsa.kernels.layout import Layout
    from minisys.nsa.kernels.lists import merged_lists, ordered_blocks

    config = NSAConfig(4, 2, 8, top_n=5)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = Layout(((0, length),), config, device)
    blocks = draw_blocks(length, min(5, config.num_selectable(length)), config.num_selectable(length), tokens)
    ordered = ordered_blocks(blocks.to(device))
    codes, counts = merged_lists(ordered[:, None].contiguous(), layout, tokens)
    tiles = layout.tiles(tokens).tolist()
    assert len(tiles) == -(-length // tokens)
    for i, (_, position, _, _) in enumerate(tiles):
        expected, past = merged_list(blocks, position, tokens, config.select_block)
        assert counts[i, 0].tolist() == [len(expected), past]
        assert codes[i, 0, : len(expected)].tolist() == expected


@pytest.mark.parametrize("tokens", [1, 2, 4, 8])
def test_counts_by_going_through_tokens_and_heads(tokens):
    blocks = draw_blocks(64, N, 4, seed=tokens)
    codes, _ = merged_list(blocks, 40, tokens, BLOCK)
    rows = enumerate(blocks[40 : 40 + tokens].tolist(), start=40)
    own = [{block for block in row if 0 <= block <= token // BLOCK} for token, row in rows]
    union = set().union(*own)
    asked = sum(len(each) for each in own)
    number = BLOCK * (24 + 8) * 2  # bytes of a block
    assert walk_counts(codes, tokens, SIZES) == {
        "asked": asked,
        "loaded": len(union),
        "bytes_loaded": len(union) * number,
        "bytes_saved": asked * number - len(union) * number,
        "rows_computed": len(union) * 64,  # 8 tokens of 8 heads fill one instruction
        "rows_useful": asked * 8,
    }
    assert walk_counts(codes[:1], tokens, SIZES)["loaded"] == 1
    assert set(walk_counts([], tokens, SIZES).values()) == {0}


def test_rows_come_in_whole_instructions():
    rows = {(t, g): tile_rows(t, SIZES | {"group_heads": g}) for t in (1, 2, 4, 8) for g in (8, 16, 32, 64)}
    assert rows == {(t, g): 64 if t * g <= 64 else t * g for t, g in rows}
    assert tile_rows(3, SIZES | {"group_heads": 32}) == 128


def test_sets_are_what_the_model_selects(state, model, text, config):
    branches = layer_branches(model, torch.tensor([list(text[:LENGTH])]))
    assert [each["name"] for each in state["sets"]] == [
        "Text, layer 0", "Text, layer 2", "Random queries and keys",
    ]  # fmt: skip
    for number, layer in enumerate((0, 2)):
        found = select_blocks(branches[layer]["q"], branches[layer]["k_cmp"], config=config)[0, :, 1]
        assert torch.equal(stored_blocks(state, number), found)
        assert state["sets"][number]["of_text"]


def test_random_set_is_random(state, model, text, config):
    random = stored_blocks(state, 2)
    assert not state["sets"][2]["of_text"]
    position = LENGTH - 1
    assert {0, position // BLOCK - 1, position // BLOCK} < set(random[position].tolist())
    other = nsa_tile_walk_state(model, text[:LENGTH], config, layers=[0], kv_head=1, seed=1)
    assert (stored_blocks(other, 1) != random).any()
    again = nsa_tile_walk_state(model, text[:LENGTH], config, layers=[0], kv_head=1)
    assert torch.equal(stored_blocks(again, 1), random)


def test_counts_of_whole_sets(state):
    first = N * BLOCK
    for number, each in enumerate(state["sets"]):
        rows = [set(row) for row in stored_blocks(state, number)[first:].tolist()]
        for tokens, counts, served in zip(state["tokens"], each["counts"], each["served"], strict=True):
            tiles = [rows[i : i + tokens] for i in range(0, len(rows), tokens)]
            loaded = sum(len(set().union(*tile)) for tile in tiles)
            assert counts["asked"] == N * len(rows)  # from there on every token has n blocks
            assert counts["loaded"] == loaded
            assert counts["rows_computed"] == 64 * loaded
            assert counts["rows_useful"] == 8 * N * len(rows)
            assert counts["bytes_loaded"] == loaded * BLOCK * 32 * 2
            # 3 of the 4 are always read; the fourth was chosen
            chosen = sum(len(set().union(*tile)) - 3 for tile in tiles)
            assert served == pytest.approx(len(rows) / chosen, abs=6e-4)
        assert each["served"][0] == 1


def test_what_is_stored(state, text):
    assert json.loads(json.dumps(state)) == state
    assert state["text"].encode("latin-1") == text[:LENGTH]
    assert state["sizes"] == SIZES
    assert (state["blocks"], state["forced"], state["file"]) == (31, {"initial": 1, "local": 2}, "a.py")
    start = state["start"]
    codes, _ = merged_list(stored_blocks(state, 0), start["position"], 4, BLOCK)
    assert start["position"] % max(state["tokens"]) == 0
    assert 0 < start["step"] < len(codes)
    assert (start["set"], start["tokens"]) == (0, 4)


def test_same_arguments_same_bytes(model, text, config):
    html = nsa_tile_walk(model, text[:LENGTH], config, file_name="a.py").html()
    assert html == nsa_tile_walk(model, text[:LENGTH], config, file_name="a.py").html()
    assert html.count("</script") == 3  # the text holds more, escaped
    assert "url(" not in html
    assert "://" not in html.replace("http://www.w3.org/2000/svg", "")


def test_static_picture(state):
    picture, start = static_picture(state), state["start"]
    codes, _ = merged_list(stored_blocks(state, 0), start["position"], 4, BLOCK)
    counts = walk_counts(codes, 4, SIZES)
    assert picture.startswith('<svg class="walk" role="img"')
    strip, grid = (picture.split('aria-hidden="true"')[i] for i in (1, 2))
    paths = {kind: [part.split(f'<path class="{kind}" d="')[1].split('"')[0] for part in (strip, grid)]
             for kind in ("asked", "later")}  # fmt: skip
    assert [paths["asked"][0].count("M"), paths["later"][0].count("M")] == [
        start["step"], len(codes) - start["step"],
    ]  # fmt: skip
    assert paths["asked"][1].count("M") + paths["later"][1].count("M") == counts["asked"]
    assert (
        grid.split('<path class="masked" d="')[1].split('"')[0].count("M") == 4 * len(codes) - counts["asked"]
    )
    assert f"loaded {counts['loaded']}<" in picture
    assert f"asked {counts['asked']}<" in picture


def test_the_small_model_shares_more_than_random_does():
    """What the figure is there to show, on the text and the layers of the chapter; the page stays small."""
    text = load_corpus().read("sympy/polys/polyutils.py")[:4096]
    state = nsa_tile_walk_state(load_small(), text, CONFIG, layers=[1, 2])
    assert len(json.dumps(state)) < 150_000
    served = [each["served"] for each in state["sets"]]
    for size in (1, 2, 3):  # tiles of 2, 4 and 8
        assert served[0][size] > served[1][size] > 1.2 * served[2][size]
    useful = [[c["rows_useful"] / c["rows_computed"] for c in each["counts"]] for each in state["sets"]]
    for each in useful:  # 4 tokens of 16 heads fill an instruction, and are best in every set
        assert each[0] == 0.25
        assert max(each) == each[2]
    for each in state["sets"]:
        loaded = [counts["bytes_loaded"] for counts in each["counts"]]
        assert loaded == sorted(loaded, reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "not bytes"}, r"^text: got str, expected bytes"),
        ({"text": b"a" * 500}, r"^text: got 500 bytes, expected 5 to 255 blocks of 16"),
        ({"text": b"a" * 64}, r"^text: got 64 bytes, expected 5 to 255 blocks"),
        ({"text": b"a" * 4096}, r"^text: got 4096 bytes, expected 5 to 255 blocks"),
        ({"layers": [3]}, r"^layers: got \[3\]"),
        ({"kv_head": 2}, r"^kv_head: got 2, expected 0 to 1"),
        ({"kv_head": -1}, r"^kv_head: got -1"),
        ({"group_heads": 4}, r"^group_heads: got 4, expected 8, 16, 32 or 64"),
        ({"d_qk": 0}, r"^d_qk: got 0"),
        ({"d_v": -8}, r"^d_v: got -8"),
    ],
)
def test_bad_arguments(model, text, config, changes, message, no_runtime_types):
    with pytest.raises(ValueError, match=message):
        nsa_tile_walk(**{"model": model, "text": text[:LENGTH], "config": config, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select_block": 12}, r"^config: got select_block 12, expected a multiple of 8"),
        ({"top_n": 3}, r"^config: got top_n 3, expected more than the 3 blocks that are always read"),
    ],
)
def test_configs_without_a_walk_to_show(model, text, config, changes, message, monkeypatch, no_runtime_types):
    other = replace(config, **changes)
    for block in model.blocks:
        monkeypatch.setattr(block.attention, "config", other)
    with pytest.raises(ValueError, match=message):
        nsa_tile_walk(model, text[:LENGTH], other)
