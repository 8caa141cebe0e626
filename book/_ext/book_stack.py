"""The picture of the stack: one box a topic, drawn as SVG from the list below.

Two drawings are made, one for a wide screen and one for a phone; the style sheet shows one of
them. A box whose page is part of the book is a link to it, every other box says that it is not
yet written. Lengths are in CSS pixels.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


@dataclass(frozen=True)
class Topic:
    """One box: what it is called, what it does, the page it leads to (None: not yet named), its package."""

    name: str
    does: str
    page: str | None = None
    package: str | None = None


# From top to bottom; a row rests on the rows below it.
ROWS: list[tuple[str, list[Topic]]] = [
    (
        "Use",
        [
            Topic("GRPO", "learns by comparing its own answers", package="minisys.grpo"),
            Topic(
                "KG²RAG",
                "looks up passages along a graph",
                "notebooks/20_kgrag_second_hop",
                "minisys.kgrag",
            ),
        ],
    ),
    ("Model", [Topic("Integrated model", "all the parts in one training run", package="minisys.model")]),
    (
        "Layers",
        [
            Topic(
                "Native sparse attention",
                "reads part of a long context",
                "notebooks/01_native_sparse_attention",
                "minisys.nsa",
            ),
            Topic("Mixture of experts", "sends a token to a few experts", package="minisys.moe"),
        ],
    ),
    (
        "Hardware",
        [
            Topic("FP8", "multiplies matrices in eight bits", package="minisys.fp8"),
            Topic("DualPipe", "keeps a pipeline of GPUs busy", package="minisys.pipeline"),
        ],
    ),
    (
        "Core",
        [
            Topic(
                "Core",
                "a text, a dense decoder and a training loop",
                "book/api/generated/minisys.core",
                "minisys.core",
            )
        ],
    ),
]

ALTERNATIVE = "The stack of MiniSys, from what you use down to what it rests on. " + " ".join(
    f"{label}: {', '.join(topic.name for topic in topics)}." for label, topics in ROWS
)
CAPTION = "The stack. A solid box is a link to its page; a dashed box is not yet written."

PLANNED = "not yet written"

GAP, PADDING, TITLE_LINE, TEXT_LINE = 10, 12, 20, 17
GLYPH = 7.6  # width of a character at 13 px in a wide font


def draw(columns: int, width: int, label_width: int, link: Callable[[Topic], str | None]) -> str:
    """SVG of all rows, with at most `columns` boxes side by side; `link` gives a box's address or None.

    With ``label_width = 0`` the row's label stands above its boxes instead of at their left.
    """
    parts: list[str] = []
    top = 1
    for label, topics in ROWS:
        lines = [topics[i : i + columns] for i in range(0, len(topics), columns)]
        if not label_width and len(topics) > 1:
            parts.append(f'<text class="stack-label" x="2" y="{top + 14}">{escape(label)}</text>')
            top += 22
        for line in lines:
            box_width = (width - 2 - label_width - GAP * (len(line) - 1)) / len(line)
            texts = [textwrap.wrap(topic.does, int((box_width - 2 * PADDING) / GLYPH)) for topic in line]
            texts = [
                text + ([] if link(topic) else [PLANNED]) for topic, text in zip(line, texts, strict=True)
            ]
            height = 2 * PADDING + TITLE_LINE + TEXT_LINE * max(map(len, texts)) - 4
            if label_width:
                parts.append(
                    f'<text class="stack-label" x="0" y="{top + height / 2 + 5:g}">{escape(label)}</text>'
                )
            for column, (topic, text) in enumerate(zip(line, texts, strict=True)):
                left = 1 + label_width + column * (box_width + GAP)
                parts.append(_box(topic, text, left, top, box_width, height, link(topic)))
            top += height + GAP
    kind = "narrow" if columns == 1 else "wide"
    return (
        f'<svg class="stack-{kind}" role="group" aria-label="{escape(ALTERNATIVE)}" '
        f'viewBox="0 0 {width} {top - GAP + 1}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _box(
    topic: Topic, text: list[str], left: float, top: float, width: float, height: float, href: str | None
) -> str:
    says = f"{topic.name}: {topic.does}" + ("" if href else f" ({PLANNED})")
    x = f'x="{left + PADDING:g}"'
    baseline = top + PADDING + 14
    drawn = [
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="6"/>',
        f'<text class="stack-title" {x} y="{baseline:g}">{escape(topic.name)}</text>',
    ]
    for number, line in enumerate(text):
        y = baseline + TITLE_LINE + TEXT_LINE * number - 1
        kind = "stack-state" if line == PLANNED else "stack-text"
        drawn.append(f'<text class="{kind}" {x} y="{y:g}">{escape(line)}</text>')
    if href:
        return f'<a class="stack-box" href="{escape(href)}" aria-label="{escape(says)}">{"".join(drawn)}</a>'
    return f'<g class="stack-box stack-planned" role="img" aria-label="{escape(says)}">{"".join(drawn)}</g>'


class StackNode(nodes.General, nodes.Element):
    """Place of the picture; drawn when the page is written, when every page is known."""


class StackPicture(SphinxDirective):
    """``{stack-picture}``: the whole stack, each box a link to its page where the page exists."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # which boxes are links depends on other pages
        return [StackNode()]


def visit_html(translator, node: StackNode) -> None:
    builder = translator.builder

    def link(topic: Topic) -> str | None:
        known = topic.page in builder.env.found_docs
        return builder.get_relative_uri(builder.current_docname, topic.page) if known else None

    wide, narrow = draw(2, 720, 92, link), draw(1, 352, 0, link)
    translator.body.append(
        f'<figure class="stack-picture">{wide}{narrow}<figcaption>{escape(CAPTION)}</figcaption></figure>\n'
    )
    raise nodes.SkipNode


def visit_other(translator, node: StackNode) -> None:
    translator.body.append(ALTERNATIVE)
    raise nodes.SkipNode
