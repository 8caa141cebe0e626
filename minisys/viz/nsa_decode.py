"""What a token must read: the data of the explorable `nsa_decode`, and its static picture.

A decoding step has one query a row to share its keys with, so it takes as long as its bytes take to move
(arXiv 2502.11089, section 2.2). The page counts the bytes of a step by branch, as
`minisys.nsa.costs.step_bytes` does, for any length, batch, group, window and top_n, and divides them by the
rate of a plain copy. What launches add is for the reader to set. Steps that were measured are drawn on top.

`predicted` is the page's arithmetic in Python; a test in the browser holds the two to the last digit. Left
out on both sides: projections, what passes between the launches of a step, and whether a cache of that size
fits into any GPU.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from decimal import ROUND_HALF_UP, Decimal
from html import escape
from pathlib import Path
from typing import Any

from minisys.bench import results
from minisys.core.checks import check, check_positive_int
from minisys.core.paths import results_directory
from minisys.nsa import NSAConfig
from minisys.nsa.costs import step_bytes
from minisys.viz.explorable import Explorable

RESULTS = "nsa-decode-gpu"
"""Name of the result file whose steps are drawn, of ``minisys bench nsa-decode``."""

COPY_TB_PER_S = 3.0
"""Copy rate of an H100, 10¹² bytes read and written a second, where no result file says what was measured."""

ELEMENT_BYTES = 2
LENGTHS = [2**i for i in range(10, 21)]
BATCHES = [2**i for i in range(8)]
GROUPS = [1, 4, 8, 16, 32, 64]
WINDOWS = [128, 256, 512, 1024, 2048, 4096]
MAX_TOP_N = 64
START = {"length": 65536, "batch": 8, "group": 16, "launch_us": 2.0}
"""What the page starts with; window and top_n are the config's."""


def nsa_decode(
    *,
    config: NSAConfig | None = None,
    hq: int = 64,
    d_qk: int = 128,
    d_v: int = 128,
    launches: Mapping[str, int] | None = None,
    copy_tb_per_s: float | None = None,
    directory: str | Path | None = None,
) -> Explorable:
    """Explorable: the bytes of one decoding step by branch, the time that they take, and what was measured.

    Args:
        config: block lengths, and the window and top_n to start with; the paper's unless given.
        hq: query heads, a multiple of 64. A group of g of them shares a key/value head.
        d_qk, d_v: size of a key and of a value.
        launches: kernels of a step, ``{"nsa": …, "dense": …}``; 2 and 2 unless given.
        copy_tb_per_s: 10¹² bytes that a plain copy reads and writes a second. Unless given, what the result
            file says, or `COPY_TB_PER_S` where there is none.
        directory: where to look for the result file `RESULTS`; the checkout's ``benchmarks/results`` unless
            given. Without such a file no measured step is drawn.

    Raises:
        ValueError: an argument does not fit, or the result file has other head sizes or blocks.
    """
    state = nsa_decode_state(
        config=config, hq=hq, d_qk=d_qk, d_v=d_v, launches=launches, copy_tb_per_s=copy_tb_per_s,
        directory=directory,
    )  # fmt: skip
    return Explorable(
        "nsa_decode",
        state,
        title="What a token must read",
        description=(
            "Every new token reads the cache once more. The bars are the bytes of one decoding step of one "
            "layer, by branch, beside dense attention; the lines are the time that a plain copy of as many "
            "bytes takes, with the launches."
        ),
        static_svg=static_picture(state),
    )


def nsa_decode_state(
    *,
    config: NSAConfig | None = None,
    hq: int = 64,
    d_qk: int = 128,
    d_v: int = 128,
    launches: Mapping[str, int] | None = None,
    copy_tb_per_s: float | None = None,
    directory: str | Path | None = None,
) -> dict[str, Any]:
    """The JSON of the explorable; arguments and errors as in `nsa_decode`.

    ``state["measured"]`` is None or has ``points`` (case, t, batch and us, µs a step), the ``group``,
    ``window`` and ``top_n`` that they were measured with, and ``where``, a phrase.
    """
    config = NSAConfig() if config is None else config
    launches = {"nsa": 2, "dense": 2} if launches is None else dict(launches)
    for name, size in {"hq": hq, "d_qk": d_qk, "d_v": d_v}.items():
        check_positive_int(name, size)
    check(hq % max(GROUPS) == 0, "hq", hq, f"a multiple of {max(GROUPS)}")
    counted = set(launches) == {"nsa", "dense"} and all(type(n) is int and n > 0 for n in launches.values())
    check(counted, "launches", launches, "a positive number for nsa and for dense")
    check(config.top_n <= MAX_TOP_N, "config", f"top_n {config.top_n}", f"at most {MAX_TOP_N}")
    check(config.window <= LENGTHS[0] * 4, "config", f"window {config.window}", f"at most {LENGTHS[0] * 4}")
    measured, measured_rate = _measured(config, hq, d_qk, d_v, directory)
    rate = copy_tb_per_s or measured_rate or COPY_TB_PER_S
    check(math.isfinite(rate) and rate > 0, "copy_tb_per_s", copy_tb_per_s, "a positive number")
    start = START | {"window": config.window, "top_n": config.top_n}
    return {
        "batches": BATCHES,
        "config": asdict(config),
        "copy_measured": copy_tb_per_s is None and measured_rate is not None,
        "copy_tb_per_s": rate,
        "groups": GROUPS,
        "launches": launches,
        "lengths": LENGTHS,
        "max_top_n": MAX_TOP_N,
        "measured": measured,
        "sizes": {"d_qk": d_qk, "d_v": d_v, "hq": hq, "element_bytes": ELEMENT_BYTES},
        "start": start,
        "windows": sorted({*WINDOWS, config.window}),
    }


def predicted(state: dict[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows for `choice`: length, batch, group, window, top_n and launch_us.

    Returns:
        The choice, and ``bytes``: of a step, as `step_bytes` has them; ``us``: of each entry of it at the
        copy rate, without launches; ``step_us``: of NSA and dense attention with their launches; ``curve``:
        step_us at every length; ``points``: what was measured with these settings, by case, ``[[t, us], …]``.
    """
    sizes, launches = state["sizes"], state["launches"]
    config = replace(NSAConfig(**state["config"]), window=choice["window"], top_n=choice["top_n"])
    per_us = 1e6 * state["copy_tb_per_s"]

    def moved(length: int) -> dict[str, float]:
        return step_bytes(
            length, config, d_qk=sizes["d_qk"], d_v=sizes["d_v"], hk=sizes["hq"] // choice["group"],
            batch=choice["batch"], element_bytes=sizes["element_bytes"],
        )  # fmt: skip

    def step_us(found: dict[str, float], name: str) -> float:
        return found[name] / per_us + launches[name] * choice["launch_us"]

    here, everywhere = moved(choice["length"]), [moved(length) for length in state["lengths"]]
    return {
        **choice,
        "bytes": here,
        "us": {name: count / per_us for name, count in here.items()},
        "step_us": {name: step_us(here, name) for name in launches},
        "curve": {name: [step_us(found, name) for found in everywhere] for name in launches},
        "points": {name: _points(state, choice, name) for name in launches},
    }


def _points(state: dict[str, Any], choice: Mapping[str, Any], case: str) -> list[list[float]]:
    measured = state["measured"]
    needed = ("group",) if case == "dense" else ("group", "window", "top_n")  # dense attention has no others
    if measured is None or any(measured[name] != choice[name] for name in needed):
        return []
    found = (p for p in measured["points"] if p["case"] == case and p["batch"] == choice["batch"])
    return [[p["t"], p["us"]] for p in found]


def _measured(
    config: NSAConfig, hq: int, d_qk: int, d_v: int, directory: str | Path | None
) -> tuple[dict[str, Any] | None, float | None]:
    """What the result file holds for the figure, and its copy rate; None and None where there is no file."""
    folder = results_directory() if directory is None else Path(directory)
    if not (folder / f"{RESULTS}.json").is_file():
        return None, None
    found = results.load(RESULTS, folder)["results"]
    sizes, own = found["sizes"], found["config"]
    expected = {"hq": hq, "head_dim": d_qk} | {k: v for k, v in asdict(config).items() if k in own}
    got = {name: {**sizes, **own}[name] for name in expected}
    free = {"window", "top_n"}  # the reader moves them; points are drawn where they are as measured
    fits = d_qk == d_v and all(got[name] == expected[name] for name in expected if name not in free)
    check(fits, RESULTS, got, f"measured with {expected}")
    points = [
        {"case": row["case"], "t": row["t"], "batch": int(row["direction"][6:]), "us": 1e3 * row["median_ms"]}
        for row in found["rows"].values()
        if row["case"] in ("nsa", "dense")
        and row.get("direction", "").startswith("batch ")
        and "median_ms" in row
        and LENGTHS[0] <= row["t"] <= LENGTHS[-1]
    ]
    settings = {"group": sizes["hq"] // sizes["hk"], "window": own["window"], "top_n": own["top_n"]}
    where = results.hardware(RESULTS, folder)
    return {"points": points, "where": where, **settings}, found["ceilings"]["copy_tb_per_s"]


# Places in pixels, the same as in nsa_decode.js. The plot begins at LEFT and ends at RIGHT per cent.
BARS = {"dense": (20, 16), "nsa": (60, 16), "enlarged": (100, 22)}
PLOT, PLOT_HEIGHT, LEFT, RIGHT = 164, 170, 13, 97
BRANCHES = {"compressed": "C", "selected": "S", "window": "W", "append": "A"}
"""Parts of the bar and their letters; append is with compression."""


def parts(found: Mapping[str, float]) -> dict[str, float]:
    """Bytes by part of the bar: what is appended and what φ takes are one."""
    return {name: found[name] + (found["compression"] if name == "append" else 0.0) for name in BRANCHES}


def shown(value: float) -> str:
    """Three digits or so: rounded as JavaScript's Intl does, half up on the shortest decimal."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):,}"


def short(length: int) -> str:
    """A power of two in a few letters: 64k, 1M."""
    return f"{length >> 20}M" if length >= 1 << 20 else f"{length >> 10}k"


def static_picture(state: dict[str, Any]) -> str:
    """What the page starts with, as SVG, for before scripts run. Horizontal places are per cent."""
    found = predicted(state, state["start"])
    moved, most = found["bytes"], max(found["bytes"]["nsa"], found["bytes"]["dense"])
    pieces = [f'<text y="{BARS["dense"][0] - 6}">Dense: {shown(moved["dense"] / 1e6)} MB a step</text>']
    pieces += _bar("dense", [("dense", 100 * moved["dense"] / most)])
    pieces.append(f'<text y="{BARS["nsa"][0] - 6}">NSA: {shown(moved["nsa"] / 1e6)} MB a step</text>')
    pieces += _bar("nsa", [(name, 100 * count / most) for name, count in parts(moved).items()])
    pieces.append(f'<text y="{BARS["enlarged"][0] - 6}">NSA, enlarged</text>')
    pieces += _bar("enlarged", [(name, 100 * n / moved["nsa"]) for name, n in parts(moved).items()])
    low, high = decades(found)
    x = lambda t: LEFT + (RIGHT - LEFT) * (math.log2(t) - 10) / 10
    y = lambda us: PLOT + PLOT_HEIGHT * (1 - (math.log10(us) - low) / (high - low))
    pieces.append(f'<text y="{PLOT - 12}">Time of a step by length, at batch {found["batch"]}</text>')
    for decade in range(low, high + 1):
        at = f"{y(10.0**decade):.2f}"
        pieces.append(f'<line class="grid" x1="{LEFT}%" x2="{RIGHT}%" y1="{at}" y2="{at}"/>')
        pieces.append(f'<text class="muted" x="0" y="{y(10.0**decade) + 4:.2f}">{time_label(decade)}</text>')
    for length in state["lengths"][::2]:
        label = (
            f'<text class="muted" x="{x(length):.2f}%" y="{PLOT + PLOT_HEIGHT + 18}" text-anchor="middle">'
        )
        pieces.append(f"{label}{short(length)}</text>")
    at = f"{x(found['length']):.2f}%"
    pieces.append(f'<line class="here" x1="{at}" x2="{at}" y1="{PLOT}" y2="{PLOT + PLOT_HEIGHT}"/>')
    for name, curve in found["curve"].items():
        places = [f"{10 * i} {100 * (y(us) - PLOT) / PLOT_HEIGHT:.2f}" for i, us in enumerate(curve)]
        pieces.append(
            f'<svg x="{LEFT}%" y="{PLOT}" width="{RIGHT - LEFT}%" height="{PLOT_HEIGHT}" '
            f'viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
            f'<path class="line {name}" d="M{"L".join(places)}"/></svg>'
        )
    for name, points in found["points"].items():
        places = [f'cx="{x(t):.2f}%" cy="{y(us):.2f}"' for t, us in points]
        pieces += [f'<circle class="point {name}" {place} r="4.5"/>' for place in places]
    title = (
        f"A step at {found['length']:,} tokens and batch {found['batch']}: NSA moves "
        f"{shown(moved['nsa'] / 1e6)} MB, dense attention {shown(moved['dense'] / 1e6)} MB."
    )
    height = PLOT + PLOT_HEIGHT + 26
    return (
        f'<svg class="decode" role="img" width="100%" height="{height}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(pieces)}</svg>"
    )


def decades(found: Mapping[str, Any]) -> tuple[int, int]:
    """Powers of ten below and above all times, in µs."""
    times = [us for curve in found["curve"].values() for us in curve]
    times += [us for points in found["points"].values() for _, us in points]
    return math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))


def time_label(decade: int) -> str:
    """10^decade µs in words."""
    unit, rest = ("s", decade - 6) if decade >= 6 else ("ms", decade - 3) if decade >= 3 else ("µs", decade)
    return f"{10**rest if rest >= 0 else round(10.0**rest, -rest)} {unit}"


def _bar(row: str, spans: list[tuple[str, float]]) -> list[str]:
    """Rectangles side by side, and the letters of those that are wide enough in the enlarged one."""
    top, height = BARS[row]
    pieces, left = [], 0.0
    for name, width in spans:
        pieces.append(
            f'<rect class="{name}" x="{left:.2f}%" y="{top}" width="{width:.2f}%" height="{height}"/>'
        )
        if row == "enlarged" and width >= 5:
            pieces.append(
                f'<text class="letter" x="{left + width / 2:.2f}%" y="{top + height / 2 + 5:g}" '
                f'text-anchor="middle">{BRANCHES[name]}</text>'
            )
        left += width
    return pieces
