// What a token must read: bytes of one decoding step by branch, and the time that they take.
// Python (nsa_decode.py) gives sizes, the copy rate and what was measured; the rest is arithmetic done here, the
// same as `step_bytes` of minisys/nsa/costs.py and `predicted` of nsa_decode.py.

const NAMES = { compressed: "Compressed", selected: "Selected", window: "Window", append: "Append and φ" };
const LETTERS = { compressed: "C", selected: "S", window: "W", append: "A" };
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" }; // or JupyterLab would take the arrow keys

const number = new Intl.NumberFormat("en").format;
const count = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;
const digits = [0, 1, 2].map((n) => new Intl.NumberFormat("en", { minimumFractionDigits: n, maximumFractionDigits: n }));
const shown = (value) => digits[value >= 100 ? 0 : value >= 10 ? 1 : 2].format(value); // three digits or so
const short = (length) => (length >= 2 ** 20 ? `${length / 2 ** 20}M` : `${length / 2 ** 10}k`);
const times = (ratio) => `${ratio.toFixed(1)}×`;

// What a step moves, and how long that takes

/** Bytes of one step with t tokens a row, the new one included, as `step_bytes` counts them. */
function stepBytes(t, choice, { config, sizes }) {
  const { compress_block: l, compress_stride: stride, select_block: block } = config;
  const { d_qk, d_v, hq, element_bytes } = sizes;
  const { batch, window, top_n } = choice;
  const token = (d_qk + d_v) * (hq / choice.group) * element_bytes; // a key and a value of every head
  const blocks = Math.min(top_n, Math.ceil(t / block));
  const weights = (2 * d_qk * (l * d_qk + d_qk) + 2 * d_v * (l * d_v + d_v)) * element_bytes; // of φ
  const found = {
    compressed: batch * token * Math.max(0, Math.floor((t - l) / stride) + 1),
    selected: batch * token * ((blocks - 1) * block + ((t - 1) % block) + 1),
    window: batch * token * Math.min(window, t),
    append: batch * 3 * token,
    compression: (weights + batch * (l + 1) * token) / stride, // shared by the steps of a stride
  };
  const nsa = Object.values(found).reduce((sum, bytes) => sum + bytes, 0);
  return { ...found, nsa, dense: batch * (token * t + token) };
}

/** Everything the figure shows, from what the reader chose. */
function compute(state, choice) {
  const perUs = 1e6 * state.copy_tb_per_s;
  const stepUs = (bytes, name) => bytes[name] / perUs + state.launches[name] * choice.launch_us;
  const here = stepBytes(choice.length, choice, state);
  const everywhere = state.lengths.map((t) => stepBytes(t, choice, state));
  const both = (value) => ({ nsa: value("nsa"), dense: value("dense") });
  return {
    ...choice,
    bytes: here,
    us: Object.fromEntries(Object.entries(here).map(([name, bytes]) => [name, bytes / perUs])),
    step_us: both((name) => stepUs(here, name)),
    curve: both((name) => everywhere.map((bytes) => stepUs(bytes, name))),
    points: both((name) => pointsOf(state, choice, name)),
  };
}

/** What was measured with these settings: [t, µs] of each length. */
function pointsOf({ measured }, choice, name) {
  const needed = name === "dense" ? ["group"] : ["group", "window", "top_n"]; // dense attention has no others
  if (!measured || needed.some((field) => measured[field] !== choice[field])) return [];
  const found = measured.points.filter((point) => point.case === name && point.batch === choice.batch);
  return found.map(({ t, us }) => [t, us]);
}

/** Bytes by part of the bar: what is appended and what φ takes are one. */
const partsOf = (bytes) => ({ ...bytes, append: bytes.append + bytes.compression });

// Elements. Strings become text, never markup.

function fill(element, attributes, children = []) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const SVG = "http://www.w3.org/2000/svg";
const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Controls

function slider(name, range, textOf, onInput, spokenOf = textOf) {
  const input = h("input", { type: "range", ...range, ...OWN_KEYS });
  const output = h("output", { "aria-hidden": "true" }); // a screen reader hears the slider's own value
  input.addEventListener("input", () => onInput(input.valueAsNumber));
  const show = (value, at = value) => {
    input.value = at;
    output.value = textOf(value);
    input.setAttribute("aria-valuetext", spokenOf(value));
  };
  // The output comes after the input: a label names the first element in it that can have one.
  return { label: h("label", { class: "slider" }, h("span", {}, name), input, output), show };
}

/** A slider over a list of values: it moves from one to the next. */
function stepper(name, values, textOf, onInput, spokenOf) {
  const range = { min: 0, max: values.length - 1, step: 1 };
  const { label, show } = slider(name, range, textOf, (place) => onInput(values[place]), spokenOf);
  return { label, show: (value) => show(value, values.indexOf(value)) };
}

function makeControls(state, choice, update) {
  const to = (field) => (value) => {
    choice[field] = value;
    update();
  };
  const { config, sizes } = state;
  const groups = (g) => `${g}, which leaves ${count(sizes.hq / g, "key/value head")}`;
  const least = config.initial_blocks + config.local_blocks;
  const controls = {
    length: stepper("Length", state.lengths, (t) => count(t, "token"), to("length")),
    batch: stepper("Batch", state.batches, (n) => count(n, "row"), to("batch")),
    group: stepper("Group size g", state.groups, (g) => `${g}`, to("group"), groups),
    window: stepper("Window w", state.windows, (w) => count(w, "token"), to("window")),
    top_n: slider("Selected blocks n", { min: Math.max(1, least), max: state.max_top_n }, (n) => `${n}`, to("top_n")),
    launch_us: slider("Time of a launch", { min: 0, max: 10, step: 0.5 }, (us) => `${us.toFixed(1)} µs`, to("launch_us")),
  };
  const show = () => {
    for (const [field, control] of Object.entries(controls)) control.show(choice[field]);
  };
  const labels = Object.values(controls).map((control) => control.label);
  return { element: h("div", { class: "controls" }, ...labels), show };
}

// The picture. Places in pixels, the same as in nsa_decode.py; horizontal ones are per cent of the width.

const BARS = { dense: [20, 16], nsa: [60, 16], enlarged: [100, 22] };
const [PLOT, PLOT_HEIGHT, LEFT, RIGHT] = [164, 170, 13, 97];
const xOf = (t) => LEFT + ((RIGHT - LEFT) * (Math.log2(t) - 10)) / 10;

function makePicture(state) {
  const title = s("title");
  const svg = s("svg", { class: "decode", role: "img", width: "100%", height: PLOT + PLOT_HEIGHT + 26 }, title);
  const draw = (found) => {
    const { bytes } = found;
    const whole = Math.max(bytes.nsa, bytes.dense);
    const parts = (of) => Object.keys(NAMES).map((name) => [name, (100 * partsOf(bytes)[name]) / of]);
    const label = (row, text) => s("text", { y: BARS[row][0] - 6 }, text);
    svg.replaceChildren(
      title,
      label("dense", `Dense: ${shown(bytes.dense / 1e6)} MB a step`),
      ...bar("dense", [["dense", (100 * bytes.dense) / whole]]),
      label("nsa", `NSA: ${shown(bytes.nsa / 1e6)} MB a step`),
      ...bar("nsa", parts(whole)),
      label("enlarged", "NSA, enlarged"),
      ...bar("enlarged", parts(bytes.nsa)),
      ...plot(state, found),
    );
    title.textContent =
      `A step at ${count(found.length, "token")} and batch ${found.batch}: NSA moves ${shown(bytes.nsa / 1e6)} MB, ` +
      `dense attention ${shown(bytes.dense / 1e6)} MB.`;
  };
  return { svg, draw };
}

/** Rectangles side by side, and the letters of those that are wide enough in the enlarged one. */
function bar(row, spans) {
  const [y, height] = BARS[row];
  let left = 0;
  return spans.flatMap(([name, width]) => {
    const at = left;
    left += width;
    const rect = s("rect", { class: name, x: `${at.toFixed(2)}%`, y, width: `${width.toFixed(2)}%`, height });
    if (row !== "enlarged" || width < 5) return [rect];
    const middle = { x: `${(at + width / 2).toFixed(2)}%`, y: y + height / 2 + 5 };
    return [rect, s("text", { class: "letter", ...middle, "text-anchor": "middle" }, LETTERS[name])];
  });
}

/** Time by length, both logarithmic: lines for what is predicted, points for what was measured. */
function plot({ lengths }, { batch, curve, length, points }) {
  const all = [...Object.values(curve).flat(), ...Object.values(points).flat().map(([, us]) => us)];
  const low = Math.floor(Math.log10(Math.min(...all)));
  const high = Math.ceil(Math.log10(Math.max(...all)));
  const yOf = (us) => PLOT + PLOT_HEIGHT * (1 - (Math.log10(us) - low) / (high - low));
  const grid = Array.from({ length: high - low + 1 }, (_, i) => {
    const y = yOf(10 ** (low + i));
    const line = s("line", { class: "grid", x1: `${LEFT}%`, x2: `${RIGHT}%`, y1: y.toFixed(2), y2: y.toFixed(2) });
    return [line, s("text", { class: "muted", x: 0, y: (y + 4).toFixed(2) }, timeLabel(low + i))];
  });
  const axis = lengths
    .filter((_, i) => i % 2 === 0)
    .map((t) => {
      const at = { x: `${xOf(t).toFixed(2)}%`, y: PLOT + PLOT_HEIGHT + 18, "text-anchor": "middle" };
      return s("text", { class: "muted", ...at }, short(t));
    });
  const at = `${xOf(length).toFixed(2)}%`;
  const here = s("line", { class: "here", x1: at, x2: at, y1: PLOT, y2: PLOT + PLOT_HEIGHT });
  const area = { x: `${LEFT}%`, y: PLOT, width: `${RIGHT - LEFT}%`, height: PLOT_HEIGHT, viewBox: "0 0 100 100" };
  const curves = Object.entries(curve).map(([name, us]) => {
    const places = us.map((each, i) => `${10 * i} ${((100 * (yOf(each) - PLOT)) / PLOT_HEIGHT).toFixed(2)}`);
    const path = s("path", { class: `line ${name}`, d: `M${places.join("L")}` });
    return s("svg", { ...area, preserveAspectRatio: "none", "aria-hidden": "true" }, path);
  });
  const marks = Object.entries(points).flatMap(([name, each]) =>
    each.map(([t, us]) =>
      s("circle", { class: `point ${name}`, cx: `${xOf(t).toFixed(2)}%`, cy: yOf(us).toFixed(2), r: 4.5 }),
    ),
  );
  const heading = s("text", { y: PLOT - 12 }, `Time of a step by length, at batch ${batch}`);
  return [heading, ...grid.flat(), ...axis, here, ...curves, ...marks];
}

/** 10^decade µs in words. */
function timeLabel(decade) {
  const [unit, rest] = decade >= 6 ? ["s", decade - 6] : decade >= 3 ? ["ms", decade - 3] : ["µs", decade];
  return `${rest >= 0 ? 10 ** rest : (10 ** rest).toFixed(-rest)} ${unit}`;
}

function makeLegend(state) {
  const mark = (...shapes) => s("svg", { class: "decode", viewBox: "0 0 36 16", "aria-hidden": "true" }, ...shapes);
  const line = (name) => mark(s("path", { class: `line ${name}`, d: "M0 8H36" }));
  const point = (name) => mark(s("circle", { class: `point ${name}`, cx: 18, cy: 8, r: 6 }));
  const entries = [[line("nsa"), "NSA, predicted"], [line("dense"), "dense, predicted"]];
  if (state.measured) entries.push([point("nsa"), "NSA, measured"], [point("dense"), "dense, measured"]);
  return h("p", { class: "decode-legend" }, ...entries.map(([sign, text]) => h("span", {}, sign, text)));
}

// The numbers

function makeNumbers(state) {
  const { hq, element_bytes: size } = state.sizes;
  const rows = { ...NAMES, launches: "Launches", nsa: "NSA in all", dense: "Dense in all", quotient: "Dense ÷ NSA" };
  const cells = Object.fromEntries(Object.keys(rows).map((row) => [row, [h("td"), h("td"), h("td")]]));
  const body = Object.entries(rows).map(([row, name]) => {
    const key = row in LETTERS ? [h("span", { class: "key", "aria-hidden": "true" }, LETTERS[row])] : [];
    return h("tr", { class: row }, h("th", { scope: "row" }, ...key, name), ...cells[row]);
  });
  const head = ["One step", "MB", "of NSA", "µs"].map((text) => h("th", { scope: "col" }, text));
  const caption = h("caption");
  const parts = [caption, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body)];
  const summary = h("output", { class: "decode-summary" });
  const measured = h("p", { class: "decode-note" });
  const set = (row, ...texts) => texts.forEach((text, i) => (cells[row][i].textContent = text));

  const draw = (found) => {
    const { bytes, us, step_us } = found;
    const [moved, took] = [partsOf(bytes), partsOf(us)];
    const percent = (part) => `${((100 * part) / bytes.nsa).toFixed(1)} %`;
    const heads = `${count(hq, "query head")} and ${count(hq / found.group, "key/value head")}`;
    caption.textContent = `One layer with ${heads}, ${size} bytes a number; µs at the rate of a copy.`;
    for (const row of Object.keys(NAMES)) set(row, shown(moved[row] / 1e6), percent(moved[row]), shown(took[row]));
    set("launches", "", "", shown(state.launches.nsa * found.launch_us));
    for (const row of ["nsa", "dense"]) set(row, shown(bytes[row] / 1e6), row === "nsa" ? "100 %" : "", shown(step_us[row]));
    const [fewer, faster] = [bytes.dense / bytes.nsa, step_us.dense / step_us.nsa];
    set("quotient", times(fewer), "", times(faster));
    summary.value =
      `At ${count(found.length, "token")} and batch ${found.batch} dense attention moves ${fewer.toFixed(1)} times the bytes of ` +
      `NSA, and is predicted to take ${faster.toFixed(1)} times as long.`;
    measured.textContent = measuredHere(state, found);
  };
  return { elements: [summary, measured, h("table", { class: "decode-table" }, ...parts)], draw };
}

/** What was measured at the chosen length, in words, or why there is nothing. */
function measuredHere({ measured }, { length, points }) {
  if (!measured) return "Nothing is drawn as measured: there is no result file.";
  const at = Object.fromEntries(Object.entries(points).map(([name, each]) => [name, each.find(([t]) => t === length)?.[1]]));
  const known = [...new Set(measured.points.map((point) => point.batch))].sort((a, b) => a - b).join(", ");
  if (!points.nsa.length)
    return (
      `NSA was not measured with these settings: points are there for g = ${measured.group}, w = ${measured.window}, ` +
      `n = ${measured.top_n} and batch ${known}.`
    );
  if (!at.nsa || !at.dense) return "This length was not measured at this batch.";
  return `Measured here: NSA ${shown(at.nsa)} µs, dense ${shown(at.dense)} µs, ${(at.dense / at.nsa).toFixed(1)} times as long.`;
}

const honestNote = ({ copy_tb_per_s, copy_measured, launches, measured, config }) =>
  `Predicted is what a plain copy of as many bytes takes, at ${copy_tb_per_s.toFixed(2)} TB/s, ` +
  `${copy_measured ? "as measured on the same GPU" : "about the rate of an H100"}, and ${launches.nsa} launches a step for NSA, ` +
  `${launches.dense} for dense attention. A small cache may be read from the L2 cache, which is faster. ` +
  `φ reads its weights and a block of ${config.compress_block} tokens once in ${config.compress_stride} steps; a step's share is ` +
  "counted. Projections are not. Whether a cache fits into a GPU is another question." +
  (measured ? ` Measured on ${measured.where}.` : "");

function render({ model, el }) {
  const state = model.get("state");
  const figure = el.closest("figure.explorable"); // none in a live Jupyter, where `el` is all there is
  const choice = { ...state.start };
  const controls = makeControls(state, choice, () => update());
  const picture = makePicture(state);
  const numbers = makeNumbers(state);

  function update() {
    const found = compute(state, choice);
    controls.show();
    picture.draw(found);
    numbers.draw(found);
    (figure ?? el).dataset.computed = JSON.stringify(found);
    model.set("computed", found);
    model.save_changes();
  }

  const note = h("p", { class: "decode-note" }, honestNote(state));
  el.replaceChildren(controls.element, picture.svg, makeLegend(state), ...numbers.elements, note);
  if (!figure) {
    const title = h("strong", {}, `${model.get("title")}.`);
    el.prepend(h("p", { class: "explorable-caption" }, title, ` ${model.get("description")}`));
  }
  update();
}

export default { render };
