// What native sparse attention reads for one query: a map of the text, the text itself, and the numbers.
// Python (nsa_reads.py) ran the model and stored the order of the blocks; the rest is arithmetic done here,
// the same as in minisys/nsa/costs.py.

const NAMES = { compressed: "Compressed", selected: "Selected", window: "Window", nsa: "NSA in all", dense: "Dense" };
const BLOCKS = [8, 16, 32, 64];
const STRIDES = [8, 16, 32];
const LENGTHS = [8192, 16384, 32768, 65536];
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" }; // or JupyterLab would take the arrow keys

const number = new Intl.NumberFormat("en").format;
const count = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;

// What is read, and what it costs

/** Keys that the query at `position` attends to, by branch; a compressed key counts as one. */
function tokensRead(position, config) {
  const t = position + 1;
  const blocks = Math.min(config.top_n, Math.ceil(t / config.select_block));
  return {
    compressed: Math.max(0, Math.floor((t - config.compress_block) / config.compress_stride) + 1),
    selected: (blocks - 1) * config.select_block + (position % config.select_block) + 1,
    window: Math.min(config.window, t),
  };
}

/** `each` times the keys read: by branch, for NSA as a whole and for dense attention. */
function priced({ compressed, selected, window }, position, each) {
  const nsa = each * (compressed + selected + window);
  const branches = { compressed: each * compressed, selected: each * selected, window: each * window };
  return { ...branches, nsa, dense: each * (position + 1) };
}

/** What `table` (state.rank or state.importance) stores for the chosen query: numbers from 0 to 255. */
function stored(table, state, choice) {
  const query = (choice.position + 1) / state.query_step - 1;
  const text = table[state.layers.indexOf(choice.layer)][choice.group][query];
  return Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Selection blocks that are always read, and all that are read, both ascending. */
function selectedBlocks(state, choice) {
  const { initial_blocks, local_blocks, select_block, top_n } = choice.config;
  const own = Math.floor(choice.position / select_block);
  const past = Array.from({ length: own + 1 }, (_, block) => block);
  const forced = past.filter((block) => block < initial_blocks || block > own - local_blocks);
  const ranked = stored(state.rank, state, choice).slice(0, Math.max(0, top_n - forced.length));
  return { forced, selected: [...forced, ...ranked].sort((a, b) => a - b) };
}

/** Everything the figure shows, from what the reader chose. */
function compute(state, choice) {
  const { d_qk, d_v, hq, hk, element_bytes } = state.sizes;
  const counted = choice.length ? choice.length - 1 : choice.position; // the position that the numbers are for
  const read = tokensRead(counted, choice.config);
  return {
    ...choice,
    ...selectedBlocks(state, choice),
    counted_position: counted,
    read,
    flops: priced(read, counted, 2 * (d_qk + d_v) * hq),
    bytes: priced(read, counted, (d_qk + d_v) * hk * element_bytes),
  };
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

// Controls

function slider(name, range, onInput) {
  const input = h("input", { type: "range", ...range, ...OWN_KEYS });
  const output = h("output", { "aria-hidden": "true" }); // a screen reader hears the slider's own value
  input.addEventListener("input", () => onInput(input.valueAsNumber));
  const show = (value, text) => {
    input.value = value;
    output.value = text;
    input.setAttribute("aria-valuetext", text);
  };
  // The output comes after the input: a label names the first element in it that can have one.
  return { label: h("label", { class: "slider" }, h("span", {}, name), input, output), show };
}

function menu(name, entries, onInput) {
  const options = entries.map(([value, text]) => h("option", { value }, text));
  const select = h("select", OWN_KEYS, ...options);
  select.addEventListener("input", () => onInput(Number(select.value)));
  const show = (value) => (select.value = value);
  return { label: h("label", {}, h("span", {}, name), select), options, show };
}

function makeControls(state, choice, update) {
  const { config } = choice;
  const { config: trained, query_step: step, sizes } = state;
  const to = (target, field) => (value) => {
    target[field] = value;
    update();
  };
  const tokens = (values, own) => [...new Set([...values, own])].sort((a, b) => a - b).map((n) => [n, `${n} tokens`]);
  const heads = sizes.hq / sizes.hk;
  const headsOf = (group) => (heads === 1 ? "" : `: heads ${group * heads}–${(group + 1) * heads - 1}`);
  const groups = Array.from({ length: sizes.hk }, (_, group) => [group, `${group}${headsOf(group)}`]);
  const layer = menu("Layer", state.layers.map((each) => [each, each]), to(choice, "layer"));
  const group = menu("Head group", groups, to(choice, "group"));
  const least = trained.initial_blocks + trained.local_blocks;
  const topN = slider("Selected blocks n", { min: least, max: state.max_top_n }, to(config, "top_n"));
  const grid = trained.window % 16 ? 1 : 16;
  const widths = { min: grid, max: Math.max(1024, trained.window), step: grid };
  const window = slider("Window w", widths, to(config, "window"));
  const block = menu("Compressed block l", tokens(BLOCKS, trained.compress_block), to(config, "compress_block"));
  const stride = menu("Stride d", tokens(STRIDES, trained.compress_stride), to(config, "compress_stride"));
  const last = state.text.length - (state.text.length % step) - 1;
  const position = slider("Query position", { min: step - 1, max: last, step }, to(choice, "position"));
  const reset = h("button", { type: "button" }, "Trained settings");
  reset.addEventListener("click", () => {
    Object.assign(config, trained);
    update();
  });
  const reason = h("p", { class: "remark muted" });

  const show = () => {
    const line = state.text.slice(0, choice.position).split("\n").length;
    position.show(choice.position, `${number(choice.position)} (line ${number(line)})`);
    layer.show(choice.layer);
    group.show(choice.group);
    topN.show(config.top_n, `${config.top_n}`);
    window.show(config.window, `${config.window}`);
    block.show(config.compress_block);
    stride.show(config.compress_stride);
    const { compress_block: l, compress_stride: d, select_block: size } = config;
    const off = [
      ...switchOff(block.options, (value) => value % d === 0).map((value) => `l = ${value}`),
      ...switchOff(stride.options, (value) => l % value === 0 && size % value === 0).map((value) => `d = ${value}`),
    ];
    const rule = `The stride d (now ${d}) has to divide l (now ${l}) and the selection block (${size}).`;
    reason.textContent = off.length ? `Off: ${off.join(", ")}. ${rule}` : rule;
    reset.disabled = Object.keys(trained).every((field) => config[field] === trained[field]);
  };
  const labels = [layer, group, block, stride, topN, window].map((control) => control.label);
  const foot = h("div", { class: "foot" }, reason, reset);
  // The position comes last, right above the map whose axis it runs along.
  return { elements: [h("div", { class: "controls" }, ...labels), foot, position.label], show };
}

/** Disable the options that do not fit, and return their values. */
function switchOff(options, fits) {
  for (const option of options) option.disabled = !fits(Number(option.value));
  return options.filter((option) => option.disabled).map((option) => option.value);
}

// The map: one row a branch over the token axis. Horizontal places are per cent, so that text keeps its size
// at any width; inside a row one unit is one token.

const ROWS = { dense: [38, 10], compressed: [79, 12], selected: [122, 32], window: [184, 10] }; // top, height

function makeMap(state, onPick) {
  const total = state.text.length;
  const percent = (token) => `${(100 * token) / total}%`;
  const title = s("title");
  const line = s("line", { class: "query", y1: 16, y2: 198 });
  const flag = s("text", { class: "flag", y: 12 });
  const paths = {};
  const labels = {};
  const rows = Object.entries(ROWS).map(([row, [y, height]]) => {
    const area = { y, width: "100%", height, viewBox: `0 0 ${total} 100`, preserveAspectRatio: "none" };
    const inside = s("svg", { ...area, "aria-hidden": "true" }); // the title says what it shows
    inside.append(s("rect", { class: "track", width: total, height: 100 }));
    const kinds = row === "selected" ? ["unchosen", "ground", "chosen", "forced"] : [row];
    for (const kind of kinds) inside.append((paths[kind] = s("path", { class: kind })));
    labels[row] = [s("text", { y: y - 6 }), s("text", { x: "100%", y: y - 6, "text-anchor": "end" })];
    return inside;
  });
  const axis = ["start", "middle", "middle", "middle", "end"].map((anchor, quarter) => {
    const token = Math.round((quarter * total) / 4);
    return s("text", { class: "muted", x: percent(token), y: 215, "text-anchor": anchor }, number(token));
  });
  const texts = Object.values(labels).flat();
  const svg = s("svg", { class: "map", role: "img", height: 222 }, title, ...rows, ...axis, line, ...texts, flag);

  // A shortcut for pointers; the slider does the same for everyone.
  const pick = (event) => {
    const box = svg.getBoundingClientRect();
    if (event.buttons === 1) onPick(((event.clientX - box.left) / box.width) * total);
  };
  svg.addEventListener("pointerdown", pick);
  svg.addEventListener("pointermove", pick);

  const draw = (choice, shown) => {
    const { config, position } = choice;
    const { select_block: size, compress_block: block, compress_stride: stride } = config;
    const read = tokensRead(position, config);
    const importance = stored(state.importance, state, choice);
    const span = (j) => [j * size, Math.min((j + 1) * size, position + 1)];
    const bar = (j) => [...span(j), 100 - importance[j]];
    const unchosen = importance.map((_, j) => j).filter((j) => !shown.selected.includes(j));
    const tick = (_, i) => [i * stride + block / 2 - stride / 4, i * stride + block / 2 + stride / 4];
    const spans = {
      dense: [[0, position + 1]],
      compressed: Array.from({ length: read.compressed }, tick),
      unchosen: unchosen.map(bar),
      ground: shown.selected.map(span),
      chosen: shown.selected.map(bar),
      forced: shown.forced.map(span),
      window: [[position + 1 - read.window, position + 1]],
    };
    for (const [kind, of] of Object.entries(spans)) paths[kind].setAttribute("d", bars(of));
    const says = {
      dense: ["every token so far", position + 1],
      compressed: [`${block} tokens each, every ${stride}`, read.compressed],
      selected: [`${count(shown.selected.length, "block")} of ${size} tokens`, read.selected],
      window: [`the last ${count(read.window, "token")}`, read.window],
    };
    for (const [row, [what, keys]] of Object.entries(says)) {
      labels[row][0].replaceChildren(s("tspan", { class: "name" }, NAMES[row]), s("tspan", { class: "muted", dx: 7 }, what));
      labels[row][1].textContent = count(keys, "key");
    }
    const at = percent(position + 0.5);
    fill(line, { x1: at, x2: at });
    const anchor = position < 0.2 * total ? "start" : position > 0.8 * total ? "end" : "middle";
    fill(flag, { x: at, "text-anchor": anchor }).textContent = `query ${number(position)}`;
    const keys = Object.entries(says).map(([row, [, n]]) => `${row} ${count(n, "key")}`);
    title.textContent = `The query at token ${number(position)} of ${number(total)}: ${keys.join(", ")}.`;
  };
  return { svg, draw };
}

/** Path of bars from token to token, from `top` (0 … 100) down to 100. */
function bars(spans) {
  return spans.map(([from, to, top = 0]) => `M${from} ${top}H${to}V100H${from}Z`).join("");
}

// The text, with what is read marked by ground, underline and letters beside it

const LETTERS = { selected: "S", window: "W", query: "Q" };

function makeText(state, onPick) {
  let next = 0;
  const lines = state.text.split("\n").map((text, index) => {
    const first = next;
    next += text.length + 1;
    // One character a byte: a dot stands for each byte that is no printable ASCII.
    const safe = text.replace(/[^\t\x20-\x7e]/g, "·");
    return { first, text: safe, row: h("div", { class: "line" }), name: `${index + 1}`.padStart(4) };
  });
  const name = `The text${state.file && `, ${state.file}`}, with what is read marked`;
  const about = { class: "text", tabindex: 0, role: "region", "aria-label": name, ...OWN_KEYS };
  const pane = h("div", about, ...lines.map((line) => line.row));
  pane.addEventListener("click", (event) => {
    const first = event.target.dataset.first;
    if (first && getSelection().isCollapsed) onPick(Number(first));
  });

  let [lastPosition, queryLine] = [-1, lines[0].row];
  // In Jupyter the pane is drawn before it is on the page and has a size.
  new ResizeObserver(() => keepInView(pane, queryLine)).observe(pane);
  const draw = (choice, shown) => {
    const { position, config } = choice;
    const kindOf = (token) => {
      if (token >= position) return token === position ? "query" : "future";
      const selected = shown.selected.includes(Math.floor(token / config.select_block));
      const window = position - token < config.window;
      return selected ? (window ? "selected window" : "selected") : window ? "window" : "";
    };
    for (const line of lines) {
      const kinds = Array.from({ length: line.text.length + 1 }, (_, i) => kindOf(line.first + i)); // with line end
      const drawn = kinds.join();
      if (drawn !== line.drawn) drawLine(line, kinds); // few lines change from one query to the next
      line.drawn = drawn;
      if (kinds.includes("query")) queryLine = line.row;
    }
    if (position !== lastPosition) keepInView(pane, queryLine);
    lastPosition = position;
  };
  return { pane, draw };
}

function drawLine({ first, text, row, name }, kinds) {
  const all = kinds.join(" ");
  const letters = Object.keys(LETTERS).map((kind) => (all.includes(kind) ? LETTERS[kind] : "")).join("");
  const runs = [];
  for (let from = 0, i = 0; i < kinds.length; i++) {
    if (kinds[i + 1] === kinds[i]) continue;
    const lineEnd = kinds[i] === "query" && i === text.length ? "↵" : ""; // drawn only where it is the query
    const tag = kinds[i] && kinds[i] !== "future" ? "mark" : "span";
    runs.push(h(tag, { class: kinds[i], "data-first": first + from }, text.slice(from, i + 1) + lineEnd));
    from = i + 1;
  }
  row.replaceChildren(h("span", { class: "gutter" }, `${name} ${letters.padEnd(3)}`), h("span", {}, ...runs));
  row.ariaCurrent = all.includes("query") ? "true" : null;
}

/** Scroll the pane, not the page, so that most of what is seen came before the query. */
function keepInView(pane, row) {
  const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
  if (top >= pane.scrollTop && bottom <= pane.scrollTop + pane.clientHeight) return;
  let first = row;
  while (first.previousSibling && bottom - first.previousSibling.offsetTop < 0.8 * pane.clientHeight)
    first = first.previousSibling;
  pane.scrollTop = first.offsetTop;
}

// The numbers

function makeNumbers(state, choice, update) {
  const lengths = LENGTHS.map((t) => [t, `the last query of ${number(t)} tokens`]);
  const length = menu("Count for", [[0, "the query chosen above"], ...lengths], (value) => {
    choice.length = value;
    update();
  });
  length.label.classList.add("inline");
  const { hq, hk, element_bytes: size } = state.sizes;
  const flops = `One query in one layer. FLOPs: scores and weighted values of ${count(hq, "query head")}. `;
  const bytes = `Bytes: keys and values of ${count(hk, "head")}, ${size} bytes a number.`;
  const rows = [...Object.entries(NAMES), ["quotient", "Dense ÷ NSA"]];
  const cells = Object.fromEntries(rows.map(([row]) => [row, [h("td"), h("td"), h("td")]]));
  const body = rows.map(([row, name]) => {
    const swatch = h("span", { class: `swatch ${row}`, "aria-hidden": "true" });
    return h("tr", { class: row }, h("th", { scope: "row" }, swatch, name), ...cells[row]);
  });
  const heads = ["Branch", "Keys read", "FLOPs", "Bytes"].map((text) => h("th", { scope: "col" }, text));
  const parts = [h("caption", {}, flops, bytes), h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...body)];
  const summary = h("output", { class: "summary" });

  const draw = (shown) => {
    length.show(choice.length);
    const keys = priced(shown.read, shown.counted_position, 1);
    [keys, shown.flops, shown.bytes].forEach((column, i) => {
      for (const row of Object.keys(NAMES)) cells[row][i].textContent = number(column[row]);
      cells.quotient[i].textContent = `${(column.dense / column.nsa).toFixed(2)}×`;
    });
    const where = choice.length ? `the end of ${number(choice.length)} tokens` : `position ${number(choice.position)}`;
    const more = `${(keys.dense / keys.nsa).toFixed(2)} times as many`;
    const end = keys.nsa > keys.dense ? "which is fewer: this early the branches overlap" : more;
    summary.value = `At ${where} NSA reads ${count(keys.nsa, "key")} and dense attention ${number(keys.dense)}, ${end}.`;
  };
  return { elements: [length.label, summary, h("table", {}, ...parts)], draw };
}

const listBlocks = ({ selected, forced }) =>
  `Selected blocks: ${selected.map((block) => `${block}${forced.includes(block) ? "*" : ""}`).join(", ")}. ` +
  "Those with * (outlined) are always read. A bar's height is the importance of its block, against the largest.";

const honestNote = ({ top_n, window, compress_block, compress_stride }) =>
  `The model was trained with n = ${top_n}, w = ${window}, l = ${compress_block} and d = ${compress_stride}. ` +
  "The blocks are always ranked with these l and d: moving l or d changes the compressed row and the cost, " +
  "not the ranking. Moving n or w changes what would be read, not what the model learned.";

function makeLegend() {
  const marks = { selected: "selected block", window: "window", query: "query", future: "not yet visible" };
  const entry = ([kind, text]) => h("span", {}, h("b", {}, LETTERS[kind] ?? ""), " ", h("mark", { class: kind }, text));
  return h("p", { class: "legend" }, ...Object.entries(marks).map(entry));
}

function render({ model, el }) {
  const state = model.get("state");
  const figure = el.closest("figure.explorable"); // none in a live Jupyter, where `el` is all there is
  const choice = { ...state.start, length: 0, config: { ...state.config } };

  const pick = (token) => {
    const queries = Math.floor(state.text.length / state.query_step);
    const query = Math.min(queries, Math.max(1, Math.round((token + 1) / state.query_step)));
    choice.position = query * state.query_step - 1;
    update();
  };
  const controls = makeControls(state, choice, () => update());
  const map = makeMap(state, pick);
  const text = makeText(state, pick);
  const numbers = makeNumbers(state, choice, () => update());
  const blocks = h("p", { class: "remark muted" });

  function update() {
    const shown = compute(state, choice);
    controls.show();
    map.draw(choice, shown);
    text.draw(choice, shown);
    numbers.draw(shown);
    blocks.textContent = listBlocks(shown);
    (figure ?? el).dataset.computed = JSON.stringify(shown);
    model.set("computed", structuredClone(shown)); // a copy: `choice.config` goes on changing
    model.save_changes();
  }

  const note = h("p", { class: "remark muted" }, honestNote(state.config));
  el.replaceChildren(...controls.elements, map.svg, blocks, text.pane, makeLegend(), ...numbers.elements, note);
  if (!figure) {
    const title = h("strong", {}, `${model.get("title")}.`);
    el.prepend(h("p", { class: "explorable-caption" }, title, ` ${model.get("description")}`));
  }
  update();
}

export default { render };
