"""What every explorable of the book must do, whatever it shows. Each check gives a list of problems.

An explorable is an element with ``data-explorable``. Before scripts run it holds a drawing that stands in;
then its script draws, and puts what it computed into ``data-computed`` as JSON.
"""

import json
from collections.abc import Callable

from playwright.sync_api import ElementHandle, Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

MOST_TABS = 100  # presses of Tab after which an explorable is a trap

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
# All that shows what was computed, without the controls.
DRAWING = """(root) => [...root.querySelectorAll("svg, table, canvas")].map(
    (e) => e.localName === "canvas" ? e.toDataURL() : new XMLSerializer().serializeToString(e)).join("\\n")"""
CONTROLS = "input, select, textarea, button"
# What marks the control that holds the keyboard.
RING = """(e) => {
    const style = getComputedStyle(e);
    const outline = style.outlineStyle !== "none" && parseFloat(style.outlineWidth);
    return [outline && style.outline, style.boxShadow, style.borderColor, style.backgroundColor].join();
}"""
# Which control holds the keyboard: its number, -1 for something else in the explorable, null outside of it.
FOCUSED = """(root, controls) => root.contains(document.activeElement)
    ? controls.indexOf(document.activeElement) : null"""
# Tab goes on from the beginning of the explorable, as if the reader had come there.
START = "(root) => { root.tabIndex = -1; root.focus(); }"
NAME = """(e) => e.getAttribute("aria-label") || (e.labels?.[0] ?? e).textContent.trim()
    || e.outerHTML.slice(0, 60)"""
# A key that moves the control; none where there is only one thing to choose.
KEY = """(e) => {
    if (e.localName === "select") {
        const after = [...e.options].slice(e.selectedIndex + 1).some((o) => !o.disabled);
        return [...e.options].filter((o) => !o.disabled).length < 2 ? null : after ? "ArrowDown" : "ArrowUp";
    }
    if (e.type === "range" || e.type === "number")
        return Number(e.value) >= Number(e.max || Infinity) ? "ArrowDown" : "ArrowUp";
    return {button: "Enter", submit: "Enter", checkbox: "Space", radio: "ArrowDown"}[e.type]
        ?? (e.value === "1" ? "2" : "1");
}"""
# A button may be off once it has done its work, and a radio button hands the keyboard to the next.
PASSES_ON = "(e) => e.disabled || e.type === 'radio'"
# Of several radio buttons Tab reaches the chosen one.
TAB_STOP = "(e) => !e.disabled && e.checkVisibility() && (e.type !== 'radio' || e.defaultChecked)"


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


def by_keyboard(page: Page, patience: int = 2000) -> list[str]:
    """Walk through each explorable with Tab, move each control by a key, and see what follows it.

    patience: milliseconds in which the explorable has to answer a key; a drawing may come a frame later.
    """
    problems = []
    for explorable in page.locator("[data-explorable]").all():
        problems += explorable.evaluate(UNLABELLED)
        problems += _walk(explorable, patience)
    return problems


def _walk(explorable: Locator, patience: int) -> list[str]:
    controls = explorable.locator(CONTROLS).element_handles()
    if not controls:
        return ["no control"]
    problems: list[str] = []
    rings = [control.evaluate(RING) for control in controls]
    reached: set[int] = set()
    explorable.evaluate(START)
    for _ in range(MOST_TABS):
        explorable.page.keyboard.press("Tab")
        number = explorable.evaluate(FOCUSED, controls)
        if number is None:
            break
        if number < 0 or number in reached:
            continue
        reached.add(number)
        problems += _move(explorable, controls[number], rings[number], patience)
        if explorable.evaluate(FOCUSED, controls) != number and not controls[number].evaluate(PASSES_ON):
            problems.append(f"{controls[number].evaluate(NAME)}: loses the keyboard when it moves")
            break
    else:
        problems.append("Tab does not leave the explorable")
    missed = [control for number, control in enumerate(controls) if number not in reached]
    problems += [f"{e.evaluate(NAME)}: Tab does not reach it" for e in missed if e.evaluate(TAB_STOP)]
    return problems


def _move(explorable: Locator, control: ElementHandle, ring: str, patience: int) -> list[str]:
    """Press a key on the control that holds the keyboard; `ring` is what it looked like without."""
    name, key = control.evaluate(NAME), control.evaluate(KEY)
    problems = [] if control.evaluate(RING) != ring else [f"{name}: does not show that it holds the keyboard"]
    if key is None:
        return problems
    follow = {"the drawing": DRAWING, "data-computed": "(root) => root.dataset.computed"}
    before = {what: explorable.evaluate(value) for what, value in follow.items()}
    explorable.page.keyboard.press(key)
    for what, value in follow.items():
        changed = f"([root, before]) => ({value})(root) !== before"
        try:
            explorable.page.wait_for_function(
                changed, arg=[explorable.element_handle(), before[what]], timeout=patience
            )
        except PlaywrightTimeout:
            problems.append(f"{name}: {what} does not follow {key}")
    return problems


# --- one figure, for the tests that compare it with Python ------------------------------------------------


def computed(figure: Locator) -> dict:
    """What the figure says it shows."""
    return json.loads(figure.get_attribute("data-computed"))


def stored_state(figure: Locator) -> dict:
    """The data that Python put into the page."""
    return json.loads(figure.locator("script[data-part=model]").text_content())["state"]


def operate(figure: Locator, label: str, action: list[str] | str) -> None:
    """Use the control of that label: choose an entry of a menu, or press keys one after the other."""
    control = figure.get_by_label(label)
    if isinstance(action, str):
        control.select_option(action)
        return
    control.focus()
    for key in action:
        figure.page.keyboard.press(key)


def drive(
    figure: Locator,
    state: dict,
    steps: list[tuple],
    compare: Callable[[Locator, dict], None],
    picture: Callable[[str], str],
    act: Callable = operate,
    stays: Callable[[Locator, str], bool] = lambda figure, label: False,
) -> None:
    """Go through `steps`, each a label and an action: a drawing follows each, and every state is compared.

    compare: holds the figure against `state`.
    picture: selector of the drawing that the control of a label moves.
    act: uses a control, as `operate` does.
    stays: whether the drawing may be the same after that control was moved.
    """
    compare(figure, state)
    for label, action in steps:
        drawn = figure.locator(picture(label))
        before, drawing = figure.get_attribute("data-computed"), drawn.inner_html()
        act(figure, label, action)
        expect(figure).not_to_have_attribute("data-computed", before)  # a slider may move in the next frame
        assert drawn.inner_html() != drawing or stays(figure, label), (label, action)
        compare(figure, state)
