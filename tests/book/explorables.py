"""What every explorable of the book must do, whatever it shows. Each check gives a list of problems.

An explorable is an element with ``data-explorable``. Before scripts run it holds a drawing that stands in;
then its script draws, and puts what it computed into ``data-computed`` as JSON.
"""

import json

from playwright.sync_api import Locator, Page

FRAME = 200  # milliseconds; a drawing may follow its control on the next frame

# A drawing needs a name of its own, unless the explorable around it has one; a control always does.
UNLABELLED = """(root) => {
    const named = (e) => e.getAttribute("aria-label")?.trim()
        || (e.getAttribute("aria-labelledby") ?? "").split(" ").some((id) => document.getElementById(id));
    const drawings = named(root) ? [] : [...root.querySelectorAll("svg")].filter(
        (e) => !e.closest("[aria-hidden=true]") && !named(e) && !e.querySelector(":scope > title"));
    const controls = [...root.querySelectorAll("input, select, textarea, button")].filter(
        (e) => !named(e) && !e.labels?.length && !(e.matches("button") && e.textContent.trim()));
    return [...drawings, ...controls].map((e) => "no label: " + e.outerHTML.slice(0, 100));
}"""
DRAWING = """(root) => [...root.querySelectorAll("svg")].map(
    (e) => new XMLSerializer().serializeToString(e)).join("\\n")"""


def without_scripts(page: Page) -> list[str]:
    """The page, opened with JavaScript off, shows a labelled drawing for each explorable."""
    problems = []
    for explorable in page.locator("[data-explorable]").all():
        drawing = explorable.locator("svg").first
        box = drawing.bounding_box() if drawing.count() else None
        if box is None or box["width"] < 100 or box["height"] < 50:
            problems.append(f"no drawing before scripts run, {box}")
        problems += explorable.evaluate(UNLABELLED)
    return problems


def by_keyboard(page: Page) -> list[str]:
    """Each explorable's first slider moves by arrow keys; the drawing and the computed numbers follow it."""
    problems = []
    for explorable in page.locator("[data-explorable]").all():
        problems += explorable.evaluate(UNLABELLED)
        slider = explorable.locator("input[type=range]").first
        if not slider.count():
            problems.append("no slider")
            continue
        slider.focus()
        if not slider.evaluate("(e) => document.activeElement === e"):
            problems.append("the slider takes no keyboard focus")
        value, drawing, computed = slider.input_value(), explorable.evaluate(DRAWING), numbers(explorable)
        at_the_end = slider.evaluate("(e) => Number(e.value) >= Number(e.max)")
        for _ in range(4):
            page.keyboard.press("ArrowLeft" if at_the_end else "ArrowRight")
        page.wait_for_timeout(FRAME)
        if slider.input_value() == value:
            problems.append("arrow keys do not move the slider")
        if explorable.evaluate(DRAWING) == drawing:
            problems.append("the drawing does not follow the slider")
        if numbers(explorable) == computed:
            problems.append("data-computed does not follow the slider")
    return problems


def numbers(explorable: Locator) -> object:
    """What an explorable computed, as it says itself."""
    return json.loads(explorable.get_attribute("data-computed") or "null")
