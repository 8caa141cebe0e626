// A question on a knowledge graph. Python (kgrag_graph.py) embedded and laid out; expansion, trees, growth and
// scores are computed here, the same as in minisys/kgrag (expansion, organization, growth, metrics).

const METHODS = { dense: "Dense", "kg2rag-paper": "Paper’s trees", kg2rag: "Growth" };
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" }; // or JupyterLab would take the arrow keys

const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
/** Places of the `k` largest of `scores`, largest first; equal ones by place. */
const best = (scores, k) => [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, k);
const endsOf = (triples) => [...new Set(triples.flatMap(({ head, tail }) => [head, tail]))];
const chunksOf = (triples) => [...new Set(triples.map(({ chunk }) => chunk))];
const numbersOf = (triples) => triples.map(({ number }) => number);

// Retrieval

/** The graph without the triples `cut`, by chunk and by entity; `whole` has all triples, by number. */
function graphOf(state, cut) {
  const whole = state.triples.map(([head, relation, tail, chunk], number) => ({ number, head, relation, tail, chunk }));
  const triples = whole.filter(({ number }) => !cut.includes(number));
  const [ofEntity, ofChunk] = [state.entities, state.chunks].map((all) => all.map(() => []));
  for (const triple of triples) {
    for (const end of endsOf([triple])) ofEntity[end].push(triple);
    ofChunk[triple.chunk].push(triple);
  }
  const entities = ofChunk.map((own) => new Set(endsOf(own)));
  const share = (own) => Math.log(Math.max(chunksOf(own).length, 1)) / Math.log(Math.max(state.chunks.length, 2));
  return { whole, triples, ofEntity, ofChunk, entities, rarity: ofEntity.map((own) => 1 - share(own)) };
}

/** Entities within `hops` of the seeds' own, and all triples between them. */
function expand(graph, seeds, hops) {
  const reached = new Set(seeds.flatMap((seed) => [...graph.entities[seed]]));
  let frontier = [...reached];
  for (let hop = 0; hop < hops; hop++) {
    frontier = endsOf(frontier.flatMap((entity) => graph.ofEntity[entity])).filter((entity) => !reached.has(entity));
    for (const entity of frontier) reached.add(entity);
  }
  return { reached, triples: graph.triples.filter(({ head, tail }) => reached.has(head) && reached.has(tail)) };
}

/** Maximum spanning trees (Kruskal), each depth first from its heaviest edge; of equal weights the lower number. */
function spanningTrees(triples, weights) {
  const parent = new Map();
  const root = (entity) => (parent.has(entity) ? root(parent.get(entity)) : entity);
  const [kept, edges] = [[], new Map()]; // the forest, heaviest first, and the same by entity
  for (const triple of [...triples].sort((a, b) => weights[b.chunk] - weights[a.chunk] || a.number - b.number)) {
    const [head, tail] = [root(triple.head), root(triple.tail)];
    if (head === tail) continue;
    parent.set(head, tail);
    kept.push(triple);
    for (const end of endsOf([triple])) edges.set(end, [...(edges.get(end) ?? []), triple]);
  }
  const visited = new Set();
  const walk = (entity) => {
    visited.add(entity);
    return edges.get(entity).flatMap((triple) => {
      const other = triple.head === entity ? triple.tail : triple.head;
      return visited.has(other) ? [] : [triple, ...walk(other)];
    });
  };
  return kept.flatMap(({ head }) => (visited.has(head) ? [] : [walk(head)]));
}

/** The candidates of growth, best path first, with the terms of their gains. */
function candidatesOf(state, asked, graph, seeds, found) {
  const { edge, link } = state.factors;
  const shared = (a, b) =>
    Math.max(0, ...[...graph.entities[a]].filter((e) => graph.entities[b].has(e)).map((e) => graph.rarity[e]));
  const path = (chunk) =>
    Math.max(0, ...seeds.filter((s) => s !== chunk).map((s) => Math.max(asked.similarities[s], 0) * shared(s, chunk)));
  const paths = found.map((chunk) => link * path(chunk));
  const scores = found.map((chunk, i) => asked.own[chunk] + paths[i]);
  const covers = (chunk) =>
    asked.weights.map((weight, word) => (asked.coverage[chunk * asked.weights.length + word] / 100) * weight);
  return best(scores, state.pool).map((i) => {
    const edgeTo = (other) => edge * shared(found[i], other);
    return { chunk: found[i], base: scores[i] - paths[i], path: paths[i], covers: covers(found[i]), edgeTo };
  });
}

/** Up to `k` candidates, each the one that gains most: worth, path to what is chosen, words newly covered. */
function grow(left, k) {
  let covered = left[0].covers.map((_, word) => Math.min(...left.map(({ covers }) => covers[word])));
  const chosen = [];
  while (left.length && chosen.length < k) {
    const gains = left.map(({ base, path, covers }) => {
      const more = covers.reduce((sum, value, word) => sum + Math.max(value - covered[word], 0), 0);
      return base + path + more / covers.length;
    });
    const [place] = best(gains, 1);
    if (gains[place] < 0) break;
    const [{ chunk, covers }] = left.splice(place, 1);
    chosen.push({ chunk, gain: gains[place] });
    for (const each of left) each.path = Math.max(each.path, each.edgeTo(chunk));
    covered = covered.map((value, word) => Math.max(value, covers[word]));
  }
  return chosen;
}

function scoresOf(context, gold) {
  const both = context.filter((chunk) => gold.includes(chunk)).length;
  const [precision, recall] = both ? [both / context.length, both / gold.length] : [0, 0];
  return { precision, recall, f1: both ? (2 * precision * recall) / (precision + recall) : 0 };
}

/** Everything the figure shows, from what the reader chose; `ranked` is each method's order before k cuts it. */
function compute(state, asked, choice) {
  const graph = graphOf(state, choice.cut);
  const dense = best(asked.similarities, state.chunks.length);
  const seeds = dense.slice(0, state.num_seeds);
  const { reached, triples } = expand(graph, seeds, choice.hops);
  const found = [...new Set([...seeds, ...chunksOf(triples)])].sort((a, b) => a - b);
  const forest = spanningTrees(triples, asked.similarities);
  const grown = grow(candidatesOf(state, asked, graph, seeds, found), state.most_k);
  const ranked = { dense, "kg2rag-paper": chunksOf(forest.flat()), kg2rag: chunksOf(grown) };
  const each = (of) => Object.fromEntries(Object.keys(METHODS).map((method) => [method, of(method)]));
  const contexts = each((method) => ranked[method].slice(0, choice.k));
  const scores = each((method) => scoresOf(contexts[method], asked.gold));
  const context = contexts[choice.method];
  const gains = Object.fromEntries(grown.map(({ chunk, gain }) => [chunk, gain]));
  const small = () => spanningTrees(triples.filter(({ chunk }) => context.includes(chunk)), gains);
  const trees = { dense: () => [], "kg2rag-paper": () => forest, kg2rag: small }[choice.method]().map(numbersOf);
  const sets = { seeds, reached: [...reached].sort((a, b) => a - b), triples: numbersOf(triples), found };
  return { graph, ranked, context, shown: { ...choice, ...sets, trees, contexts, scores } };
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
  const select = h("select", OWN_KEYS, ...entries.map(([value, text]) => h("option", { value }, text)));
  select.addEventListener("input", () => onInput(select.value));
  return { label: h("label", {}, h("span", {}, name), select), show: (value) => (select.value = value) };
}

function makeControls(state, change) {
  const questions = state.questions.map(({ kind, text }, i) => [i, `${kind}: ${text}`]);
  const question = menu("Question", questions, (value) => change({ question: Number(value), cut: [] }));
  const method = menu("Method", Object.entries(METHODS), (value) => change({ method: value }));
  const hops = slider("Hops m", { min: 0, max: state.most_hops }, (value) => change({ hops: value }));
  const k = slider("Sentences k", { min: 1, max: state.most_k }, (value) => change({ k: value }));
  const words = h("p", { class: "kg-question" });
  const draw = ({ answer, gold, text }, { shown }) => {
    question.show(shown.question);
    method.show(shown.method);
    hops.show(shown.hops, count(shown.hops, "hop"));
    k.show(shown.k, `${shown.k}`);
    const about = ` Answer: ${answer}. It takes ${count(gold.length, "sentence")}, marked ★.`;
    words.replaceChildren(h("strong", {}, text), h("span", { class: "muted" }, about));
  };
  const labels = [question, hops, method, k].map(({ label }) => label);
  return { elements: [h("div", { class: "controls" }, ...labels), words], draw };
}

// The picture. One unit across is a thousandth of the width, down a pixel; kgrag_graph.py says what stands where.

const inWords = (state, { head, relation, tail }) =>
  `${state.entities[head]} ${state.relations[relation]} ${state.entities[tail]}`;

/** What is drawn: triples, then entities, by what they are. */
function drawn(asked, { graph, context, shown }) {
  const [tree, reached, triples] = [shown.trees.flat(), shown.reached, shown.triples].map((each) => new Set(each));
  const first = new Set(shown.seeds.flatMap((seed) => [...graph.entities[seed]]));
  const chosen = graph.triples.filter(({ chunk }) => context.includes(chunk));
  const others = graph.triples.filter(({ chunk, number }) => triples.has(number) && !context.includes(chunk));
  const edges = {
    gold: graph.whole.filter(({ chunk }) => asked.gold.includes(chunk)),
    reached: others.filter(({ number }) => !tree.has(number)),
    tree: others.filter(({ number }) => tree.has(number)),
    context: chosen,
    cut: graph.whole.filter(({ number }) => shown.cut.includes(number)),
  };
  const rest = [...graph.ofEntity.keys()].filter((entity) => !first.has(entity));
  // These become classes. “far” must not be one: Font Awesome, which comes with the book's theme, replaces it.
  const nodes = {
    beyond: rest.filter((entity) => !reached.has(entity)),
    near: rest.filter((entity) => reached.has(entity)),
    named: rest.filter((entity) => endsOf(chosen).includes(entity)),
    seed: [...first].sort((a, b) => a - b),
  };
  return { edges, nodes };
}

function makePicture(state, onPick) {
  const [title, labels, paths] = [s("title"), s("g"), {}];
  const size = { width: "100%", height: state.height };
  const frame = { ...size, viewBox: `0 0 1000 ${state.height}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const [inside, hits] = [s("svg", frame), s("svg", frame)];
  const headings = state.bands.map(([name, y]) => s("text", { class: "muted", y }, name));
  const svg = s("svg", { class: "graph", role: "img", ...size }, title, inside, ...headings, labels, hits);

  /** Names and places in the context, the most telling first, each where it covers no other. */
  const write = (asked, { graph, context }, { gold, cut, context: chosen }) => {
    const width = svg.clientWidth || 320;
    const taken = state.bands.map(([, y]) => [0, y - 11, 90, y + 3]);
    const written = [];
    const put = (text, kind, [x, y]) => {
      const half = text.length * 3.5;
      const center = Math.min(Math.max((x * width) / 1000, half), width - half);
      const [left, top, right, bottom] = [center - half, y - 11, center + half, y + 3];
      if (top < 0 || taken.some((box) => box[0] < right && left < box[2] && box[1] < bottom && top < box[3])) return false;
      taken.push([left, top, right, bottom]);
      return written.push(s("text", { class: kind, x: `${(100 * center) / width}%`, y, "text-anchor": "middle" }, text));
    };
    const onEdge = (text, { head, tail }) => {
      const [[x, y], [x2, y2]] = [asked.places[head], asked.places[tail]];
      [0.5, 0.38, 0.62, 0.28, 0.72].some((t) => put(text, "mark", [x + t * (x2 - x), y + t * (y2 - y) + 4]));
    };
    const name = (entity) => {
      const [[x, y], whole] = [asked.places[entity], state.entities[entity]];
      const text = whole.length > 24 ? `${whole.slice(0, 23)}…` : whole;
      [-8, 17].some((down) => put(text, "label", [x, y + down]));
    };
    const place = ({ chunk }) => context.indexOf(chunk) + 1;
    for (const each of cut) onEdge("×", each);
    for (const each of gold) if (graph.triples.includes(each)) onEdge(place(each) ? `★${place(each)}` : "☆", each);
    const golden = endsOf(gold);
    golden.forEach(name);
    for (const each of chosen) if (!gold.includes(each)) onEdge(`${place(each)}`, each);
    for (const entity of endsOf([...cut, ...chosen])) if (!golden.includes(entity)) name(entity);
    labels.replaceChildren(...written);
  };
  let again = () => {};
  new ResizeObserver(() => again()).observe(svg);

  const draw = (asked, now) => {
    const { edges, nodes } = drawn(asked, now);
    const at = (entity) => asked.places[entity].join(" ");
    const line = ({ head, tail }) => `M${at(head)}L${at(tail)}`;
    const dot = (entity) => `M${at(entity)}h0`;
    for (const [kind, which] of [...Object.entries(edges), ...Object.entries(nodes)]) {
      paths[kind] ??= inside.appendChild(s("path", { class: kind }));
      fill(paths[kind], { d: which.map(kind in edges ? line : dot).join("") });
    }
    // A shortcut for pointers; the list of facts does the same for everyone.
    const wide = [...edges.reached, ...edges.tree, ...edges.context, ...edges.cut].map((triple) => {
      const hit = s("path", { class: "hit", d: line(triple) }, s("title", {}, inWords(state, triple)));
      hit.addEventListener("click", () => onPick(triple.number));
      return hit;
    });
    hits.replaceChildren(...wide);
    const { hops, seeds, triples } = now.shown;
    const both = now.context.filter((chunk) => asked.gold.includes(chunk)).length;
    title.textContent =
      `${asked.text} ${count(seeds.length, "seed")}, ${count(triples.length, "fact")} within ${count(hops, "hop")}; ` +
      `${both} of ${asked.gold.length} gold sentences are among the ${now.context.length} of the context`;
    again = () => write(asked, now, edges);
    again();
  };
  return { svg, draw };
}

// Below it: what each method found, the context in order, and the facts that can be cut

const LEGEND = {
  seed: "entity of a seed", context: "fact of the context, with its place", tree: "rest of the trees", reached: "reached",
  gold: "★ gold: needed for the answer (☆ not in the context)", cut: "× cut",
};

function makeLegend() {
  const entry = ([kind, text]) => h("span", {}, h("span", { class: `kg-key ${kind}`, "aria-hidden": "true" }), text);
  return h("p", { class: "kg-legend" }, ...Object.entries(LEGEND).map(entry));
}

function makeTable(state) {
  const head = ["Method", `Places 1 to ${state.most_k}`, "Precision", "Recall", "F1"];
  const [body, names] = [h("tbody"), head.map((text) => h("th", { scope: "col" }, text))];
  const table = h("table", { class: "kg-methods" }, h("thead", {}, h("tr", {}, ...names)), body);
  const draw = ({ gold }, { ranked, shown }) => {
    const row = ([method, name]) => {
      const order = ranked[method].slice(0, state.most_k);
      const places = order.map((chunk, i) => (gold.includes(chunk) ? i + 1 : 0)).filter(Boolean);
      const place = (chunk, i) => h("span", i < shown.k ? { class: "in" } : {}, gold.includes(chunk) ? "★" : "·");
      const strip = { class: "kg-places", role: "img", "aria-label": `gold at ${places.join(", ") || "no place"}` };
      const scores = Object.values(shown.scores[method]).map((value) => h("td", {}, value.toFixed(2)));
      const current = method === shown.method ? { "aria-current": "true" } : {};
      return h("tr", current, h("th", { scope: "row" }, name), h("td", {}, h("span", strip, ...order.map(place))), ...scores);
    };
    body.replaceChildren(...Object.entries(METHODS).map(row));
  };
  return { table, draw };
}

function makeContext(state) {
  const [heading, list, missed] = [h("p", { class: "kg-heading" }), h("ol"), h("ul")];
  const sentence = (chunk, mark, after) => {
    const [document, place, text] = state.chunks[chunk];
    const where = h("span", { class: "muted" }, ` ${state.documents[document]}, sentence ${place + 1}${after}`);
    return h("li", mark ? { class: "gold" } : {}, h("strong", {}, mark), text, where);
  };
  const draw = ({ gold }, { context, ranked, shown }) => {
    heading.textContent = `Context of ${count(context.length, "sentence")}, in order`;
    const seed = (chunk) => (shown.seeds.includes(chunk) ? " (seed)" : "");
    list.replaceChildren(...context.map((chunk) => sentence(chunk, gold.includes(chunk) ? "★ " : "", seed(chunk))));
    const why = (chunk) => {
      const place = ranked[shown.method].indexOf(chunk) + 1;
      if (place) return `: at place ${place}`;
      return shown.found.includes(chunk) ? ": reached, not chosen" : `: not reached with m = ${shown.hops}`;
    };
    const others = gold.filter((chunk) => !context.includes(chunk));
    missed.replaceChildren(...others.map((chunk) => sentence(chunk, "☆ missed: ", why(chunk))));
  };
  return { element: h("div", { class: "kg-context" }, heading, list, missed), draw };
}

function makeFacts(state, onPick, onReset) {
  const heading = h("p", { class: "kg-heading" }, "Its facts: press one to cut the edge");
  const [list, reset] = [h("ul"), h("button", { type: "button" }, "Restore all edges")];
  reset.addEventListener("click", onReset);
  let [made, order, entries] = ["", [], new Map()]; // entries stay where they are, and so does the keyboard
  const draw = ({ gold }, { context, graph, ranked, shown }) => {
    const key = [shown.question, shown.method, shown.hops].join();
    if (key !== made) [made, order, entries] = [key, ranked[shown.method], new Map()];
    const at = ({ chunk, number }) => 1e5 * (order.includes(chunk) ? order.indexOf(chunk) : order.length) + number;
    const wanted = graph.whole.filter(({ chunk, number }) => context.includes(chunk) || shown.cut.includes(number));
    const items = wanted.sort((a, b) => at(a) - at(b)).map((triple) => {
      const { chunk, number } = triple;
      if (!entries.has(number)) entries.set(number, h("li", {}, h("button", { type: "button" })));
      const mark = `${gold.includes(chunk) ? "★" : ""}${context.indexOf(chunk) + 1 || "–"} `;
      const isCut = shown.cut.includes(number);
      const button = fill(entries.get(number).firstChild, { "aria-pressed": isCut });
      button.onclick = () => onPick(number);
      button.replaceChildren(isCut ? "× cut: " : mark, h("span", {}, inWords(state, triple)));
      return entries.get(number);
    });
    for (const item of [...list.children]) if (!items.includes(item)) item.remove();
    items.forEach((item, i) => item === list.children[i] || list.insertBefore(item, list.children[i] ?? null));
    reset.disabled = !shown.cut.length;
  };
  return { element: h("div", { class: "kg-facts" }, heading, list, reset), draw };
}

const note = ({ num_seeds, pool }) =>
  `Expansion starts from ${num_seeds} seeds, as the corpus is small. Dense retrieval reads no edge: a cut changes ` +
  "nothing for it. Trees come by their heaviest edge, without a reranker. Growth reads the best " +
  `${pool} paths, and takes the nearness of words by embeddings where the package takes a language model’s likelihoods. ` +
  "The questions were picked because the methods differ on them; averages are in the benchmark.";

function render({ model, el }) {
  const state = model.get("state");
  const figure = el.closest("figure.explorable"); // none in a live Jupyter, where `el` is all there is
  const choice = { ...state.start };
  const questions = state.questions.map(({ similarities, own, coverage, ...rest }) => {
    return { ...rest, similarities: floats(similarities), own: floats(own), coverage: bytes(coverage) };
  });
  const change = (values) => {
    Object.assign(choice, values);
    update();
  };
  const pick = (number) => {
    const without = choice.cut.filter((each) => each !== number);
    change({ cut: without.length < choice.cut.length ? without : [...without, number] });
  };
  const [controls, picture, table] = [makeControls(state, change), makePicture(state, pick), makeTable(state)];
  const [context, facts] = [makeContext(state), makeFacts(state, pick, () => change({ cut: [] }))];

  function update() {
    const now = compute(state, questions[choice.question], choice);
    for (const part of [controls, picture, table, context, facts]) part.draw(questions[choice.question], now);
    (figure ?? el).dataset.computed = JSON.stringify(now.shown);
    model.set("computed", now.shown);
    model.save_changes();
  }

  const lists = h("div", { class: "kg-lists" }, context.element, facts.element);
  const about = h("p", { class: "kg-note" }, note(state));
  el.replaceChildren(...controls.elements, picture.svg, makeLegend(), table.table, lists, about);
  if (!figure) {
    const title = h("strong", {}, `${model.get("title")}.`);
    el.prepend(h("p", { class: "explorable-caption" }, title, ` ${model.get("description")}`));
  }
  update();
}

export default { render };
