// The explorer: one ES module, run as it is by the page (`boot`) and by the notebook's widget (`default.render`).
// It draws what `vlm_probe.explorer.look` wrote down (its documentation names the keys) and computes nothing but
// differences of two maps. Text comes in by textContent alone, whatever it says.

// --- what Python packed (explorer/packing.py) ------------------------------------------------------------------------

function bytes(text) {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

class Packed {
  constructor(given) {
    this.shape = given.shape;
    this.size = given.shape[given.shape.length - 1];
    this.low = new Float32Array(bytes(given.low).buffer);
    this.high = new Float32Array(bytes(given.high).buffer);
    this.data = bytes(given.data);
  }
  row(i) {
    const low = this.low[i], step = (this.high[i] - low) / 255, out = new Float64Array(this.size);
    for (let j = 0; j < this.size; j++) out[j] = low + this.data[i * this.size + j] * step;
    return out;
  }
  value(i, j) {
    return this.low[i] + (this.data[i * this.size + j] * (this.high[i] - this.low[i])) / 255;
  }
}

function whole(given) {
  const raw = bytes(given.data);
  return given.bits === 16 ? new Uint16Array(raw.buffer) : new Uint32Array(raw.buffer);
}

// A look with its arrays unpacked; what is missing stays null.
function opened(look) {
  const unpack = (part, names, numbers = []) => {
    if (!part) return null;
    const out = { ...part };
    for (const name of names) out[name] = new Packed(part[name]);
    for (const name of numbers) out[name] = whole(part[name]);
    return out;
  };
  const maps = {};
  for (const [name, map] of Object.entries(look.maps)) maps[name] = unpack(map, ["values"]);
  return {
    ...look,
    maps,
    attention: unpack(look.attention, ["mean", "each"]),
    norm: unpack(look.norm, ["values"]),
    lens: unpack(look.lens, ["probability"], ["words"]),
    nearest: unpack(look.nearest, ["score"], ["words"]),
    contexts: unpack(look.contexts, ["score", "turned"], ["words", "before", "bank_layers"]),
    patches: look.grid[0] * look.grid[1],
    // Without a known picture, patches are drawn as cells of one unit.
    edges: look.edges || {
      left: Array.from({ length: look.grid[1] }, (_, i) => i), right: Array.from({ length: look.grid[1] }, (_, i) => i + 1),
      top: Array.from({ length: look.grid[0] }, (_, i) => i), bottom: Array.from({ length: look.grid[0] }, (_, i) => i + 1),
    },
  };
}

// --- colours, numbers, words -----------------------------------------------------------------------------------------

// YlOrRd of figures/style.py: darker is more.
const HEAT = [[255, 247, 188], [254, 217, 118], [254, 178, 76], [253, 141, 60], [252, 78, 42], [227, 26, 28], [189, 0, 38], [128, 0, 38]];
const PLUS = [213, 94, 0], MINUS = [0, 114, 178]; // Okabe and Ito's vermilion and blue
const MOST_OPAQUE = 0.82;

function heat(share) {
  const at = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1), i = Math.min(Math.floor(at), HEAT.length - 2);
  const color = HEAT[i].map((c, k) => Math.round(c + (HEAT[i + 1][k] - c) * (at - i)));
  return `rgba(${color},${(MOST_OPAQUE * Math.min(1, 1.6 * Math.max(share, 0))).toFixed(3)})`;
}

function twoSided(share) {
  const alpha = MOST_OPAQUE * Math.min(Math.abs(share), 1);
  return `rgba(${share >= 0 ? PLUS : MINUS},${alpha.toFixed(3)})`;
}

function number(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1000 && size < 1e6) return String(Math.round(value));
  return size >= 1e6 || size < 0.001 ? value.toExponential(1) : value.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

// A value of a map or a curve, in its unit.
const inUnit = (value, measure) => (measure === "probability" ? value.toFixed(3) : number(value));

// A token with the spaces at its ends as marks, as in the figures.
function visible(token) {
  const core = token.trim(), marked = (part) => part.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
  if (!core) return marked(token) || "(empty)";
  const at = token.indexOf(core);
  return marked(token.slice(0, at)) + core + marked(token.slice(at + core.length));
}

const layerName = (layer) => (layer < 0 ? "input" : `layer ${layer}`);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// --- elements --------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
let serial = 0;
const fresh = (word) => `vpx-${word}-${++serial}`;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  // Strings become text nodes: never markup.
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function choice(label, options, value, change, attributes = {}) {
  const select = element("select", { ...attributes, onchange: () => change(select.value) });
  for (const [key, text] of options) select.append(element("option", { value: key }, text));
  select.value = String(value);
  return element("label", { class: "vpx-field" }, element("span", {}, label), select);
}

// --- what is looked at, and how it stands in an address --------------------------------------------------------------

const PANE = { token: 0, layer: 0, head: "mean", patch: 0, route: 0, size: 0, window: 0 };
const SHOW = { colour: "colours", contour: "contours", photo: "picture alone" };
const SCALES = { own: "each map its own", shared: "one for all layers and both sides" };
const MEASURES = { probability: "probability", lead: "lead (logits)" };

// Names of maps of a look, in the order of the list.
function mapsOf(look) {
  const names = Object.keys(look.maps);
  if (look.attention) names.push("attention");
  if (look.norm) names.push("norm");
  return names;
}

class State {
  constructor(looks) {
    this.looks = looks;
    this.map = mapsOf(looks[0])[0] || "";
    Object.assign(this, { show: "colour", scale: "own", measure: "probability", linked: true, difference: true });
    this.panes = [this.pane(0)];
    if (looks.length > 1) this.panes.push({ ...this.pane(1), ...this.together(1) });
  }
  // What another side of the same patches is shown with at first, where both are picked together.
  together(look) {
    const [{ look: first, patch }] = this.panes;
    return this.linked && sameGrid(this.looks[first], this.looks[look]) ? { patch } : {};
  }
  pane(look) {
    const own = this.looks[look], pane = { ...PANE, ...this.first(look), look, layer: own.depth - 1 };
    const [values] = valuesOf(own, this.map, pane);
    if (values) pane.patch = values.indexOf(Math.max(...values));
    return pane;
  }
  // Of the knockout: the first size of windows, and the last route, which is all that the picture sends.
  first(look) {
    const { knockout } = this.looks[look];
    return knockout ? { size: knockout.sizes[0].size, route: knockout.routes.length - 1 } : { size: 0, route: 0 };
  }
  // What does not fit the look is brought back into it.
  tidy() {
    const names = [...new Set(this.panes.flatMap((pane) => mapsOf(this.looks[pane.look])))];
    if (!names.includes(this.map)) this.map = names[0] || "";
    for (const pane of this.panes) {
      const look = this.looks[pane.look];
      pane.token = clamp(pane.token, 0, look.tokens.length - 1);
      pane.layer = clamp(pane.layer, this.map === "norm" ? -1 : 0, look.depth - 1);
      pane.patch = clamp(pane.patch, 0, look.patches - 1);
      const heads = look.attention && pane.token < look.attention.each.shape[0] ? look.attention.heads : 0;
      if (pane.head !== "mean" && !(Number(pane.head) < heads)) pane.head = "mean";
      if (look.knockout) {
        pane.route = clamp(pane.route, 0, look.knockout.routes.length - 1);
        const sizes = look.knockout.sizes, size = sizes.find((one) => one.size === pane.size) || sizes[0];
        pane.size = size.size;
        pane.window = clamp(pane.window, 0, size.first.length - 1);
      }
    }
  }
  text() {
    const out = [];
    this.panes.forEach((pane, i) => {
      const tail = i ? "2" : "";
      for (const key of ["look", "token", "layer", "head", "patch", "route", "size", "window"]) {
        const first = { head: "mean", window: 0, ...this.first(pane.look), ...(i ? {} : { look: 0 }) };
        // Picked together, the other side need not be told.
        const implied = i && this.linked && ["token", "layer", "patch"].includes(key) && pane[key] === this.panes[0][key];
        if (first[key] !== pane[key] && !implied) out.push([key + tail, pane[key]]);
      }
      if (!i) out.push(["map", this.map]);
    });
    if (this.looks.length > 1 && this.panes.length < 2) out.push(["look2", "none"]);
    const rest = { show: "colour", scale: "own", measure: "probability" };
    for (const [key, quiet] of Object.entries(rest)) if (this[key] !== quiet) out.push([key, this[key]]);
    if (!this.linked) out.push(["linked", 0]);
    if (!this.difference) out.push(["difference", 0]);
    return out;
  }
  // Reads what `text` gave, or a part of it; what is not said, or is no number, stays.
  read(given) {
    const at = (key, low, high) => {
      const value = given.get(key);
      return value !== null && /^-?\d+$/.test(value) ? clamp(Number(value), low, high) : null;
    };
    const last = this.looks.length - 1;
    if (given.get("look2") === "none") this.panes.length = 1;
    else if (at("look2", 0, last) !== null && this.panes.length < 2) {
      const look = at("look2", 0, last);
      this.panes.push({ ...this.pane(look), ...this.together(look) });
    }
    if (given.has("map")) this.map = given.get("map");
    for (const [key, known] of [["show", SHOW], ["scale", SCALES], ["measure", MEASURES]]) {
      if (Object.hasOwn(known, given.get(key) ?? "")) this[key] = given.get(key);
    }
    for (const key of ["linked", "difference"]) if (given.has(key)) this[key] = given.get(key) !== "0";
    this.panes.forEach((pane, i) => {
      const tail = i ? "2" : "";
      const look = at("look" + tail, 0, last);
      if (look !== null && look !== pane.look) Object.assign(pane, this.pane(look));
      for (const key of ["token", "layer", "patch", "route", "size", "window"]) {
        const value = at(key + tail, -1, 1e9);
        if (value !== null) pane[key] = value;
        // A link that names one side means both, where they go together.
        else if (i && this.linked && ["token", "layer", "patch"].includes(key) && at(key, -1, 1e9) !== null) pane[key] = at(key, -1, 1e9);
      }
      const head = given.get("head" + tail);
      if (head !== null) pane.head = /^\d+$/.test(head) ? Number(head) : "mean";
    });
    this.tidy();
  }
}

// --- maps ------------------------------------------------------------------------------------------------------------

// The values of a map for a pane, and what is said of them; [null, why] where there is none.
function valuesOf(look, map, pane) {
  const token = look.tokens[pane.token];
  if (map === "attention") {
    const part = look.attention;
    if (!part) return [null, look.missing.attention || "no attention"];
    const layer = part.layers.indexOf(pane.layer);
    if (layer < 0) return [null, `attention of ${layerName(pane.layer)} was not captured`];
    const each = pane.head !== "mean" && pane.token < part.each.shape[0];
    const row = pane.token * part.layers.length + layer;
    const values = each ? part.each.row(row * part.heads + pane.head) : part.mean.row(row);
    const head = each ? `head ${pane.head}` : `mean of ${part.heads} heads`;
    return [values, { ...part, name: `Attention, ${layerName(pane.layer)}, ${head}`, signed: false }];
  }
  if (map === "norm") {
    const part = look.norm;
    if (!part) return [null, look.missing.norm || "no norms"];
    const layer = part.layers.indexOf(pane.layer);
    if (layer < 0) return [null, `the residual stream of ${layerName(pane.layer)} was not captured`];
    return [part.values.row(layer), { ...part, name: `Norm, ${layerName(pane.layer)}`, signed: false }];
  }
  const part = Object.hasOwn(look.maps, map) ? look.maps[map] : null;
  if (!part) return [null, look.missing[map] || look.missing.maps || "this look has no such map"];
  return [part.values.row(pane.token), { ...part, name: `${map[0].toUpperCase()}${map.slice(1)} for ${visible(token.text)}` }];
}

// The highest value of a map over all its layers, for one scale over them.
function highestOf(look, map, pane) {
  const part = map === "attention" ? look.attention : map === "norm" ? look.norm : Object.hasOwn(look.maps, map) && look.maps[map];
  if (!part) return 0;
  const highest = (packed, from, to, step = 1) => {
    let top = 0;
    for (let i = from; i < to; i += step) top = Math.max(top, Math.abs(packed.high[i]), Math.abs(packed.low[i]));
    return top;
  };
  if (map === "norm") return highest(part.values, 0, part.layers.length);
  if (map !== "attention") return highest(part.values, pane.token, pane.token + 1);
  const n = part.layers.length, first = pane.token * n;
  if (pane.head === "mean" || pane.token >= part.each.shape[0]) return highest(part.mean, first, first + n);
  return highest(part.each, first * part.heads + pane.head, (first + n) * part.heads, part.heads);
}

const sameGrid = (a, b) => a.grid[0] === b.grid[0] && a.grid[1] === b.grid[1];

// --- a picture with its patches --------------------------------------------------------------------------------------

class Stage {
  // on: {pick(patch), hover(patch or null), page(step of layers)}
  constructor(look, label, hint, on) {
    this.look = look;
    this.on = on;
    const { left, right, top, bottom } = look.edges, [rows, columns] = look.grid;
    const image = look.image, width = image ? image.width : columns, height = image ? image.height : rows;
    // The picture and all patches, those of padding too.
    const x = Math.min(0, ...left), y = Math.min(0, ...top);
    const box = [x, y, Math.max(width, ...right) - x, Math.max(height, ...bottom) - y];
    this.svg = drawn("svg", { viewBox: box.join(" "), class: "vpx-picture", tabindex: 0, role: "application" });
    this.svg.setAttribute("aria-roledescription", "map of patches");
    this.svg.setAttribute("aria-label", label);
    this.svg.setAttribute("aria-describedby", hint);
    this.svg.style.setProperty("--ratio", String(box[2] / box[3]));
    this.svg.append(drawn("rect", { x: box[0], y: box[1], width: box[2], height: box[3], class: "vpx-padding" }));
    if (image) {
      this.photo = drawn("image", { x: 0, y: 0, width, height, preserveAspectRatio: "none", href: image.uri });
      if (image.sharp) this.photo.classList.add("vpx-sharp");
      this.svg.append(this.photo);
    }
    this.pale = drawn("rect", { x: 0, y: 0, width, height, class: "vpx-pale" });
    this.cells = drawn("g", { class: "vpx-cells" });
    this.rects = [];
    for (let i = 0; i < rows * columns; i++) {
      const [l, t, r, b] = this.box(i);
      const rect = drawn("rect", { x: l, y: t, width: r - l, height: b - t, "data-patch": i });
      this.rects.push(rect);
      this.cells.append(rect);
    }
    this.lines = drawn("g", { class: "vpx-lines" });
    this.sinks = drawn("g", { class: "vpx-sinks" });
    this.marks = drawn("g", { class: "vpx-marks" });
    this.svg.append(this.pale, this.cells, this.lines, this.sinks, this.marks);
    const at = (event) => (event.target.dataset && event.target.dataset.patch !== undefined ? Number(event.target.dataset.patch) : null);
    this.svg.addEventListener("pointermove", (event) => on.hover(at(event)));
    this.svg.addEventListener("pointerleave", () => on.hover(null));
    this.svg.addEventListener("click", (event) => at(event) !== null && on.pick(at(event)));
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }
  box(i) {
    const { left, right, top, bottom } = this.look.edges, columns = this.look.grid[1];
    const row = Math.floor(i / columns), column = i % columns;
    return [left[column], top[row], right[column], bottom[row]];
  }
  key(event) {
    if (event.altKey || event.metaKey) return;
    const [rows, columns] = this.look.grid, row = Math.floor(this.patch / columns), column = this.patch % columns;
    const to = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: event.ctrlKey ? [0, 0] : [row, 0], End: event.ctrlKey ? [rows - 1, columns - 1] : [row, columns - 1],
    }[event.key];
    if (to) this.on.pick(clamp(to[0], 0, rows - 1) * columns + clamp(to[1], 0, columns - 1));
    else if (event.key === "PageUp" || event.key === "PageDown") this.on.page(event.key === "PageUp" ? 1 : -1);
    else return;
    event.preventDefault();
  }
  // scale: what is drawn strongest; signed: both signs.
  paint(values, scale, signed, show, sinks) {
    const top = scale || 1, coloured = show === "colour" && values;
    this.pale.style.display = coloured ? "" : "none";
    this.rects.forEach((rect, i) => {
      const share = values ? values[i] / top : 0;
      rect.setAttribute("fill", coloured ? (signed ? twoSided(share) : heat(share)) : "transparent");
    });
    this.lines.replaceChildren();
    if (show === "contour" && values) {
      for (const level of [0.25, 0.5, 0.75]) {
        for (const sign of signed ? [1, -1] : [1]) {
          const path = this.contour(values, sign, level * top);
          const color = signed ? `rgb(${sign > 0 ? PLUS : MINUS})` : `rgb(${HEAT[Math.round(level * 8) + 1]})`;
          this.lines.append(drawn("path", { d: path, class: "vpx-casing", "stroke-width": 2 + 4 * level }));
          this.lines.append(drawn("path", { d: path, stroke: color, "stroke-width": 1 + 3 * level }));
        }
      }
    }
    this.sinks.replaceChildren();
    for (const i of sinks) {
      const [l, t, r, b] = this.box(i), size = Math.min(r - l, b - t);
      const place = { cx: (l + r) / 2, cy: (t + b) / 2, r: size * 0.2 };
      this.sinks.append(drawn("circle", { ...place, class: "vpx-casing" }), drawn("circle", place));
    }
  }
  // Borders of the patches at or beyond a level, along their edges: the object under them stays to be seen.
  contour(values, sign, level) {
    const [rows, columns] = this.look.grid, high = (r, c) =>
      r >= 0 && c >= 0 && r < rows && c < columns && sign * values[r * columns + c] >= level;
    let path = "";
    for (let i = 0; i < rows * columns; i++) {
      const r = Math.floor(i / columns), c = i % columns, [x0, y0, x1, y1] = this.box(i);
      if (!high(r, c)) continue;
      if (!high(r - 1, c)) path += `M${x0} ${y0}H${x1}`;
      if (!high(r + 1, c)) path += `M${x0} ${y1}H${x1}`;
      if (!high(r, c - 1)) path += `M${x0} ${y0}V${y1}`;
      if (!high(r, c + 1)) path += `M${x1} ${y0}V${y1}`;
    }
    return path;
  }
  mark(patch, hovered) {
    this.patch = patch;
    this.marks.replaceChildren();
    for (const [i, name] of [[hovered, "vpx-hovered"], [patch, "vpx-picked"]]) {
      if (i === null || i === undefined || i >= this.look.patches) continue;
      const [l, t, r, b] = this.box(i), place = { x: l, y: t, width: r - l, height: b - t };
      this.marks.append(drawn("rect", { ...place, class: `${name} vpx-casing` }), drawn("rect", { ...place, class: name }));
    }
  }
}

function legend(signed, scale, units, ends) {
  const stops = Array.from({ length: 9 }, (_, i) => (signed ? twoSided(i / 4 - 1) : heat(i / 8)));
  const bar = element("span", { class: "vpx-bar" });
  bar.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")}), linear-gradient(#fff, #fff)`;
  const [low, high] = ends || [signed ? number(-scale) : "0", number(scale)];
  return [element("span", {}, low), bar, element("span", {}, high), element("span", { class: "vpx-soft" }, units)];
}

// --- what is known of a patch ----------------------------------------------------------------------------------------

function thumbnail(look, stage, patch) {
  const [l, t, r, b] = stage.box(patch), width = r - l, height = b - t, image = look.image;
  const svg = drawn("svg", { class: "vpx-thumb", viewBox: [l - width, t - height, 3 * width, 3 * height].join(" "), "aria-hidden": "true" });
  svg.append(drawn("rect", { x: l - width, y: t - height, width: 3 * width, height: 3 * height, class: "vpx-padding" }));
  const photo = drawn("image", { x: 0, y: 0, width: image.width, height: image.height, preserveAspectRatio: "none", href: image.uri });
  if (image.sharp) photo.classList.add("vpx-sharp");
  const place = { x: l, y: t, width, height };
  svg.append(photo, drawn("rect", { ...place, class: "vpx-picked vpx-casing" }), drawn("rect", { ...place, class: "vpx-picked" }));
  return svg;
}

function pixelsOf(look, stage, patch) {
  const [l, t, r, b] = stage.box(patch), { width, height } = look.image;
  const round = (value) => String(Math.round(value * 10) / 10);
  if (r <= 0 || b <= 0 || l >= width || t >= height) return "padding: it shows nothing of the picture";
  const beyond = l < -0.01 || t < -0.01 || r > width + 0.01 || b > height + 0.01;
  return `x ${round(l)} to ${round(r)}, y ${round(t)} to ${round(b)}${beyond ? ", partly padding" : ""}`;
}

function sinkText(look, patch) {
  if (!look.sinks) return look.missing.sinks || "unknown";
  const own = look.sinks.patches.filter((one) => one.patch === patch);
  if (!own.length) return "no";
  return `yes, in layer ${own.map((one) => `${one.layer} (${number(one.times)} times an even share)`).join(", ")}`;
}

function lensWords(look, layer, patch) {
  const { lens, words } = look, at = lens.layers.indexOf(layer);
  if (at < 0) return [];
  return Array.from({ length: lens.k }, (_, rank) => {
    const j = patch * lens.k + rank;
    return [words[lens.words[at * lens.probability.size + j]], lens.probability.value(at, j)];
  });
}

// Words stand apart for who copies or hears them, too.
const word = (text, beside) => element("span", { class: "vpx-word" }, element("b", {}, visible(text)), ` ${beside}`);
const spaced = (words) => words.flatMap((one) => [one, " "]);
const missing = (what, why) => element("p", { class: "vpx-missing" }, `${what}: not here. ${why[0].toUpperCase()}${why.slice(1)}.`);

function details(look, stage, pane, patch, map, preview) {
  const columns = look.grid[1], row = Math.floor(patch / columns), out = [];
  const [values, about] = valuesOf(look, map, pane);
  const facts = element("dl", { class: "vpx-facts" });
  const fact = (name, text) => facts.append(element("dt", {}, name), element("dd", {}, text));
  if (values) fact("Value", `${number(values[patch])}${about.units ? ` (${about.units})` : ""}`);
  if (look.norm) {
    const layer = look.norm.layers.indexOf(pane.layer);
    if (layer >= 0) fact("Norm", `${number(look.norm.values.value(layer, patch))} ${pane.layer < 0 ? "as it enters layer 0" : `behind layer ${pane.layer}`}`);
  } else fact("Norm", look.missing.norm || "unknown");
  fact("Sink", sinkText(look, patch));
  if (look.image) fact("Pixels", pixelsOf(look, stage, patch));
  const title = `Patch ${patch}: row ${row}, column ${patch % columns}${preview ? " (pointed at)" : ""}`;
  out.push(element("div", { class: "vpx-head" }, look.image ? thumbnail(look, stage, patch) : null,
    element("div", {}, element("h4", {}, title), facts)));

  if (look.lens) {
    const list = element("table", { class: "vpx-table" });
    for (const layer of look.lens.layers) {
      const cells = lensWords(look, layer, patch).map(([text, p]) => word(text, p.toFixed(2)));
      list.append(element("tr", { class: layer === pane.layer ? "vpx-now" : null },
        element("th", { scope: "row" }, String(layer)), element("td", {}, ...spaced(cells))));
    }
    const box = element("div", { class: "vpx-scroll", tabindex: 0, role: "region", "aria-label": "Lens words by layer" }, list);
    out.push(element("h5", {}, "Logit lens by layer", element("span", { class: "vpx-soft" }, " word, probability")), box);
  } else out.push(missing("Lens words", look.missing.lens));

  if (look.nearest) {
    const k = look.nearest.k, near = Array.from({ length: k }, (_, rank) =>
      word(look.words[look.nearest.words[patch * k + rank]], look.nearest.score.value(0, patch * k + rank).toFixed(2)));
    out.push(element("h5", {}, "Nearest tokens to what the connector gives", element("span", { class: "vpx-soft" }, ` ${look.nearest.units}`)),
      element("p", {}, ...spaced(near)));
  } else out.push(missing("Nearest tokens", look.missing.nearest));

  out.push(...neighbours(look, pane, patch));
  return out;
}

function neighbours(look, pane, patch) {
  const part = look.contexts;
  if (!part) return [missing("Contextual neighbours", look.missing.contexts)];
  const gaps = part.layers.map((layer) => Math.abs(layer - pane.layer)), at = gaps.indexOf(Math.min(...gaps));
  const list = element("ul", { class: "vpx-contexts" });
  for (let rank = 0; rank < part.k; rank++) {
    const j = patch * part.k + rank, i = at * part.score.size + j;
    list.append(element("li", {}, element("span", { class: "vpx-soft" }, look.words[part.before[i]]), element("b", {}, look.words[part.words[i]]),
      element("span", { class: "vpx-soft" }, ` ${part.score.value(at, j).toFixed(2)}, text ${layerName(part.bank_layers[i] - 1)}`)));
  }
  const said = ` cosine at ${layerName(part.layers[at])}; control, turned at random: ${part.turned.value(at, patch).toFixed(2)}`;
  return [element("h5", {}, "Contextual neighbours", element("span", { class: "vpx-soft" }, said)), list];
}

// How a look was made: prompt, sinks that are no patches, versions.
function made(look) {
  const list = element("dl", { class: "vpx-facts" }), sinks = look.sinks;
  const fact = (name, text) => text && list.append(element("dt", {}, name), element("dd", {}, text));
  fact("prompt", look.prompt);
  if (sinks) {
    const texts = sinks.texts.map((one) => `${visible(one.token)} in layer ${one.layer} (${number(one.times)} times)`);
    fact("sinks in the text", texts.join(", ") || "none");
    fact("of sinks", sinks.caveat);
  }
  for (const part of [look.lens, look.contexts]) if (part) fact(part.title, part.citation);
  for (const [name, text] of Object.entries(look.provenance)) fact(name.replace(/^versions\./, ""), text);
  return element("details", { class: "vpx-made" }, element("summary", {}, "How this was made"), list);
}

// --- the knockout's curve --------------------------------------------------------------------------------------------

function windowText(size, i) {
  return size.first[i] === size.last[i] ? `layer ${size.first[i]}` : `layers ${size.first[i]} to ${size.last[i]}`;
}

function knockoutText(look, pane, measure) {
  const { knockout } = look, size = knockout.sizes.find((one) => one.size === pane.size), values = size[measure];
  const cut = values.cut[pane.route][pane.window], control = values.control[pane.route][pane.window];
  const unit = measure === "probability" ? "probability" : "lead (logits)", said = (value) => inUnit(value, measure);
  const range = control.length > 1 ? `${said(Math.min(...control))} to ${said(Math.max(...control))} in ${control.length} draws` : said(control[0]);
  return `${knockout.routes[pane.route]} cut in ${windowText(size, pane.window)} (${size.edges[pane.route][pane.window]} edges): `
    + `${unit} of ${visible(knockout.token)} ${said(values.before)} → ${said(cut)}; as many random edges: ${range}.`;
}

function curve(look, pane, measure, width, pick) {
  const { knockout } = look, size = knockout.sizes.find((one) => one.size === pane.size), values = size[measure];
  const cut = values.cut[pane.route], control = values.control[pane.route], n = cut.length;
  // All layers together, the last window, stands apart on the right.
  const apart = size.last[n - 1] - size.first[n - 1] + 1 !== size.size || n > 1;
  const height = 190, left = 58, right = 14, top = 10, bottom = 40, gap = apart ? 54 : 0;
  const all = [values.before, ...cut, ...control.flat()];
  let low = measure === "probability" ? 0 : Math.min(...all), high = measure === "probability" ? 1 : Math.max(...all);
  if (high - low < 1e-9) [low, high] = [low - 1, high + 1];
  const inner = width - left - right - gap, depth = knockout.depth;
  const layerAt = (layer) => left + ((layer + 0.5) / depth) * inner;
  const middle = (i) => (apart && i === n - 1 ? width - right - gap / 2 + 8 : layerAt((size.first[i] + size.last[i]) / 2));
  const level = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "vpx-curve", role: "img", "aria-label": knockoutText(look, pane, measure) });
  const text = (x, y, said, more = {}) => {
    const made = drawn("text", { x, y, ...more });
    made.textContent = said;
    svg.append(made);
  };
  const line = (x1, y1, x2, y2, name) => svg.append(drawn("line", { x1, y1, x2, y2, class: name }));

  const first = size.first[pane.window], last = size.last[pane.window];
  const band = apart && pane.window === n - 1 ? [middle(n - 1) - 14, 28] : [layerAt(first - 0.5), ((last - first + 1) / depth) * inner];
  svg.append(drawn("rect", { x: band[0], y: top, width: band[1], height: height - top - bottom, class: "vpx-window" }));
  for (const share of [0, 0.5, 1]) {
    const value = low + share * (high - low);
    line(left, level(value), width - right, level(value), "vpx-grid");
    text(left - 6, level(value) + 4, number(value), { "text-anchor": "end" });
  }
  const every = Math.ceil(depth / Math.max(2, Math.floor(inner / 34)));
  for (let layer = 0; layer < depth; layer += every) text(layerAt(layer), height - bottom + 15, String(layer), { "text-anchor": "middle" });
  text(left + inner / 2, height - 6, "layer (windows at their middle)", { "text-anchor": "middle", class: "vpx-axis" });
  if (apart) text(middle(n - 1), height - bottom + 15, "all", { "text-anchor": "middle" });
  text(12, top + (height - top - bottom) / 2, measure === "probability" ? "probability" : "lead, logits",
    { "text-anchor": "middle", class: "vpx-axis", transform: `rotate(-90 12 ${top + (height - top - bottom) / 2})` });
  line(left, level(values.before), width - right, level(values.before), "vpx-before");

  const sliding = apart ? n - 1 : n, points = (list) => list.slice(0, sliding).map((value, i) => `${middle(i)} ${level(value)}`);
  const tops = control.map((draws) => Math.max(...draws)), lows = control.map((draws) => Math.min(...draws));
  svg.append(drawn("polygon", { points: [...points(tops), ...points(lows).reverse()].join(" "), class: "vpx-range" }));
  for (let draw = 0; draw < control[0].length; draw++) {
    svg.append(drawn("polyline", { points: points(control.map((draws) => draws[draw])).join(" "), class: "vpx-control" }));
  }
  svg.append(drawn("polyline", { points: points(cut).join(" "), class: "vpx-cut" }));
  for (let i = 0; i < n; i++) {
    for (const value of control[i]) svg.append(drawn("rect", { x: middle(i) - 2.5, y: level(value) - 2.5, width: 5, height: 5, class: "vpx-control-dot" }));
    svg.append(drawn("circle", { cx: middle(i), cy: level(cut[i]), r: i === pane.window ? 6 : 4, class: "vpx-cut-dot" }));
    const target = drawn("rect", { x: middle(i) - 12, y: top, width: 24, height: height - top - bottom, fill: "transparent", "data-window": i });
    target.addEventListener("click", () => pick(i));
    svg.append(target);
  }
  return svg;
}

// --- one side --------------------------------------------------------------------------------------------------------

class Pane {
  constructor(app, index) {
    this.app = app;
    this.index = index;
    const look = this.look, set = (key) => (value) => app.set(index, key, value);
    const side = app.state.panes.length > 1 ? ["Left", "Right"][index] : "Shown";
    this.root = element("section", { class: "vpx-pane", "aria-label": `${side}: ${look.model} on ${look.name}` });
    const head = element("header", {});
    if (app.looks.length > 1) {
      const own = app.looks.map((one, i) => [i, `${one.model} · ${one.name}`]);
      head.append(choice(side, own, this.state.look, (value) => app.choose(index, Number(value)), { "data-focus": `look${index}` }));
    } else head.append(element("p", { class: "vpx-soft" }, `${look.model} · ${look.name}`));
    if (look.question) head.append(element("p", { class: "vpx-question" }, look.question));
    head.append(element("p", { class: "vpx-answer" }, "Answer: ", element("b", {}, look.answer || look.tokens.map((one) => visible(one.text)).join(""))));
    for (const note of look.notes) head.append(element("p", { class: "vpx-note" }, note));

    this.tokens = look.tokens.map((token, i) =>
      element("button", { type: "button", "aria-pressed": "false", onclick: () => set("token")(i) },
        visible(token.text), element("small", {}, token.probability.toFixed(3))));
    const strip = element("div", { class: "vpx-tokens", role: "group", "aria-label": "Tokens of the answer" }, ...this.tokens);

    this.layer = element("input", { type: "range", step: 1, max: look.depth - 1, oninput: () => set("layer")(Number(this.layer.value)) });
    this.layerSaid = element("b", { class: "vpx-said" });
    this.layerNote = element("span", {});
    const layer = element("label", { class: "vpx-field vpx-grow" }, element("span", {}, "Layer ", this.layerSaid, this.layerNote), this.layer);
    const heads = look.attention ? Array.from({ length: look.attention.heads }, (_, i) => [i, `head ${i}`]) : [];
    this.headField = choice("Head", [["mean", "mean of heads"], ...heads], "mean", (value) => set("head")(value === "mean" ? value : Number(value)));
    this.head = this.headField.querySelector("select");
    const controls = element("div", { class: "vpx-controls" }, layer, this.headField);

    this.stage = new Stage(look, `Patches of ${look.name}, ${look.grid[0]} rows by ${look.grid[1]} columns`, app.hint, {
      pick: (patch) => app.set(index, "patch", patch),
      hover: (patch) => app.hover(index, patch),
      page: (step) => app.set(index, "layer", this.state.layer + step),
    });
    this.title = element("p", { class: "vpx-title" });
    this.legend = element("div", { class: "vpx-legend" });
    this.cite = element("p", { class: "vpx-soft" });
    const figure = element("div", { class: "vpx-figure" }, this.title, this.stage.svg, this.legend, this.cite);
    this.details = element("div", { class: "vpx-details" });
    this.knockout = element("div", { class: "vpx-knockout" });
    this.root.append(head, element("div", { class: "vpx-lead" }, strip, controls), element("div", { class: "vpx-body" }, figure, this.details), this.knockout);
    this.buildKnockout();
    this.root.append(made(look));
  }
  get state() { return this.app.state.panes[this.index]; }
  get look() { return this.app.looks[this.app.state.panes[this.index].look]; }

  buildKnockout() {
    const { app, index, look } = this, part = look.knockout;
    this.knockout.append(element("h4", {}, "By which route does the picture reach the answer?"));
    if (!part) {
      this.knockout.append(missing("Knockout curve", look.missing.knockout));
      return;
    }
    const set = (key) => (value) => app.set(index, key, Number(value));
    this.route = choice("Route cut", part.routes.map((name, i) => [i, name]), this.state.route, set("route"));
    this.size = choice("Window", part.sizes.map((one) => [one.size, one.size === 1 ? "1 layer" : `${one.size} layers`]), this.state.size, set("size"));
    this.measure = choice("Shown", Object.entries(MEASURES), app.state.measure, (value) => app.change("measure", value));
    this.window = element("input", { type: "range", min: 0, step: 1, "aria-label": "Window of layers", oninput: () => set("window")(this.window.value) });
    this.windowSaid = element("b", { class: "vpx-said" });
    const slider = element("label", { class: "vpx-field vpx-grow" }, element("span", {}, "At ", this.windowSaid), this.window);
    this.chart = element("div", { class: "vpx-chart" });
    this.chartSaid = element("p", {});
    const key = element("p", { class: "vpx-key" }, element("span", { class: "vpx-key-cut" }, "route cut"), element("span", { class: "vpx-key-control" }, "as many random edges"),
      element("span", { class: "vpx-key-before" }, "nothing cut"));
    const said = `One item (n = 1), first answer token; control: ${part.draws} ${part.draws === 1 ? "draw" : "draws, their range shaded"}. Attention knockout, ${part.citation}.`;
    this.knockout.append(element("div", { class: "vpx-controls" }, this.route, this.size, this.measure, slider), this.chart, key, this.chartSaid, element("p", { class: "vpx-soft" }, said));
    if (typeof ResizeObserver !== "undefined") {
      this.watch = new ResizeObserver(() => this.drawCurve());
      this.watch.observe(this.chart);
    }
  }
  drawCurve() {
    const width = Math.round(this.chart.clientWidth);
    if (!this.look.knockout || width < 40) return;
    this.chart.replaceChildren(curve(this.look, this.state, this.app.state.measure, Math.min(width, 860), (i) => this.app.set(this.index, "window", i)));
  }
  update() {
    const { app, look, state } = this, map = app.state.map;
    this.tokens.forEach((button, i) => button.setAttribute("aria-pressed", String(i === state.token)));
    this.layer.min = map === "norm" ? -1 : 0;
    this.layer.value = state.layer;
    this.layer.setAttribute("aria-valuetext", layerName(state.layer));
    this.layerSaid.textContent = state.layer < 0 ? "0's input" : String(state.layer);
    this.layerNote.textContent = ` of 0 to ${look.depth - 1}${["attention", "norm"].includes(map) ? "" : ", for words and norm: this map has none"}`;
    this.headField.hidden = map !== "attention" || !look.attention;
    const kept = look.attention && state.token < look.attention.each.shape[0];
    this.head.disabled = !kept;
    this.head.title = kept || !look.attention ? "" : `single heads are kept of the first ${look.attention.each.shape[0]} tokens`;
    this.head.value = String(state.head);

    const [values, about] = valuesOf(look, map, state);
    const scale = values ? app.scaleOf(this.index, values) : 1;
    const sinks = look.sinks ? look.sinks.patches.filter((one) => one.layer === state.layer).map((one) => one.patch) : [];
    this.stage.paint(values, scale, values && about.signed, app.state.show, sinks);
    this.title.textContent = values ? about.name : `No map: ${about}.`;
    this.title.classList.toggle("vpx-missing", !values);
    this.legend.replaceChildren(...(values ? legend(about.signed, scale, about.units) : []));
    const rings = sinks.length ? ` Rings: attention sinks of layer ${state.layer}.` : "";
    this.cite.textContent = (values ? [about.method, about.citation].filter(Boolean).join("; ") + "." : "") + app.levels() + rings;
    if (look.knockout) {
      const size = look.knockout.sizes.find((one) => one.size === state.size);
      this.route.querySelector("select").value = String(state.route);
      this.size.querySelector("select").value = String(state.size);
      this.measure.querySelector("select").value = app.state.measure;
      this.window.max = size.first.length - 1;
      this.window.value = state.window;
      this.windowSaid.textContent = windowText(size, state.window);
      this.window.setAttribute("aria-valuetext", windowText(size, state.window));
      this.chartSaid.textContent = knockoutText(look, state, app.state.measure);
      this.drawCurve();
    }
    this.updatePatch();
  }
  updatePatch() {
    const hovered = this.app.hovered[this.index], patch = hovered === null ? this.state.patch : hovered;
    this.stage.mark(this.state.patch, hovered);
    // Who scrolled through the words of one patch reads on at the same place in the next.
    const at = this.layerShown === this.state.layer ? this.details.querySelector(".vpx-scroll")?.scrollTop : null;
    const focused = this.details.contains(document.activeElement);
    this.details.replaceChildren(...details(this.look, this.stage, this.state, patch, this.app.state.map, hovered !== null && hovered !== this.state.patch));
    const box = this.details.querySelector(".vpx-scroll");
    const now = box?.querySelector(".vpx-now");
    if (box && typeof at === "number") box.scrollTop = at;
    else if (now) box.scrollTop = now.offsetTop - (box.clientHeight - now.offsetHeight) / 2;
    this.layerShown = this.state.layer;
    if (box && focused) box.focus({ preventScroll: true });
  }
  said() {
    const { look, state } = this, map = this.app.state.map, [values, about] = valuesOf(look, map, state);
    const columns = look.grid[1], words = look.lens ? lensWords(look, state.layer, state.patch).slice(0, 1) : [];
    return `Patch ${state.patch}, row ${Math.floor(state.patch / columns)}, column ${state.patch % columns}. `
      + (values ? `${about.name}: ${number(values[state.patch])}. ` : "") + `Sink: ${sinkText(look, state.patch)}.`
      + words.map(([text, p]) => ` Lens at ${layerName(state.layer)}: ${text.trim()}, ${p.toFixed(2)}.`).join("");
  }
}

// --- the difference of two sides -------------------------------------------------------------------------------------

class Difference {
  constructor(app) {
    this.app = app;
    const [left, right] = app.state.panes.map((pane) => app.looks[pane.look]);
    this.figure = element("div", { class: "vpx-body" });
    this.root = element("section", { class: "vpx-pane vpx-difference", "aria-label": "Difference: left less right" },
      element("header", {}, element("h4", {}, "Left less right")), element("div", { class: "vpx-lead" }), this.figure);
    this.look = left;
    const moved = JSON.stringify(left.edges) !== JSON.stringify(right.edges);
    this.why = sameGrid(left, right) ? "" : `the patches do not agree: ${left.grid.join(" x ")} and ${right.grid.join(" x ")}`;
    this.note = moved ? " Patch by patch, though the pictures' sizes differ." : "";
    this.title = element("p", { class: "vpx-title" });
    const box = element("div", { class: "vpx-figure" }, this.title);
    this.figure.append(box);
    if (this.why) return;
    this.stage = new Stage(left, `Difference of the maps, ${left.grid[0]} rows by ${left.grid[1]} columns`, app.hint, {
      pick: (patch) => app.set(0, "patch", patch),
      hover: (patch) => app.hover(0, patch),
      page: (step) => app.set(0, "layer", app.state.panes[0].layer + step),
    });
    this.legend = element("div", { class: "vpx-legend" });
    this.cite = element("p", { class: "vpx-soft" });
    this.value = element("p", { class: "vpx-value" });
    box.append(this.stage.svg, this.legend, this.cite, this.value);
  }
  update() {
    const { state, looks } = this.app;
    this.values = null;
    let why = this.why;
    if (!why) {
      const [[a, aboutA], [b, aboutB]] = state.panes.map((pane) => valuesOf(looks[pane.look], state.map, pane));
      if (!a || !b) why = a ? aboutB : aboutA;
      else {
        this.values = a.map((value, i) => value - b[i]);
        const scale = Math.max(...this.values.map(Math.abs)) || 1;
        this.stage.paint(this.values, scale, true, state.show, []);
        const other = aboutB.name[0].toLowerCase() + aboutB.name.slice(1);
        this.title.textContent = aboutA.name === aboutB.name ? aboutA.name : `${aboutA.name}, less ${other}`;
        this.legend.replaceChildren(...legend(true, scale, aboutA.units, [`right ${number(scale)}`, `left ${number(scale)}`]));
        this.cite.textContent = `Over the left picture. Orange: more on the left; blue: more on the right.${this.note}${this.app.levels()}`;
      }
    }
    this.title.classList.toggle("vpx-missing", Boolean(why));
    if (why) this.title.textContent = `No difference: ${why}.`;
    if (this.stage && why) this.stage.paint(null, 1, true, "photo", []);
    this.updatePatch();
  }
  updatePatch() {
    if (!this.stage) return;
    const { state, hovered } = this.app, patch = hovered[0] ?? state.panes[0].patch;
    this.stage.mark(state.panes[0].patch, hovered[0]);
    this.value.textContent = this.values ? `Patch ${patch}: ${this.values[patch] > 0 ? "+" : ""}${number(this.values[patch])}` : "";
  }
}

// --- all of it -------------------------------------------------------------------------------------------------------

class App {
  // store: {read() -> text, write(text)}: where the state is kept.
  constructor(root, data, store) {
    this.root = root;
    this.store = store;
    this.looks = data.looks.map(opened);
    this.hovered = [null, null];
    this.state = new State(this.looks);
    this.hint = fresh("hint");
    this.live = element("p", { class: "vpx-unseen", role: "status", "aria-live": "polite" });
    root.classList.add("vpx");
    this.state.read(new URLSearchParams(store.read()));
    this.build();
  }
  build() {
    const { state, looks } = this, two = state.panes.length > 1;
    const focus = document.activeElement && this.root.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    for (const pane of this.panes || []) pane.watch?.disconnect();
    const names = [...new Set(state.panes.flatMap((pane) => mapsOf(looks[pane.look])))];
    const bar = element("div", { class: "vpx-controls vpx-top" });
    bar.append(choice("Map", names.length ? names.map((name) => [name, name]) : [["", "none"]], state.map, (value) => this.change("map", value), { "data-focus": "map" }));
    bar.append(choice("Drawn as", Object.entries(SHOW), state.show, (value) => this.change("show", value), { "data-focus": "show" }));
    bar.append(choice("Scale", Object.entries(SCALES), state.scale, (value) => this.change("scale", value), { "data-focus": "scale" }));
    if (looks.length > 1) {
      bar.append(choice("Beside it", [["none", "nothing"], ...looks.map((one, i) => [i, `${one.model} · ${one.name}`])], two ? state.panes[1].look : "none",
        (value) => this.beside(value), { "data-focus": "beside" }));
    }
    const tick = (label, key) => {
      const box = element("input", { type: "checkbox", "data-focus": key, onchange: () => this.change(key, box.checked) });
      box.checked = state[key];
      return element("label", { class: "vpx-tick" }, box, label);
    };
    if (two) bar.append(tick("pick on both sides", "linked"), tick("difference", "difference"));
    const hint = element("p", { class: "vpx-soft vpx-hint", id: this.hint },
      "On a picture: arrow keys, Home and End move the patch, Page Up and Page Down the layer; point at a patch to look, click to pick it.");
    this.panes = state.panes.map((_, i) => new Pane(this, i));
    this.difference = two && state.difference ? new Difference(this) : null;
    const parts = [...this.panes, ...(this.difference ? [this.difference] : [])];
    const body = element("div", { class: `vpx-panes vpx-of-${parts.length}` }, ...parts.map((part) => part.root));
    this.root.replaceChildren(bar, hint, body, this.live);
    this.bar = bar;
    this.update();
    if (focus) this.root.querySelector(`[data-focus="${focus}"]`)?.focus();
  }
  update() {
    for (const part of [...this.panes, this.difference]) part?.update();
    this.store.write(new URLSearchParams(this.state.text()).toString());
  }
  // A choice that holds for both sides.
  change(key, value) {
    this.state[key] = value;
    this.state.tidy();
    if (key === "difference") this.build();
    else this.update();
  }
  // A choice of one side; the other follows where they go together.
  set(index, key, value) {
    const { panes, linked } = this.state;
    panes[index][key] = value;
    const other = panes[1 - index];
    if (other && linked && (key !== "patch" || sameGrid(...panes.map((pane) => this.looks[pane.look])))) other[key] = value;
    if (key === "size") for (const pane of panes) pane.window = 0;
    this.state.tidy();
    if (key !== "patch") this.update();
    else {
      for (const part of [...this.panes, this.difference]) part?.updatePatch();
      this.store.write(new URLSearchParams(this.state.text()).toString());
    }
    if (["patch", "layer", "token", "head"].includes(key)) this.live.textContent = this.panes[index].said();
    else this.live.textContent = this.looks[panes[index].look].knockout ? knockoutText(this.looks[panes[index].look], panes[index], this.state.measure) : "";
  }
  choose(index, look) {
    this.state.panes[index] = { ...this.state.pane(look), ...(this.state.linked ? this.kept(index) : {}) };
    this.rebuilt();
  }
  // What another look takes over from the one it replaces.
  kept(index) {
    const { token, layer, head, route, size, window } = this.state.panes[index] || this.state.panes[0];
    return { token, layer, head, route, size, window };
  }
  beside(value) {
    if (value === "none") this.state.panes.length = 1;
    else this.state.panes[1] = { ...this.state.pane(Number(value)), ...(this.state.linked ? this.kept(1) : {}) };
    this.rebuilt();
  }
  rebuilt() {
    this.hovered = [null, null];
    this.state.tidy();
    const [one, other] = this.state.panes;
    if (other && this.state.linked && sameGrid(this.looks[one.look], this.looks[other.look])) other.patch = one.patch;
    this.build();
  }
  hover(index, patch) {
    if (this.hovered[index] === patch) return;
    this.hovered[index] = patch;
    const looks = this.state.panes.map((pane) => this.looks[pane.look]);
    if (looks.length > 1 && this.state.linked && sameGrid(...looks)) this.hovered[1 - index] = patch;
    for (const part of [...this.panes, this.difference]) part?.updatePatch();
  }
  levels() {
    return this.state.show === "contour" ? " Lines around patches of 25, 50 and 75 % of the scale's end." : "";
  }
  // The value that is drawn strongest.
  scaleOf(index, values) {
    const { state, looks } = this;
    const own = Math.max(...Array.from(values, Math.abs));
    if (state.scale === "own") return own || 1;
    return Math.max(own, ...state.panes.map((pane) => highestOf(looks[pane.look], state.map, pane))) || 1;
  }
  // The state was changed elsewhere: in the address, or by Python.
  follow() {
    const text = this.store.read();
    if (text === new URLSearchParams(this.state.text()).toString()) return;
    // What an address does not say is as it is at first, not as it happens to be.
    this.state = new State(this.looks);
    this.state.read(new URLSearchParams(text));
    this.hovered = [null, null];
    this.build();
  }
  close() {
    for (const pane of this.panes) pane.watch?.disconnect();
  }
}

function failed(root, error) {
  root.replaceChildren(element("p", { role: "alert" }, `The explorer cannot show this: ${error.message}`));
  throw error;
}

// Every explorer of a page; its state stands behind # in the address, under names that begin with its key.
export function boot(page) {
  // #verdicts is a place on the page around, and no state of ours.
  const said = () => (location.hash.includes("=") ? location.hash.slice(1) : "");
  // A page with several has this module several times.
  for (const root of page.querySelectorAll(".vpx-here:not([data-booted])")) {
    root.dataset.booted = "";
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const prefix = root.dataset.key ? `${root.dataset.key}.` : "";
    const own = (text) => [...new URLSearchParams(text)].filter(([name]) => (prefix ? name.startsWith(prefix) : !name.includes(".")));
    let first = null;
    const store = {
      read: () => new URLSearchParams(own(said()).map(([name, value]) => [name.slice(prefix.length), value])).toString(),
      write: (text) => {
        const mine = new Set(own(said()).map(([name]) => name));
        first ??= text;
        // Until something is picked the address is as it was opened.
        if (text === first && !mine.size) return;
        const rest = [...new URLSearchParams(said())].filter(([name]) => !mine.has(name));
        const all = [...[...new URLSearchParams(text)].map(([name, value]) => [prefix + name, value]), ...rest];
        // Replaced, not pushed: to go back leaves the page, not one of a hundred patches.
        history.replaceState(null, "", `#${new URLSearchParams(all)}`);
      },
    };
    try {
      const app = new App(root, data, store);
      addEventListener("hashchange", () => (location.hash && !said() ? null : app.follow()));
    } catch (error) {
      failed(root, error);
    }
  }
}

// anywidget: a notebook may have many, so that none touches the address; the state is a trait of the widget.
export default {
  render({ model, el }) {
    const root = element("div", {});
    el.append(root);
    const store = {
      read: () => model.get("state") || "",
      write: (text) => {
        if (text === model.get("state")) return;
        model.set("state", text);
        model.save_changes();
      },
    };
    let app;
    try {
      app = new App(root, model.get("data"), store);
    } catch (error) {
      failed(root, error);
    }
    const follow = () => app.follow();
    model.on("change:state", follow);
    return () => {
      model.off("change:state", follow);
      app.close();
    };
  },
};
