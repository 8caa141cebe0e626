"""What native sparse attention reads: the data of the explorable `nsa_reads`, and its static picture.

The model runs once over a text, one byte a token. Stored for every layer, head group and `query_step`-th
query: the selection blocks in the order of their importance (arXiv 2502.11089, equations 8 to 12) and that
importance in per cent. From this the page computes which blocks any top_n would read, and with the arithmetic
of `minisys.nsa.costs` what any setting reads and costs. Nothing else of the model is in the page.

Cost: one forward pass, without the attention of the last layer looked at; about 80 bytes of JSON for each
query, layer and group at 4,096 tokens with blocks of 64 (170 kB for 256 queries, 4 layers and 2 groups).
"""

import base64
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from minisys.core.checks import check, check_positive_int
from minisys.core.decoder import Decoder
from minisys.nsa import NativeSparseAttention, NSAConfig
from minisys.nsa.costs import tokens_read
from minisys.nsa.reference import attention_weights, block_importance, compressed_mask
from minisys.viz.explorable import Explorable

MAX_TOP_N = 32
"""Largest top_n that the reader can choose, unless the model's own is larger."""

MAX_BLOCKS = 256
"""Selection blocks of a text at most: a block number is stored in one byte."""

ELEMENT_BYTES = 2


def nsa_reads(
    model: Decoder,
    text: bytes,
    config: NSAConfig,
    *,
    layers: Sequence[int] | None = None,
    query_step: int = 16,
    file_name: str = "",
) -> Explorable:
    """Explorable: pick a query in a text and see what each branch of native sparse attention reads for it.

    Args:
        model: a byte-level decoder whose attention is `NativeSparseAttention`, on any device.
        text: the tokens, at most 256 selection blocks. Queries are the last byte of every `query_step` bytes.
        config: the settings that the model was trained with.
        layers: which layers the reader can look at; all of them unless set.
        query_step: distance of the queries that can be picked.
        file_name: where the text comes from, shown to the reader.

    Raises:
        ValueError: an argument does not fit.
    """
    state = nsa_reads_state(model, text, config, layers=layers, query_step=query_step, file_name=file_name)
    return Explorable(
        "nsa_reads",
        state,
        title="What native sparse attention reads",
        description=(
            f"A small model read {len(text):,} bytes{f' of {file_name}' if file_name else ''}, one byte a "
            "token. Pick a query, a layer and a group of heads: the map shows which keys each branch reads, "
            "beside what dense attention reads."
        ),
        static_svg=static_picture(state),
    )


@torch.no_grad()
def nsa_reads_state(
    model: Decoder,
    text: bytes,
    config: NSAConfig,
    *,
    layers: Sequence[int] | None = None,
    query_step: int = 16,
    file_name: str = "",
) -> dict[str, object]:
    """The JSON of the explorable; arguments and errors as in `nsa_reads`.

    ``state["rank"][layer][group][query]`` and ``state["importance"][layer][group][query]`` are base64 of one
    byte a number: the blocks that are not forced, most important first, and the importance of each block up
    to the query's own in whole per cent of the largest. Query i stands at ``(i + 1)·query_step - 1``, and
    `layer` is the place in ``state["layers"]``.
    """
    layers = check_arguments(model, text, config, layers, query_step)
    tokens = torch.tensor([list(text)], device=model.embedding.weight.device)
    positions = torch.arange(len(text), device=tokens.device)
    queries = range(query_step - 1, len(text), query_step)
    max_top_n = max(MAX_TOP_N, config.top_n)
    rank, importance = {}, {}
    x = model.embedding(tokens)
    for number, block in enumerate(model.blocks[: max(layers) + 1]):
        if number in layers:
            here = _importance(block.attention, block.attention_norm(x), positions, config)
            rank[number], importance[number] = _encode(here, queries, config, max_top_n)
        if number < max(layers):
            x = block(x, positions)
    attention = model.blocks[0].attention
    return {
        "config": asdict(config),
        "file": file_name,
        "importance": [importance[number] for number in layers],
        "layers": layers,
        "max_top_n": max_top_n,
        "query_step": query_step,
        "rank": [rank[number] for number in layers],
        "sizes": {
            "d_qk": attention.head_dim,
            "d_v": attention.value_dim,
            "hq": attention.num_heads,
            "hk": attention.num_kv_heads,
            "element_bytes": ELEMENT_BYTES,
        },
        "start": {"position": queries[(3 * len(queries)) // 4], "layer": layers[-1], "group": 0},
        "text": text.decode("latin-1"),  # one character a byte
    }


def selected_blocks(state: dict[str, Any], layer: int, group: int, position: int, top_n: int) -> list[int]:
    """Blocks that the stored model reads, ascending: what `select_blocks` says, from the stored ranks.

    Args:
        state: of `nsa_reads_state`.
        layer: number of a layer in ``state["layers"]``.
        group: key/value head.
        position: a stored query, ``(i + 1)·query_step - 1``.
        top_n: blocks to read, forced ones included.

    Raises:
        ValueError: `position` or `layer` is not stored.
    """
    check(layer in state["layers"], "layer", layer, f"one of {state['layers']}")
    query, rest = divmod(position + 1, state["query_step"])
    table = state["rank"][state["layers"].index(layer)][group]
    check(
        rest == 0 and 1 <= query <= len(table),
        "position",
        position,
        f"i·{state['query_step']} - 1 for i from 1 to {len(table)}",
    )
    forced = _forced(position, NSAConfig(**state["config"]))
    ranked = base64.b64decode(table[query - 1])
    return sorted([*forced, *ranked[: max(0, top_n - len(forced))]])


def check_arguments(
    model: Decoder, text: bytes, config: NSAConfig, layers: Sequence[int] | None, query_step: int
) -> list[int]:
    """Check everything before the model runs; returns the layers as a rising list."""
    found = [type(block.attention).__name__ for block in getattr(model, "blocks", [])]
    check(
        bool(found) and set(found) == {NativeSparseAttention.__name__},
        "model",
        f"{type(model).__name__} with attention {sorted(set(found))}",
        "a Decoder whose attention is NativeSparseAttention",
    )
    vocabulary = model.embedding.num_embeddings
    check(
        vocabulary >= 256, "model", f"a vocabulary of {vocabulary}", "at least 256, one token for each byte"
    )
    for number, block in enumerate(model.blocks):
        own = block.attention.config
        check(own == config, "config", config, f"{own}, which layer {number} of the model has")
    check(isinstance(text, bytes), "text", type(text).__name__, "bytes")
    check_positive_int("query_step", query_step)
    most = MAX_BLOCKS * config.select_block
    check(query_step <= len(text) <= most, "text", f"{len(text)} bytes", f"{query_step} to {most}")
    chosen = sorted(set(range(len(found)) if layers is None else layers))
    check(
        bool(chosen) and all(0 <= number < len(found) for number in chosen),
        "layers",
        layers,
        f"numbers from 0 to {len(found) - 1}",
    )
    return chosen


def _importance(
    attention: NativeSparseAttention, x: Tensor, positions: Tensor, config: NSAConfig
) -> Float[Tensor, "t hk ts"]:
    """Importance of every selection block for every query of one layer, as the layer itself computes it."""
    branches = attention.branches(x, positions)
    scale = attention.head_dim**-0.5 if attention.scale is None else attention.scale
    mask = compressed_mask(x.shape[1], config, x.device)
    p_cmp = attention_weights(branches["q"], branches["k_cmp"], mask, scale)
    return block_importance(p_cmp, config)[0].cpu()


def _forced(position: int, config: NSAConfig) -> list[int]:
    """Blocks that are read whatever their importance: the initial and the local ones."""
    own = position // config.select_block
    return [j for j in range(own + 1) if j < config.initial_blocks or j > own - config.local_blocks]


def _encode(
    importance: Float[Tensor, "t hk ts"], queries: range, config: NSAConfig, max_top_n: int
) -> tuple[list[list[str]], list[list[str]]]:
    """(rank, importance) of one layer, ``[group][query]``, each a base64 string of one byte a number."""
    rank: list[list[str]] = [[] for _ in range(importance.shape[1])]
    percent: list[list[str]] = [[] for _ in range(importance.shape[1])]
    for position in queries:
        forced = _forced(position, config)
        past = importance[position, :, : position // config.select_block + 1]  # [hk, blocks]
        order = past.argsort(dim=-1, descending=True, stable=True)  # stable: ties go to the earlier block
        whole = (100 * past / past.amax(dim=-1, keepdim=True).clamp_min(1e-30)).round().to(torch.uint8)
        for group in range(len(rank)):
            ranked = [j for j in order[group].tolist() if j not in forced][: max_top_n - len(forced)]
            rank[group].append(base64.b64encode(bytes(ranked)).decode("ascii"))
            percent[group].append(base64.b64encode(bytes(whole[group].tolist())).decode("ascii"))
    return rank, percent


ROWS = {"dense": (38, 10), "compressed": (79, 12), "selected": (122, 32), "window": (184, 10)}
"""(top, height) of the rows of the map in pixels, the same as in nsa_reads.js."""


def static_picture(state: dict[str, Any]) -> str:
    """The map of the query that the page starts with, as SVG, for before scripts run.

    Horizontal places are per cent of the width, so that the text keeps its size on a phone.
    """
    config = NSAConfig(**state["config"])
    total, position = len(state["text"]), state["start"]["position"]
    layer, group = state["start"]["layer"], state["start"]["group"]
    size, block, stride = config.select_block, config.compress_block, config.compress_stride
    blocks = selected_blocks(state, layer, group, position, config.top_n)
    read = tokens_read(position, config)
    middles = [i * stride + block / 2 for i in range(read.compressed)]
    query = (position + 1) // state["query_step"] - 1
    percent = base64.b64decode(state["importance"][state["layers"].index(layer)][group][query])
    spans = {j: (j * size, min((j + 1) * size, position + 1)) for j in range(len(percent))}
    shapes: dict[str, dict[str, list]] = {
        "dense": {"dense": [(0, position + 1, 0)]},
        "compressed": {"compressed": [(middle - stride / 4, middle + stride / 4, 0) for middle in middles]},
        "selected": {
            "unchosen": [(*spans[j], 100 - percent[j]) for j in spans if j not in blocks],
            "ground": [(*spans[j], 0) for j in blocks],
            "chosen": [(*spans[j], 100 - percent[j]) for j in blocks],
            "forced": [(*spans[j], 0) for j in _forced(position, config)],
        },
        "window": {"window": [(position + 1 - read.window, position + 1, 0)]},
    }
    labels = {
        "dense": ("Dense", "every token so far", position + 1),
        "compressed": ("Compressed", f"{block} tokens each, every {stride}", read.compressed),
        "selected": ("Selected", f"{len(blocks)} blocks of {size} tokens", read.selected),
        "window": ("Window", f"the last {read.window:,} tokens", read.window),
    }
    parts = []
    for row, (top, height) in ROWS.items():
        name, what, keys = labels[row]
        paths = "".join(f'<path class="{kind}" d="{_bars(bars)}"/>' for kind, bars in shapes[row].items())
        parts.append(
            f'<text y="{top - 6}"><tspan class="name">{name}</tspan>'
            f'<tspan class="muted" dx="7">{what}</tspan></text>'
            f'<text x="100%" y="{top - 6}" text-anchor="end">{keys:,} keys</text>'
            f'<svg y="{top}" width="100%" height="{height}" viewBox="0 0 {total} 100" aria-hidden="true" '
            f'preserveAspectRatio="none"><rect class="track" width="{total}" height="100"/>{paths}</svg>'
        )
    for token, anchor in ((0, "start"), (total // 2, "middle"), (total, "end")):
        x = f"{100 * token / total:g}%"
        parts.append(f'<text class="muted" x="{x}" y="215" text-anchor="{anchor}">{token:,}</text>')
    at = f"{100 * (position + 0.5) / total:.4g}%"
    parts.append(f'<line class="query" x1="{at}" x2="{at}" y1="16" y2="198"/>')
    parts.append(f'<text class="flag" x="{at}" y="12" text-anchor="middle">query {position:,}</text>')
    title = (
        f"What native sparse attention reads for the query at token {position:,} of {total:,}: "
        + ", ".join(f"{name.lower()} {keys:,} keys" for name, _, keys in labels.values())
    )
    return (
        f'<svg class="map" role="img" width="100%" height="222" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _bars(spans: list[tuple[int | float, int | float, int]]) -> str:
    """Path of bars (from token, to token, top), with 0 at the top of the row and 100 at its foot."""
    return "".join(f"M{start:g} {top:g}H{end:g}V100H{start:g}Z" for start, end, top in spans)
