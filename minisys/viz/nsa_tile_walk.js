// The tile walk of the selected kernel: one program, a few neighbouring tokens, and the blocks it loads for them.
// Python (nsa_tile_walk.py) ran the selections and summed whole texts; merging a tile's list and counting along
// it is done here, the same as in merged_list and walk_counts there.

const NONE = 255; // stands for no block
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" }; // or JupyterLab would take the arrow keys

const number = new Intl.NumberFormat("en").format;
const count = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;
const kib = (bytes) => number(Math.round(bytes / 1024));
const share = ({ rows_useful, rows_computed }) =>
  rows_computed ? `${((100 * rows_useful) / rows_computed).toFixed(0)} %` : "–";
const binary = (bits, tokens) => bits.toString(2).padStart(tokens, "0");
const power = (n) => `2${[...`${n}`].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
const placesOf = (bits) => [...Array(31).keys()].filter((place) => (bits >> place) & 1);

// The walk

/** Codes of the tile, block·2^tokens + bits, rising; and how many end at or before its first token. */
function mergedList(table, { position, tokens }, { n, select_block: size }) {
  const wanted = new Map();
  for (let place = 0; place < tokens; place++) {
    for (const block of table.subarray((position + place) * n, (position + place + 1) * n)) {
      if (block !== NONE) wanted.set(block, (wanted.get(block) ?? 0) | (1 << place));
    }
  }
  const blocks = [...wanted.keys()].sort((a, b) => a - b);
  const past = blocks.filter((block) => (block + 1) * size <= position + 1).length;
  return { codes: blocks.map((block) => block * 2 ** tokens + wanted.get(block)), past };
}

/** Rows of the product of a tile: its tokens' heads, filled up to whole matrix instructions. */
const tileRows = (tokens, { group_heads, product_rows }) =>
  Math.ceil((tokens * group_heads) / product_rows) * product_rows;

/** What a program has done after the steps `codes` of its walk. */
function walkCounts(codes, tokens, sizes) {
  const asked = codes.reduce((sum, code) => sum + placesOf(code % 2 ** tokens).length, 0);
  const loaded = codes.length;
  const blockBytes = sizes.select_block * (sizes.d_qk + sizes.d_v) * sizes.element_bytes;
  return {
    asked,
    loaded,
    bytes_loaded: loaded * blockBytes,
    bytes_saved: (asked - loaded) * blockBytes,
    rows_computed: loaded * tileRows(tokens, sizes),
    rows_useful: asked * sizes.group_heads,
  };
}

/** Everything the figure shows, from what the reader chose. */
function compute(tables, { sizes }, choice) {
  const { codes, past } = mergedList(tables[choice.set], choice, sizes);
  const step = Math.min(choice.step, codes.length);
  const so_far = walkCounts(codes.slice(0, step), choice.tokens, sizes);
  return { ...choice, step, codes, past, so_far, whole: walkCounts(codes, choice.tokens, sizes) };
}

// Elements. Strings become text, never markup.

function fill(element, attributes, children = []) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const SVG = "http://www.w3.org/2000/svg";
const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** One character for a byte: what has no shape of its own gets one. */
const visible = (text) => text.replace(/[^ -~]/g, (c) => ({ "\n": "↵", "\t": "⇥" })[c] ?? "·");

// Controls

function slider(name, onInput) {
  const input = h("input", { type: "range", ...OWN_KEYS });
  const output = h("output", { "aria-hidden": "true" }); // a screen reader hears the slider's own value
  input.addEventListener("input", () => onInput(input.valueAsNumber));
  const show = (range, text, spoken = text) => {
    Object.assign(input, range); // the value comes last: it has to lie in the range
    output.value = text;
    input.setAttribute("aria-valuetext", spoken);
  };
  // The output comes after the input: a label names the first element in it that can have one.
  return { label: h("label", { class: "slider" }, h("span", {}, name), input, output), show };
}

function menu(name, entries, onInput) {
  const options = entries.map(([value, text]) => h("option", { value }, text));
  const select = h("select", OWN_KEYS, ...options);
  select.addEventListener("input", () => onInput(Number(select.value)));
  return { label: h("label", {}, h("span", {}, name), select), show: (value) => (select.value = value) };
}

function makeControls(state, choice, update) {
  const change = (field) => (value) => {
    choice[field] = value;
    choice.position -= choice.position % choice.tokens; // tiles begin at multiples of their tokens
    update();
  };
  const set = menu("Selection of", state.sets.map(({ name }, i) => [i, name]), change("set"));
  const tokens = menu("Tokens of a tile", state.tokens.map((n) => [n, count(n, "token")]), change("tokens"));
  const position = slider("Tile at token", change("position"));
  const step = slider("Step of the walk", change("step"));
  const show = (shown) => {
    const last = shown.position + shown.tokens - 1;
    const at = number(shown.position);
    const most = state.text.length - shown.tokens;
    set.show(shown.set);
    tokens.show(shown.tokens);
    position.show({ min: 0, max: most, step: shown.tokens, value: shown.position }, at, `${at} to ${number(last)}`);
    step.show({ min: 0, max: shown.codes.length, value: shown.step }, `${shown.step} of ${shown.codes.length}`);
  };
  const labels = [set, tokens, position, step].map((control) => control.label);
  return { element: h("div", { class: "controls" }, ...labels), show };
}

// The picture. The grid's height is the rows of the product, its full width the blocks that the tile's tokens
// ask for when each has n: width is bytes a token, and area is work a token, at any number of tokens a tile.
// Places in pixels, the same as in nsa_tile_walk.py; the grid begins at LEFT per cent.

const [STRIP, STRIP_HEIGHT, GRID, GRID_HEIGHT, LEFT] = [24, 14, 74, 192, 19];
const cell = (column, row, height = 1) => `M${column} ${row}h1v${height}h-1z`;

function makePicture(state) {
  const { sizes } = state;
  const scale = GRID_HEIGHT / tileRows(Math.max(...state.tokens), sizes); // pixels a row
  const band = scale * sizes.group_heads;
  const blockKib = kib(sizes.select_block * (sizes.d_qk + sizes.d_v) * sizes.element_bytes);
  const title = s("title");
  const frame = (left, y, names) => {
    const paths = Object.fromEntries(names.map((kind) => [kind, s("path", { class: kind })]));
    const ground = s("rect", { class: "ground" });
    const current = s("rect", { class: "current", width: 1 });
    const at = { x: `${left}%`, y, width: `${100 - left}%`, preserveAspectRatio: "none", "aria-hidden": "true" };
    return { svg: s("svg", at, ground, ...Object.values(paths), current), paths, ground, current };
  };
  const strip = frame(0, STRIP, ["asked", "later"]);
  fill(strip.svg, { height: STRIP_HEIGHT, viewBox: `0 0 ${state.blocks} 1` });
  fill(strip.ground, { width: state.blocks, height: 1 });
  const grid = frame(LEFT, GRID, ["asked", "later", "masked", "empty"]);
  const forced = s("path", { class: "forced" });
  const underline = s("svg", { x: `${LEFT}%`, width: `${100 - LEFT}%`, height: 6, preserveAspectRatio: "none", "aria-hidden": "true" }, forced);
  const bars = Object.fromEntries(
    ["loaded", "asked"].map((kind) => [kind, [s("text", { x: 0 }), s("rect", { class: kind, x: `${LEFT}%`, height: 8 })]]),
  );
  const rows = Array.from({ length: Math.max(...state.tokens) }, (_, place) =>
    s("text", { x: 0, y: GRID + band * (place + 0.5) + 4 }),
  );
  const heading = s("text", { y: 14 }, `All ${state.blocks} blocks, ${blockKib} KiB each`);
  const what = s("text", { y: GRID - 10 }, `The walk: a column a block, a row the ${sizes.group_heads} heads of a token`);
  const parts = [title, heading, strip.svg, what, grid.svg, underline, ...rows, ...Object.values(bars).flat()];
  const svg = s("svg", { class: "walk", role: "img", width: "100%" }, ...parts);

  const draw = (shown) => {
    const { codes, position, step, tokens } = shown;
    const height = scale * tileRows(tokens, sizes);
    const whole = height / band; // bands, those without a token included
    const most = sizes.n * tokens;
    const blocks = codes.map((code) => Math.floor(code / 2 ** tokens));
    const d = { asked: "", later: "", masked: "", empty: "" };
    codes.forEach((code, column) => {
      for (let place = 0; place < tokens; place++) {
        if ((code >> place) & 1) d[column < step ? "asked" : "later"] += cell(column, place);
        else d.masked += `M${column} ${place + 1}L${column + 1} ${place}`;
      }
      if (whole > tokens) d.empty += cell(column, tokens, whole - tokens);
    });
    for (const [kind, path] of Object.entries(grid.paths)) path.setAttribute("d", d[kind]);
    fill(svg, { height: GRID + height + 44 });
    fill(grid.svg, { height, viewBox: `0 0 ${most} ${whole}` });
    fill(grid.ground, { width: codes.length, height: whole });
    strip.paths.asked.setAttribute("d", blocks.slice(0, step).map((block) => cell(block, 0)).join(""));
    strip.paths.later.setAttribute("d", blocks.slice(step).map((block) => cell(block, 0)).join(""));
    for (const [part, x, rectHeight] of [[strip, blocks[step - 1], 1], [grid, step - 1, whole]]) {
      fill(part.current, { x: x ?? 0, width: step ? 1 : 0, height: rectHeight });
    }
    const always = blocks.map((block, column) => (isForced(state, shown, block) ? `M${column} 3h1` : ""));
    forced.setAttribute("d", always.join(""));
    fill(underline, { y: GRID + height, viewBox: `0 0 ${most} 6` });
    rows.forEach((row, place) => {
      const own = state.sets[shown.set].of_text ? visible(state.text[position + place] ?? "").replace(" ", "␣") : "";
      row.textContent = place < tokens ? `${number(position + place)} ${own}`.trim() : "";
    });
    for (const [kind, y] of [["loaded", 10], ["asked", 28]]) {
      const [text, bar] = bars[kind];
      fill(text, { y: GRID + height + y + 8 }).textContent = `${kind} ${shown.whole[kind]}`;
      fill(bar, { y: GRID + height + y, width: `${((100 - LEFT) * shown.whole[kind]) / most}%` });
    }
    title.textContent =
      `One program walks over ${count(codes.length, "block")} for ${count(tokens, "token")} from ${number(position)} on, ` +
      `which asked for ${shown.whole.asked}; ${shown.step} loaded so far.`;
  };
  return { svg, draw };
}

/** Blocks that every query reads, whatever it looks for. */
function isForced({ forced, sizes }, { position }, block) {
  return block < forced.initial || block > Math.floor(position / sizes.select_block) - forced.local;
}

// The step in words, the list of codes, and the text that is loaded

function makeWords(state) {
  const { sizes } = state;
  const said = h("output", { class: "walk-step" });
  const about = "The merged list, block:bits. The rightmost bit is that of the tile's first token.";
  const caption = h("p", { class: "walk-note" }, about);
  const list = h("ol", { class: "walk-codes", "aria-label": about });
  const names = [h("dt"), h("dt")];
  const texts = [h("dd"), h("dd")];
  const excerpt = h("dl", { class: "walk-text" }, names[0], texts[0], names[1], texts[1]);

  const draw = (shown) => {
    const { codes, position, step, tokens } = shown;
    const parts = codes.map((code) => [Math.floor(code / 2 ** tokens), code % 2 ** tokens]);
    list.replaceChildren(
      ...parts.map(([block, bits], column) => {
        const state = column === step - 1 ? { "aria-current": "step" } : column < step ? { class: "done" } : {};
        return h("li", state, `${block}:${binary(bits, tokens)}`);
      }),
    );
    names[0].textContent = tokens > 1 ? "Tile" : "Token";
    const { of_text } = state.sets[shown.set];
    const around = [Math.max(0, position - 40), position, position + tokens, position + tokens + 16];
    const [before, tile, after] = [0, 1, 2].map((i) => visible(state.text.slice(around[i], around[i + 1])));
    texts[0].replaceChildren(...(of_text ? [before, h("mark", {}, tile), after] : ["random: there is no text"]));
    if (step === 0) {
      said.value = "Nothing is loaded yet: the program has its queries and its list.";
      names[1].textContent = "Block";
      texts[1].textContent = "";
      return;
    }
    const [block, bits] = parts[step - 1];
    const asked = placesOf(bits);
    const first = block * sizes.select_block;
    const mask = step > shown.past ? " The block reaches past the tile's first token, so the causal mask is on." : "";
    const rule = isForced(state, shown, block) ? " It is always read." : "";
    said.value =
      `Step ${step}: code ${number(codes[step - 1])} = ${block}·${power(tokens)} + ${binary(bits, tokens)} (binary). ` +
      `Block ${block}, tokens ${number(first)}–${number(first + sizes.select_block - 1)}, is loaded for ` +
      `${asked.length} of ${count(tokens, "token")}: ${asked.length * sizes.group_heads} of ` +
      `${tileRows(tokens, sizes)} rows do useful work.${rule}${mask}`;
    names[1].textContent = `Block ${block}`;
    texts[1].textContent = of_text ? visible(state.text.slice(first, first + sizes.select_block)) : "random: there is no text";
  };
  return { elements: [said, caption, list, excerpt], draw };
}

// The numbers: of this walk, and of all tiles of each set

const ROWS = [
  ["asked", "Blocks asked for", ({ asked }) => number(asked)],
  ["loaded", "Blocks loaded, each once", ({ loaded }) => number(loaded)],
  ["bytes_loaded", "KiB loaded", ({ bytes_loaded }) => kib(bytes_loaded)],
  ["bytes_saved", "KiB saved by sharing", ({ bytes_saved }) => kib(bytes_saved)],
  ["rows_computed", "Rows of the product computed", ({ rows_computed }) => number(rows_computed)],
  ["rows_useful", "Rows that do useful work", ({ rows_useful }) => number(rows_useful)],
  ["share", "Share of useful rows", share],
];

function makeCounters() {
  const cells = Object.fromEntries(ROWS.map(([row]) => [row, [h("td"), h("td")]]));
  const body = ROWS.map(([row, name]) => h("tr", { class: row }, h("th", { scope: "row" }, name), ...cells[row]));
  const head = ["This tile", "so far", "whole walk"].map((text) => h("th", { scope: "col" }, text));
  const table = h("table", { class: "walk-counts" }, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body));
  const draw = ({ so_far, whole }) => {
    for (const [row, , text] of ROWS) [so_far, whole].forEach((counts, i) => (cells[row][i].textContent = text(counts)));
  };
  return { table, draw };
}

function makeWhole(state) {
  const { n, select_block: size } = state.sizes;
  const tokens = state.text.length - n * size;
  const cells = state.sets.map(({ counts }) =>
    counts.map((each) => h("td", {}, h("span", {}, `${kib(each.bytes_loaded / tokens)} KiB`), h("span", {}, share(each)))),
  );
  const body = state.sets.map(({ name }, i) => h("tr", {}, h("th", { scope: "row" }, name), ...cells[i]));
  const head = ["Selection", ...state.tokens.map((each) => `tile of ${each}`)].map((text) => h("th", { scope: "col" }, text));
  const caption =
    `KiB loaded for a token, and share of useful rows: all tiles from token ${number(n * size)} on, ` +
    `before which every block is read.`;
  const parts = [h("caption", {}, caption), h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body)];
  const served = h("p", { class: "walk-note" });
  const draw = (shown) => {
    const size = state.tokens.indexOf(shown.tokens);
    const each = state.sets.map((set) => `${set.served[size].toFixed(2)} (${set.name})`).join(", ");
    served.textContent =
      `Blocks always read are shared by every tile. With ${count(shown.tokens, "token")} a tile, ` +
      `each other block that is loaded serves on average this many of them: ${each}.`;
    cells.forEach((row, set) =>
      row.forEach((each, i) => {
        each.ariaCurrent = set === shown.set && state.tokens[i] === shown.tokens ? "true" : null;
      }),
    );
  };
  return { elements: [h("table", { class: "walk-whole" }, ...parts), served], draw };
}

function makeLegend() {
  const marks = {
    asked: "loaded, and asked for by the token",
    later: "asked for, not loaded yet",
    masked: "not asked for: computed and thrown away",
    empty: "rows without a token",
    forced: "block that is always read",
  };
  const entry = ([kind, text]) => h("span", {}, h("span", { class: `walk-key ${kind}`, "aria-hidden": "true" }), text);
  return h("p", { class: "walk-legend" }, ...Object.entries(marks).map(entry));
}

const honestNote = ({ sizes, file, blocks }) =>
  `The blocks are those that a small model selects${file && ` in ${file}`}, ${sizes.n} of ${blocks} for a token. Rows and bytes are ` +
  `counted for ${sizes.group_heads} query heads a group, and for keys of ${sizes.d_qk} and values of ${sizes.d_v} numbers, ` +
  `${sizes.element_bytes} bytes each. A matrix instruction of Hopper takes ${sizes.product_rows} rows; a smaller tile leaves rows ` +
  "empty, as drawn, or has to use a slower instruction. Loaded means by this program, from the L2 cache or from memory. " +
  "The grid is scaled by the tokens of a tile: its width is bytes a token, its area is work a token.";

function render({ model, el }) {
  const state = model.get("state");
  const figure = el.closest("figure.explorable"); // none in a live Jupyter, where `el` is all there is
  const choice = { ...state.start };
  const tables = state.sets.map(({ blocks }) => Uint8Array.from(atob(blocks), (c) => c.charCodeAt(0)));

  const controls = makeControls(state, choice, () => update());
  const picture = makePicture(state);
  const words = makeWords(state);
  const counters = makeCounters();
  const whole = makeWhole(state);
  const parts = [controls, picture, words, counters, whole];

  function update() {
    const shown = compute(tables, state, choice);
    controls.show(shown);
    for (const part of parts.slice(1)) part.draw(shown);
    (figure ?? el).dataset.computed = JSON.stringify(shown);
    model.set("computed", shown);
    model.save_changes();
  }

  const note = h("p", { class: "walk-note" }, honestNote(state));
  el.replaceChildren(controls.element, picture.svg, makeLegend(), ...words.elements, counters.table, ...whole.elements, note);
  if (!figure) {
    const title = h("strong", {}, `${model.get("title")}.`);
    el.prepend(h("p", { class: "explorable-caption" }, title, ` ${model.get("description")}`));
  }
  update();
}

export default { render };
