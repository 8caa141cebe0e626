"""Explorable: the figure's HTML, the live widget, and bad arguments."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from minisys.viz import Explorable

PICTURE = '<svg role="img" width="100%" height="20"><title>a picture</title></svg>'
STATE = {"text": "</script><!-- <script>&amp; é", "numbers": [1, 2.5, None]}


def make(**changes):
    arguments = {
        "module": "nsa_reads",
        "state": STATE,
        "title": "Reads & <writes>",
        "description": "A 'figure'.",
        "static_svg": PICTURE,
    }
    return Explorable(**{**arguments, **changes})


def part(html, name):
    return json.loads(re.search(rf'data-part="{name}">(.*?)</script>', html, re.S)[1])


def test_html_carries_the_module_the_state_and_the_picture():
    explorable = make()
    html = explorable.html()
    source = Path(sys.modules["minisys.viz"].__file__).with_name("nsa_reads.js").read_text(encoding="utf-8")
    model = {"title": "Reads & <writes>", "description": "A 'figure'.", "state": STATE}
    assert part(html, "model") == model
    assert part(html, "module") == source == explorable.source
    assert html.count("<figure") == html.count("</figure>") == 1
    assert 'class="explorable" data-explorable="nsa_reads"' in html
    assert PICTURE in html
    assert "<strong>Reads &amp; &lt;writes&gt;.</strong> A &#x27;figure&#x27;." in html
    assert explorable.css in html
    assert html.index("<style>") < html.index(PICTURE) < html.index("<script")  # drawn before scripts run


def test_nothing_in_the_state_or_the_module_ends_a_script():
    html = make().html()
    assert len(re.findall(r"<script\b", html, re.I)) == len(re.findall(r"</script", html, re.I)) == 3
    assert "<!--" not in html


def test_html_asks_for_nothing_from_outside():
    html = make().html().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?:|//cdn|@import|url\(|\bsrc=|\bhref=", html)


def test_html_is_the_same_to_the_last_byte():
    turned = {name: STATE[name] for name in reversed(STATE)}
    assert make().html() == make(state=turned).html()
    assert make().html() != make(state={**STATE, "numbers": [1, 2.5, 0]}).html()


def test_bundle_has_the_widget_and_the_html():
    explorable = make()
    data, metadata = explorable._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert data["text/html"] == explorable.html()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == explorable.widget.model_id
    assert metadata == {}


def test_widget_runs_the_same_module():
    explorable = make()
    widget = explorable.widget
    assert widget._esm == explorable.source
    assert widget._css == explorable.css
    assert (widget.state, widget.title, widget.description) == (STATE, "Reads & <writes>", "A 'figure'.")
    assert "explorable" in widget._dom_classes  # what the stylesheet starts from
    synced = widget.get_state()
    assert {"state", "title", "description", "computed", "_esm", "_css"} <= set(synced)


def test_without_anywidget_the_html_still_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    explorable = make()
    with pytest.raises(ImportError, match="needs anywidget: pip install anywidget"):
        _ = explorable.widget
    data, _ = explorable._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html"}


@pytest.mark.parametrize("name", ["explorable", "kgrag_graph", "nsa_decode", "nsa_reads", "nsa_tile_walk"])
def test_import_needs_no_jupyter(name, monkeypatch):
    for missing in ("anywidget", "ipywidgets", "traitlets", "IPython"):
        monkeypatch.setitem(sys.modules, missing, None)
    spec = importlib.util.find_spec(f"minisys.viz.{name}")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # anew, whatever was imported before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module": "nsa_writes"}, r"^module: got 'nsa_writes', expected one of .*nsa_reads"),
        ({"module": "explorable"}, r"^module: got 'explorable'"),
        ({"module": "../viz/nsa_reads"}, r"^module: got '\.\./viz/nsa_reads'"),
        ({"state": {"a": float("nan")}}, r"^state: got .*expected what JSON can hold"),
        ({"state": {"a": b"bytes"}}, r"^state: got .*bytes"),
        ({"title": " "}, r"^title: got ' ', expected some text"),
        ({"description": ""}, r"^description: got ''"),
        ({"static_svg": "<p>no picture</p>"}, r"^static_svg: got '<p>no picture</p>'"),
        ({"static_svg": "<svg><title>a</title></svg>"}, r"^static_svg: .*role=\"img\""),
        ({"static_svg": '<svg role="img"><path/></svg>'}, r"^static_svg: .*<title>"),
    ],
)
def test_bad_arguments(changes, message, no_runtime_types):
    with pytest.raises(ValueError, match=message):
        make(**changes)


# --- the stylesheet ---------------------------------------------------------------------------------------


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Contrast ratio of WCAG 2.2, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mix(colour, ground, share):
    pairs = [(int(colour[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(side):
    css = make().css
    found = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", css)
    colours = {name: pair[side] for name, *pair in found}
    query_line = re.findall(r"background: light-dark\((#\w{6}), (#\w{6})\)", css)[0][side]
    tint = int(re.search(r"var\(--selected\) (\d+)%, transparent", css)[1]) / 100
    grounds = {colours["paper"], colours["panel"], query_line}
    tinted = {mix(colours["selected"], ground, tint) for ground in grounds}
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name, on in [("ink", grounds | tinted), ("muted", grounds)]:
        for ground in on:
            assert contrast(colours[name], ground) >= 4.5, (name, ground)
    for name in ("dense", "compressed", "selected", "window", "accent"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
