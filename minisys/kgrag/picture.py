"""The evidence of an answer as an SVG picture: entities, and the facts between them, cited ones in colour."""

from collections.abc import Sequence
from html import escape

import numpy as np

from minisys.core.checks import check
from minisys.kgrag.types import Corpus

WIDTH, HEIGHT, MARGIN = 960, 640, 90
_STYLE = """
  svg { background: #fff; color: #1a1a1a; font: 13px sans-serif; }
  .edge { stroke: #8a8a8a; } .cited { stroke: #b5460f; stroke-width: 2.5; }
  .node { fill: #4a6fa5; } text { fill: currentColor; } .relation { font-size: 11px; }
  @media (prefers-color-scheme: dark) {
    svg { background: #16181c; color: #e8e8e8; } .cited { stroke: #ff9d5c; } .node { fill: #8db4f0; }
  }
"""


def draw_evidence(
    question: str, corpus: Corpus, chunks: Sequence[int], cited: Sequence[int] = (), *, most: int = 30
) -> str:
    """Draw the triples of `chunks` as the text of an SVG file.

    Args:
        question: stands in the picture's title.
        corpus: what the chunks are from.
        chunks: numbers of the retrieved chunks.
        cited: numbers of the chunks that the answer rests on; their facts are drawn first and in colour.
        most: triples that are drawn at most.

    Every text in it is escaped. Without a triple the picture says so.
    """
    from networkx import Graph, spring_layout

    check(most > 0, "most", most, "1 or more")
    graph = corpus.graph
    order = {chunk: place for place, chunk in enumerate(dict.fromkeys([*cited, *chunks]))}
    inside = np.flatnonzero(np.isin(graph.chunks, np.fromiter(order, graph.chunks.dtype, len(order))))
    inside = sorted(inside.tolist(), key=lambda triple: order[int(graph.chunks[triple])])[:most]
    edges = [(int(graph.heads[t]), int(graph.tails[t]), t) for t in inside]
    names = {end: graph.entities[end] for head, tail, _ in edges for end in (head, tail)}
    places = {}
    if names:
        layout = Graph()
        layout.add_nodes_from(sorted(names))
        layout.add_edges_from((head, tail) for head, tail, _ in edges)
        places = _fit(spring_layout(layout, seed=0, k=1.6 / max(1, len(names)) ** 0.5, iterations=80))
    chosen = set(cited)
    lines, labels = [], []
    for head, tail, triple in edges:
        (x1, y1), (x2, y2) = places[head], places[tail]
        chunk = corpus.chunks[int(graph.chunks[triple])]
        source = f"{chunk.document}, sentence {chunk.sentence + 1}: {chunk.text}"
        kind = "edge cited" if int(graph.chunks[triple]) in chosen else "edge"
        lines.append(
            f'<line class="{kind}" x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}">'
            f"<title>{escape(source)}</title></line>"
        )
        labels.append(
            f'<text class="relation" x="{(x1 + x2) / 2:.0f}" y="{(y1 + y2) / 2 - 3:.0f}" '
            f'text-anchor="middle">{escape(_short(graph.relations[triple]))}</text>'
        )
    for node, name in names.items():
        x, y = places[node]
        lines.append(f'<circle class="node" cx="{x:.0f}" cy="{y:.0f}" r="6"/>')
        labels.append(
            f'<text x="{x:.0f}" y="{y - 10:.0f}" text-anchor="middle">{escape(_short(name))}</text>'
        )
    if not names:
        labels.append(f'<text x="{WIDTH // 2}" y="{HEIGHT // 2}" text-anchor="middle">no facts</text>')
    facts = f"{len(edges)} facts between {len(names)} entities; those that the answer cites are in colour"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>Evidence for: {escape(question)}</title>",
            f"<desc>{facts}</desc>",
            f"<style>{_STYLE}</style>",
            *lines,
            *labels,
            "</svg>\n",
        ]
    )


def _fit(places: dict) -> dict[int, tuple[float, float]]:
    """Stretch a layout over the picture."""
    points = np.array(list(places.values()))
    low, high = points.min(0), points.max(0)
    scaled = (points - low) / np.where(high > low, high - low, 1)
    size = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    fitted = np.where(high > low, MARGIN + scaled * size, np.array([WIDTH, HEIGHT]) / 2)
    return dict(zip(places, map(tuple, fitted.tolist()), strict=True))


def _short(text: str, length: int = 32) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
