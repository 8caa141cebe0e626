"""The tile walk of the selected branch's kernel: the data of the explorable `nsa_tile_walk`, and its picture.

One program of the kernel takes a tile of neighbouring tokens with all query heads of a group, and walks
over the blocks that any of them selected, each block once (`minisys.nsa.kernels.lists.merged_lists`). A block
loaded once for several tokens saves bytes; a token that did not select it has its rows of the product
computed all the same and thrown away. Stored are the selections of a trained model on a text, one byte a
token, and those of random queries and keys (arXiv 2502.11089, equations 8 to 12). The page merges and counts.

Lists and counts here are plain Python, so that a page needs no Triton; a test holds them to the kernel's.
Bytes are what programs load, whether from the L2 cache or from memory. Keys of a token's own block that come
after it are masked as well; they are not counted as waste, as no choice of tile avoids them.

Cost: one forward pass; 4/3·n bytes of JSON for each token and set (44 kB for 4,096 tokens and n = 8).
"""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from minisys.core.checks import check, check_positive_int
from minisys.core.decoder import Decoder
from minisys.nsa import NSAConfig, select_blocks
from minisys.nsa.small import layer_branches
from minisys.viz.explorable import Explorable
from minisys.viz.nsa_reads import check_arguments

TOKENS = (1, 2, 4, 8)
"""Tokens of a tile that the reader can choose."""

PRODUCT_ROWS = 64
"""Rows of Hopper's matrix instruction (wgmma). A tile with fewer leaves the rest empty."""

NONE = 255
"""Stands for -1, no block, where a block number is stored in one byte."""


def nsa_tile_walk(
    model: Decoder,
    text: bytes,
    config: NSAConfig,
    *,
    layers: Sequence[int] | None = None,
    kv_head: int = 0,
    group_heads: int = 16,
    d_qk: int = 128,
    d_v: int = 128,
    seed: int = 0,
    file_name: str = "",
) -> Explorable:
    """Explorable: walk with one program of the selected kernel over the blocks of its tile.

    Args:
        model: a byte-level decoder whose attention is `NativeSparseAttention`, on any device.
        text: the tokens, a whole number of selection blocks: more than top_n and at most 255.
        config: the settings that the model was trained with.
        layers: whose selections the reader can look at; all of them unless set.
        kv_head: the key/value head whose group selects.
        group_heads: query heads of a group that rows are counted for, 8, 16, 32 or 64. The small model's own
            group would fill no matrix instruction, so rows and bytes are those of a model of usual size.
        d_qk, d_v: size of a key and of a value that bytes are counted for, 2 bytes a number.
        seed: of the random inputs.
        file_name: where the text comes from, shown to the reader.

    Raises:
        ValueError: an argument does not fit.
    """
    state = nsa_tile_walk_state(
        model, text, config, layers=layers, kv_head=kv_head, group_heads=group_heads, d_qk=d_qk, d_v=d_v,
        seed=seed, file_name=file_name,
    )  # fmt: skip
    return Explorable(
        "nsa_tile_walk",
        state,
        title="The tile walk of the selected branch",
        description=(
            "One program takes a few neighbouring tokens with all heads of a group, and walks over the "
            "blocks that any of them selected, loading each once. More tokens a tile share more loads; "
            "a row whose token did not select the block at hand is computed all the same and thrown away."
        ),
        static_svg=static_picture(state),
    )


@torch.no_grad()
def nsa_tile_walk_state(
    model: Decoder,
    text: bytes,
    config: NSAConfig,
    *,
    layers: Sequence[int] | None = None,
    kv_head: int = 0,
    group_heads: int = 16,
    d_qk: int = 128,
    d_v: int = 128,
    seed: int = 0,
    file_name: str = "",
) -> dict[str, object]:
    """The JSON of the explorable; arguments and errors as in `nsa_tile_walk`.

    Each of ``state["sets"]`` has a name, whether its tokens are those of the text, its ``blocks`` (base64 of
    one byte a number, n for each token, 255 for none) and, for each tile size of ``state["tokens"]``,
    ``counts``: `walk_counts` summed over all tiles from token n·l' on (before it all blocks are read), and
    ``served``: how many tokens a loaded block serves there on average, those always read left out.
    """
    layers = check_arguments(model, text, config, layers, 1)
    size, n = config.select_block, config.top_n
    check(size % max(TOKENS) == 0, "config", f"select_block {size}", f"a multiple of {max(TOKENS)}")
    always = config.initial_blocks + config.local_blocks
    check(n > always, "config", f"top_n {n}", f"more than the {always} blocks that are always read")
    blocks, rest = divmod(len(text), size)
    check(
        rest == 0 and n < blocks <= NONE, "text", f"{len(text)} bytes", f"{n + 1} to {NONE} blocks of {size}"
    )
    heads = model.blocks[0].attention.num_kv_heads
    check(0 <= kv_head < heads, "kv_head", kv_head, f"0 to {heads - 1}")
    check(group_heads in (8, 16, 32, 64), "group_heads", group_heads, "8, 16, 32 or 64")
    for name, value in (("d_qk", d_qk), ("d_v", d_v)):
        check_positive_int(name, value)
    sizes = {
        "d_qk": d_qk, "d_v": d_v, "element_bytes": 2, "group_heads": group_heads,
        "product_rows": PRODUCT_ROWS, "select_block": size, "n": n,
    }  # fmt: skip

    tokens = torch.tensor([list(text)], device=model.embedding.weight.device)
    branches = layer_branches(model, tokens)
    choose = lambda x, scale=None: select_blocks(x["q"], x["k_cmp"], config=config, scale=scale)[0].cpu()
    chosen = {f"Text, layer {i}": choose(branches[i], model.blocks[i].attention.scale) for i in layers}
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(branches[0][name].shape, generator=generator) for name in ("q", "k_cmp")}
    sets = [_encode(name, True, found[:, kv_head], sizes, always) for name, found in chosen.items()]
    sets.append(_encode("Random queries and keys", False, choose(drawn)[:, kv_head], sizes, always))

    state: dict[str, Any] = {
        "blocks": blocks,
        "file": file_name,
        "forced": {"initial": config.initial_blocks, "local": config.local_blocks},
        "sets": sets,
        "sizes": sizes,
        "text": text.decode("latin-1"),  # one character a byte
        "tokens": list(TOKENS),
    }
    position = 3 * blocks // 4 * size + size // 2
    codes, _ = merged_list(stored_blocks(state, 0), position, 4, size)
    state["start"] = {"set": 0, "tokens": 4, "position": position, "step": len(codes) // 2}
    return state


def merged_list(
    block_indices: Int[Tensor, "t n"], position: int, tokens: int, select_block: int
) -> tuple[list[int], int]:
    """The blocks that the tile of `tokens` tokens from `position` on walks over, each once, rising.

    Args:
        block_indices: selected blocks ``[t, n]`` of every token of one sequence, -1 for none.
        position: first token of the tile; a tile at the end of the sequence may be cut short.
        tokens: tokens of the tile.
        select_block: tokens of a block.

    Returns:
        codes, block·2^tokens + bits, where bit i says that token position + i selected the block; and how
        many of the blocks end at or before the tile's first token and so need no causal mask.
    """
    wanted: dict[int, int] = {}
    for place, row in enumerate(block_indices[position : position + tokens].tolist()):
        for block in row:
            if 0 <= block <= (position + place) // select_block:
                wanted[block] = wanted.get(block, 0) | 1 << place
    past = sum((block + 1) * select_block <= position + 1 for block in wanted)
    return [block << tokens | wanted[block] for block in sorted(wanted)], past


def walk_counts(codes: Sequence[int], tokens: int, sizes: dict[str, int]) -> dict[str, int]:
    """What a program has done after the steps `codes` of its walk.

    Args:
        codes: of `merged_list`; counts of several walks add up.
        tokens: tokens of a tile.
        sizes: ``state["sizes"]``.

    Returns:
        Counts by name. ``asked``: blocks that the tile's tokens asked for, each token for itself. ``loaded``:
        blocks loaded, each once. ``bytes_loaded``, ``bytes_saved``: of keys and values; saved against a load
        for each that asked. ``rows_computed``: rows of q·kᵀ, whole matrix instructions, over all steps.
        ``rows_useful``: those whose token asked for the block.
    """
    asked = sum((code & ((1 << tokens) - 1)).bit_count() for code in codes)
    block_bytes = sizes["select_block"] * (sizes["d_qk"] + sizes["d_v"]) * sizes["element_bytes"]
    return {
        "asked": asked,
        "loaded": len(codes),
        "bytes_loaded": len(codes) * block_bytes,
        "bytes_saved": (asked - len(codes)) * block_bytes,
        "rows_computed": len(codes) * tile_rows(tokens, sizes),
        "rows_useful": asked * sizes["group_heads"],
    }


def tile_rows(tokens: int, sizes: dict[str, int]) -> int:
    """Rows of the product of a tile: its tokens' heads, filled up to whole matrix instructions."""
    return -(-tokens * sizes["group_heads"] // sizes["product_rows"]) * sizes["product_rows"]


def stored_blocks(state: dict[str, Any], number: int) -> Int[Tensor, "t n"]:
    """Block numbers of set `number`, as `select_blocks` gave them, -1 for none."""
    raw = torch.tensor(list(base64.b64decode(state["sets"][number]["blocks"])))
    return raw.masked_fill(raw == NONE, -1).view(-1, state["sizes"]["n"])


def _encode(
    name: str, of_text: bool, blocks: Int[Tensor, "t n"], sizes: dict[str, int], always: int
) -> dict[str, object]:
    """One of ``state["sets"]``; `always` blocks of each list are read whatever the query."""
    counts, served = [], []
    for tokens in TOKENS:
        tiles = range(sizes["n"] * sizes["select_block"], len(blocks), tokens)
        lists = [merged_list(blocks, first, tokens, sizes["select_block"])[0] for first in tiles]
        total = walk_counts([code for codes in lists for code in codes], tokens, sizes)
        asked, loaded = total["asked"] - always * tokens * len(tiles), total["loaded"] - always * len(tiles)
        counts.append(total)
        served.append(round(asked / loaded, 3))
    raw = bytes(blocks.masked_fill(blocks < 0, NONE).flatten().tolist())
    encoded = base64.b64encode(raw).decode("ascii")
    return {"name": name, "of_text": of_text, "blocks": encoded, "counts": counts, "served": served}


# Places in pixels, the same as in nsa_tile_walk.js. The grid begins at LEFT per cent of the width.
STRIP, STRIP_HEIGHT, GRID, GRID_HEIGHT, LEFT = 24, 14, 74, 192, 19


def static_picture(state: dict[str, Any]) -> str:
    """The walk that the page starts with, as SVG, for before scripts run."""
    sizes, start = state["sizes"], state["start"]
    tokens, position, step = start["tokens"], start["position"], start["step"]
    codes, _ = merged_list(stored_blocks(state, start["set"]), position, tokens, sizes["select_block"])
    counts = walk_counts(codes, tokens, sizes)
    scale = GRID_HEIGHT / tile_rows(max(state["tokens"]), sizes)  # pixels a row
    height, band = scale * tile_rows(tokens, sizes), scale * sizes["group_heads"]
    most, whole = sizes["n"] * tokens, height / band
    blocks = [code >> tokens for code in codes]
    cells: dict[str, list[str]] = {kind: [] for kind in ("asked", "later", "masked", "empty")}
    for column, code in enumerate(codes):
        for place in range(tokens):
            if code >> place & 1:
                cells["asked" if column < step else "later"].append(_cell(column, place))
            else:
                cells["masked"].append(f"M{column} {place + 1}L{column + 1} {place}")
        if whole > tokens:
            cells["empty"].append(_cell(column, tokens, whole - tokens))
    current = step - 1
    paths = "".join(f'<path class="{kind}" d="{"".join(d)}"/>' for kind, d in cells.items())
    grid = (
        f'<rect class="ground" width="{len(codes)}" height="{whole:g}"/>{paths}'
        f'<rect class="current" x="{current}" width="1" height="{whole:g}"/>'
    )
    strip = f'<rect class="ground" width="{state["blocks"]}" height="1"/>' + "".join(
        f'<path class="{kind}" d="{"".join(_cell(block, 0) for block in which)}"/>'
        for kind, which in (("asked", blocks[:step]), ("later", blocks[step:]))
    )
    labels = "".join(
        f'<text x="0" y="{GRID + band * (place + 0.5) + 4:g}">{_label(state, position + place)}</text>'
        for place in range(tokens)
    )
    block_kib = counts["bytes_loaded"] // len(codes) / 1024
    bars = "".join(
        f'<text x="0" y="{GRID + height + y + 8:g}">{name} {number}</text>'
        f'<rect class="{name}" x="{LEFT}%" y="{GRID + height + y:g}" height="8" '
        f'width="{(100 - LEFT) * number / most:.4g}%"/>'
        for name, number, y in (("loaded", counts["loaded"], 10), ("asked", counts["asked"], 28))
    )
    what = f"The walk: a column a block, a row the {sizes['group_heads']} heads of a token"
    title = (
        f"One program walks over {len(codes)} blocks for tokens {position:,} to {position + tokens - 1:,}, "
        f"which asked for {counts['asked']}; {step} are loaded"
    )
    return (
        f'<svg class="walk" role="img" width="100%" height="{GRID + height + 44:g}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
        f'<text y="14">All {state["blocks"]} blocks, {block_kib:g} KiB each</text>'
        + _frame(0, STRIP, STRIP_HEIGHT, state["blocks"], 1, strip)
        + f'<text y="{GRID - 10}">{what}</text>'
        + _frame(LEFT, GRID, height, most, whole, grid)
        + f"{labels}{bars}</svg>"
    )


def _frame(left: int, top: float, height: float, columns: int, rows: float, inside: str) -> str:
    """A part of the picture, from `left` per cent to the right edge; one unit is one column or row."""
    return (
        f'<svg x="{left}%" y="{top:g}" width="{100 - left}%" height="{height:g}" aria-hidden="true" '
        f'viewBox="0 0 {columns} {rows:g}" preserveAspectRatio="none">{inside}</svg>'
    )


def _cell(column: int, row: float, height: float = 1) -> str:
    return f"M{column} {row:g}h1v{height:g}h-1z"


def _label(state: dict[str, Any], token: int) -> str:
    """A token's place and, where it is of the text, its character."""
    own = state["text"][token] if state["sets"][state["start"]["set"]]["of_text"] else ""
    shown = {" ": "␣", "\n": "↵", "\t": "⇥"}.get(own, own if "!" <= own <= "~" else own and "·")
    return f"{token:,} {escape(shown)}".strip()
