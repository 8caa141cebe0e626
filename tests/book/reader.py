"""What a page owes every reader, whatever their screen, eyes or hands. Each check gives a list of problems.

The checks look at the page that a tab shows. Most are a few lines of JavaScript, as the browser alone knows
where things stand and what they look like; the rest is axe-core, which comes with its Python package.
"""

import contextlib

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

A4 = 718
"""Pixels across a printed page: 210 mm less two margins of 1 cm, at 96 an inch."""

# --- wide things ------------------------------------------------------------------------------------------

# What stands beyond the edge of the page and cannot be scrolled to in a box of its own. Where the page hides
# what is too wide instead of scrolling, the width of the page says nothing, so each element is looked at.
TOO_WIDE = """() => {
    const width = document.documentElement.clientWidth;
    const shows = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
        || e.matches("img, svg, canvas, table, input, select, textarea, button, hr");
    const reachable = (e) => {
        for (let box = e.parentElement; box && box !== document.body; box = box.parentElement)
            if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return true;
        return false;
    };
    const out = [...document.body.querySelectorAll("*")].filter((e) => {
        if (e.ownerSVGElement || !shows(e)) return false;
        const box = e.getBoundingClientRect();
        return box.width && box.height && (box.right > width + 1 || box.left < -1)
            && e.checkVisibility({visibilityProperty: true}) && !reachable(e);
    });
    const found = out.slice(0, 3).map((e) => "too wide: " + e.outerHTML.slice(0, 100));
    const page = document.documentElement.scrollWidth;
    return page > width ? [`the page is ${page} pixels wide in a window of ${width}`, ...found] : found;
}"""

# A box that scrolls must take the focus, or hold something that does, or the keyboard cannot scroll it.
DEAD_SCROLLERS = """() => {
    const canFocus = "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex^='-'])";
    return [...document.body.querySelectorAll("*")].filter((e) => {
        const style = getComputedStyle(e), scrolls = /auto|scroll/;
        return (scrolls.test(style.overflowX) && e.scrollWidth > e.clientWidth + 1
                || scrolls.test(style.overflowY) && e.scrollHeight > e.clientHeight + 1)
            && e.checkVisibility({visibilityProperty: true})
            && !e.matches(canFocus) && !e.querySelector(canFocus);
    }).map((e) => "the keyboard cannot scroll: " + e.cloneNode().outerHTML.slice(0, 100));
}"""

# --- words ------------------------------------------------------------------------------------------------

# A text that stands for a picture: not missing, not empty in the article, not the file's name, which is
# what the tools put in where the author wrote nothing.
WITHOUT_WORDS = """() => {
    const hidden = "[aria-hidden=true], [role=presentation], [role=none]";
    const named = (e) => e.getAttribute("aria-label")?.trim()
        || (e.getAttribute("aria-labelledby") ?? "").split(" ").some((id) => document.getElementById(id))
        || e.querySelector(":scope > title")?.textContent.trim();
    const within = (e) => named(e) || e.parentElement && within(e.parentElement);
    const problem = (e) => {
        if (e.closest(hidden)) return null;
        if (e.matches("svg, canvas")) return within(e) ? null : "no label";
        const text = e.getAttribute("alt"), file = (e.getAttribute("src") ?? "").split("/").pop();
        if (text === null) return "no alt text";
        if (!text.trim()) return e.closest("main, article, figure") ? "empty alt text" : null;
        return text.trim().split("/").pop() === file ? "the alt text is the name of the file" : null;
    };
    return [...document.querySelectorAll("img, svg:not(svg svg), canvas")]
        .map((e) => [problem(e), e]).filter(([what]) => what)
        .map(([what, e]) => `${what}: ${e.outerHTML.slice(0, 100)}`);
}"""

# One heading of the first level, and none that skips a level on the way down.
HEADINGS = """() => {
    const all = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter((e) => e.checkVisibility());
    const level = (e) => Number(e.localName[1]), name = (e) => `${e.localName} "${e.textContent.trim()}"`;
    const first = all.filter((e) => level(e) === 1).length;
    return [
        ...(first === 1 ? [] : [`${first} headings of the first level`]),
        ...all.filter((e, i) => level(e) > (i ? level(all[i - 1]) : 0) + 1)
            .map((e) => `heading skips a level: ${name(e)}`),
    ];
}"""

# --- colours ----------------------------------------------------------------------------------------------

# Brightness of a colour from 0 to 1, as WCAG 2 defines it, and the colour that stands behind an element.
COLOURS = """
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const parts = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = "transparent";
        canvas.fillStyle = colour; // "none" changes nothing
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
    };
    const brightness = (colour) => parts(colour).slice(0, 3)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const isSolid = (colour) => parts(colour)[3] > 0.95;
    const ground = (e) => {
        if (!e) return "white";
        const own = getComputedStyle(e).backgroundColor;
        return isSolid(own) ? own : ground(e.parentElement);
    };
"""
BRIGHTNESS = "() => { COLOURS return brightness(ground(document.body)); }".replace("COLOURS", COLOURS)

# Text in drawings, which axe leaves out: against the last box drawn under it, or what is behind the drawing.
DIM_DRAWINGS = """() => { COLOURS
    const contrast = (text) => {
        const box = text.getBoundingClientRect(), [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
        const drawing = text.closest("svg:not(svg svg)");
        const under = [...drawing.querySelectorAll("rect, circle, ellipse")].filter((e) => {
            const at = e.getBoundingClientRect();
            return e.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING
                && at.left <= x && x <= at.right && at.top <= y && y <= at.bottom
                && isSolid(getComputedStyle(e).fill);
        }).pop();
        const pair = [getComputedStyle(text).fill, under ? getComputedStyle(under).fill : ground(drawing)];
        const [dark, bright] = pair.map(brightness).sort((one, other) => one - other);
        return (bright + 0.05) / (dark + 0.05);
    };
    return [...document.querySelectorAll("svg text, svg tspan")]
        .filter((e) => e.textContent.trim() && e.checkVisibility({visibilityProperty: true}))
        .map((e) => [contrast(e), e]).filter(([found]) => found < 4.5)
        .map(([found, e]) => `text in a drawing has a contrast of ${found.toFixed(1)}: ${e.outerHTML}`);
}""".replace("COLOURS", COLOURS)

# Contrast is most of axe's time, and a page is thousands of words in a few colours. Of the words that look
# alike (colour, size, weight, and every background behind them) one stays visible for axe to look at: one
# that axe does not excuse, as it does punctuation, what is off or beside the page, and labels of both.
HIDE_REPEATED = """() => {
    const grounds = new Map([[null, ""]]);
    const ground = (e) => {
        if (!grounds.has(e)) {
            const style = getComputedStyle(e);
            const own = [style.backgroundColor, style.backgroundImage, style.opacity].join();
            const behind = ground(e.parentElement);
            grounds.set(e, own === "rgba(0, 0, 0, 0),none,1" ? behind : behind + own + ";");
        }
        return grounds.get(e);
    };
    const seen = new Set(), again = [];
    for (const e of document.body.querySelectorAll("*")) {
        const box = e.getBoundingClientRect();
        if (e.childElementCount || !/[\\p{L}\\p{N}]/u.test(e.textContent) || e.ownerSVGElement
            || e.closest("label, option, :disabled, [aria-disabled]")
            || box.width < 2 || box.height < 2 || box.right < 0 || box.left > innerWidth || box.bottom < 0
            || !e.checkVisibility({visibilityProperty: true})) continue;
        const style = getComputedStyle(e);
        const look = [style.color, style.fontSize, style.fontWeight, ground(e)].join();
        if (seen.has(look)) again.push(e);
        seen.add(look);
    }
    for (const e of again) e.style.visibility = "hidden";
}"""
SHORT_WORDS = {"ignoreLength": True, "ignoreUnicode": True}  # or axe passes over "x" and "→"


def axe(page: Page, colours_only: bool = False) -> list[str]:
    """What axe-core finds, of whatever weight. Afterwards the page has holes: see `HIDE_REPEATED`.

    colours_only: leave out the rules whose answer is the same in light and in dark.
    """

    def run(options: dict[str, object]) -> list[dict]:
        # Without "preload", which would fetch the style sheets anew, for no rule that is on.
        common = {"resultTypes": ["violations"], "preload": False}
        return page.evaluate("(options) => axe.run(options)", common | options)["violations"]

    page.evaluate(AXE_SCRIPT)
    if colours_only:
        found = run({"runOnly": ["link-in-text-block"]})
    else:
        found = run({"rules": {"color-contrast": {"enabled": False}}})
    page.evaluate(HIDE_REPEATED)
    found += run({"runOnly": ["color-contrast"], "checks": {"color-contrast": {"options": SHORT_WORDS}}})
    return [
        f"axe {rule['id']} ({rule['impact']}): {node['html'][:150]}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"][:3]
    ]


# --- all of it --------------------------------------------------------------------------------------------


def examine(page: Page, theme: str, patience: int = 5000) -> list[str]:
    """Everything that a page, which has settled, gets wrong for its reader.

    theme: what the reader's system asks for. In the dark only the colours are looked at anew.
    patience: milliseconds in which the theme has to make what scrolls focusable; it does so a moment after
        the page has changed.
    """
    problems = []
    if (page.evaluate(BRIGHTNESS) < 0.5) != (theme == "dark"):
        problems.append(f"the page is not {theme}")
    problems += page.evaluate(TOO_WIDE) + page.evaluate(DIM_DRAWINGS)
    with contextlib.suppress(PlaywrightTimeout):
        page.wait_for_function(f"() => !({DEAD_SCROLLERS})().length", timeout=patience)
    problems += page.evaluate(DEAD_SCROLLERS)
    if theme == "light":
        problems += page.evaluate(WITHOUT_WORDS) + page.evaluate(HEADINGS)
    return problems + axe(page, colours_only=theme == "dark")


# --- paper ------------------------------------------------------------------------------------------------

# Maths that a printed page leaves out, cuts off or prints in light ink, and code that it cuts off.
UNPRINTED = """() => { COLOURS
    const width = document.documentElement.clientWidth;
    const problem = (e) => {
        const maths = e.querySelector("mjx-math") ?? e.querySelector("mjx-container");
        const box = maths?.getBoundingClientRect();
        if (!box?.width || !box.height || !maths.checkVisibility({visibilityProperty: true}))
            return "not printed";
        for (let around = e; around && around !== document.body; around = around.parentElement)
            if (getComputedStyle(around).overflowX !== "visible"
                && box.right > around.getBoundingClientRect().right + 1) return "cut off";
        if (box.right > width + 1) return "cut off";
        return brightness(getComputedStyle(maths).color) > 0.2 ? "printed in light ink" : null;
    };
    return [
        ...[...document.querySelectorAll(".math")].map((e) => [problem(e), e]).filter(([what]) => what)
            .map(([what, e]) => `maths ${what}: ${e.textContent.slice(0, 60)}`),
        ...[...document.querySelectorAll("pre")].filter((e) => e.scrollWidth > e.clientWidth + 1)
            .map((e) => `code cut off: ${e.textContent.slice(0, 60)}`),
    ];
}""".replace("COLOURS", COLOURS)


def on_paper(page: Page) -> list[str]:
    """The maths and code of a page as it would be printed on A4, whatever the screen showed."""
    page.set_viewport_size({"width": A4, "height": 1000})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    return page.evaluate(UNPRINTED)


# --- search -----------------------------------------------------------------------------------------------


def search(page: Page, words: str, target: str, patience: int = 10_000) -> list[str]:
    """Search from the keyboard (Ctrl+K); the results have to name a page and lead to it."""
    page.keyboard.press("Control+k")
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    result = page.locator(f"#search-results a[href*='{target}']").first
    try:
        result.wait_for(timeout=patience)
    except PlaywrightTimeout:
        return [f"the search for {words!r} does not find {target}"]
    result.press("Enter")
    page.wait_for_url(f"**/{target}*", wait_until="commit", timeout=patience)
    return []
