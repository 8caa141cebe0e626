"""Explorable: one ES module and its JSON, as a live widget in Jupyter and as plain HTML everywhere else.

The module is a file of this folder, `NAME.js`, with ``export default { render({ model, el }) { … } }``, the
interface of anywidget: ``model.get("state")`` is the JSON that Python computed, `el` the element to fill.
In a live Jupyter the module runs as an anywidget. The HTML form carries the same module, the same JSON and a
stand-in for `model`, so that a page moves with no kernel and no network, from a server or from a file, any
number of times on a page. Until scripts run, or where none do, it shows a static SVG.

What the HTML form leaves out: nothing the reader does reaches Python, as there may be none.
"""

import json
import re
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from minisys.core.checks import check

_FOLDER = Path(__file__).resolve().parent

_FIGURE = """\
<figure class="explorable" data-explorable="{name}">
<style>
{css}</style>
<figcaption><strong>{title}.</strong> {description}</figcaption>
<div class="explorable-view">
{static_svg}
</div>
<script type="application/json" data-part="model">{model}</script>
<script type="application/json" data-part="module">{module}</script>
<script type="module">
{loader}</script>
</figure>
"""


class Explorable:
    """A figure that the reader can move.

    Show it as the last value of a notebook cell. The output holds both forms: Jupyter takes the widget, a
    static page takes the HTML. The same arguments give the same HTML to the last byte.

    Args:
        module: name of the ES module, a file of ``minisys/viz`` without ``.js``. A stylesheet of the same
            name is added to the common one.
        state: what the module reads with ``model.get("state")``; anything JSON can hold, without NaN.
        title: a few words, without a full stop.
        description: a sentence or two above the figure.
        static_svg: what is shown before scripts run: one ``<svg role="img">`` with a ``<title>``. Widths and
            places in per cent keep its text legible on a phone.

    Raises:
        ValueError: there is no such module, `state` is no JSON, or `static_svg` is no labelled picture.
    """

    def __init__(
        self, module: str, state: dict[str, object], *, title: str, description: str, static_svg: str
    ) -> None:
        known = sorted(path.stem for path in _FOLDER.glob("*.js") if path.stem != "explorable")
        check(module in known, "module", repr(module), f"one of {', '.join(known)}")
        for name, text in (("title", title), ("description", description)):
            check(bool(text.strip()), name, repr(text), "some text")
        labelled = re.match(r"\s*<svg\b[^>]*\brole=\"img\"[^>]*>\s*<title>[^<]", static_svg)
        check(
            labelled is not None,
            "static_svg",
            repr(static_svg[:60]),
            'an <svg role="img"> that starts with a <title>',
        )
        try:
            _to_json(state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"state: got {error}, expected what JSON can hold") from error
        self.module, self.state = module, state
        self.title, self.description, self.static_svg = title, description, static_svg

    @property
    def source(self) -> str:
        """Text of the ES module."""
        return (_FOLDER / f"{self.module}.js").read_text(encoding="utf-8")

    @property
    def css(self) -> str:
        """The common stylesheet, and the module's own where there is one."""
        files = (_FOLDER / "explorable.css", _FOLDER / f"{self.module}.css")
        return "".join(path.read_text(encoding="utf-8") for path in files if path.exists())

    def html(self) -> str:
        """The figure as one ``<figure>`` that needs nothing from outside."""
        model = {"title": self.title, "description": self.description, "state": self.state}
        return _FIGURE.format(
            name=self.module,
            css=self.css,
            static_svg=self.static_svg.strip(),
            title=escape(self.title),
            description=escape(self.description),
            model=_to_json(model),
            module=_to_json(self.source),
            loader=(_FOLDER / "explorable.js").read_text(encoding="utf-8"),
        )

    @cached_property
    def widget(self) -> Any:
        """The live form, an ``anywidget.AnyWidget``; its `computed` is what the figure shows right now.

        Raises:
            ImportError: anywidget is not installed.
        """
        try:
            import anywidget
            import traitlets
        except ImportError as error:
            raise ImportError(
                "The live form of an explorable needs anywidget: pip install anywidget. "
                "Explorable.html() works without it."
            ) from error

        class ExplorableWidget(anywidget.AnyWidget):
            _esm = self.source
            _css = self.css
            title = traitlets.Unicode().tag(sync=True)
            description = traitlets.Unicode().tag(sync=True)
            state = traitlets.Dict().tag(sync=True)
            computed = traitlets.Dict().tag(sync=True)

        widget = ExplorableWidget(title=self.title, description=self.description, state=self.state)
        return widget.add_class("explorable")

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Both forms for Jupyter; only the HTML one, which moves as well, where anywidget is missing."""
        bundle: dict[str, object] = {"text/plain": repr(self), "text/html": self.html()}
        try:
            live = self.widget._repr_mimebundle_()
        except ImportError:
            return bundle, {}
        return {**(live[0] if isinstance(live, tuple) else live), **bundle}, {}

    def __repr__(self) -> str:
        return f"Explorable({self.module!r}, title={self.title!r})"


def _to_json(value: object) -> str:
    """JSON that can stand inside a ``<script>``: ASCII, and no ``<`` that could end or comment out one."""
    text = json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.replace("<", "\\u003c")
