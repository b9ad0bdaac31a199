"use strict";
/* The flame graph: choice of the quantity, zoom, search, hover, keyboard. */

const CELL = 19; // height of a box, in pixels
// Hues of what a box belongs to; the lightness differs by function. Text on them is dark.
const HUES = { own: [24, 72], library: [208, 42], runtime: [48, 22], remark: [0, 0] };

class FlameView {
  /* `root`: an empty element. `parts` and `tree`: as flamegraph.py writes them. */
  constructor(root, parts, tree, chosen) {
    this.root = root;
    this.parts = parts;
    this.tree = tree;
    this.part = parts[0];
    this.quantity = this.part.quantities.find((one) => one.key === chosen) || this.part.quantities[0];
    this.icicle = false;
    this.term = "";
    this.build();
    this.draw();
    let width = this.box.clientWidth;
    new ResizeObserver(() => {
      if (Math.abs(this.box.clientWidth - width) < 20) return; // a scroll bar came or went
      width = this.box.clientWidth;
      this.draw();
    }).observe(root);
  }

  build() {
    this.partChoice = element("select", { "aria-label": "Part of the report" });
    this.parts.forEach((part, at) => this.partChoice.append(element("option", { value: at }, part.name)));
    this.partChoice.classList.toggle("hidden", this.parts.length < 2);
    this.partChoice.addEventListener("change", () => {
      this.part = this.parts[this.partChoice.value];
      this.quantity = this.part.quantities.find((one) => one.key === this.quantity.key) || this.part.quantities[0];
      this.fillQuantities();
      this.draw();
    });
    this.quantityChoice = element("select", { "aria-label": "Quantity" });
    this.quantityChoice.addEventListener("change", () => {
      this.quantity = this.part.quantities[this.quantityChoice.value];
      this.draw();
    });
    this.fillQuantities();
    this.search = element("input", { type: "search", placeholder: "Search functions, modules, files", "aria-label": "Search the flame graph" });
    this.search.addEventListener("input", () => this.find(this.search.value));
    this.icicleButton = element("button", { type: "button", class: "end", "aria-pressed": "false", onclick: () => this.turn() }, "Icicle");
    this.resetButton = element("button", { type: "button", disabled: true, onclick: () => this.reset() }, "Reset zoom");
    this.found = element("span", { class: "dim", role: "status" });
    this.status = element("p", { class: "flame-status", "aria-live": "polite" });
    this.box = element("div", { class: "flame-box" });
    this.tip = element("div", { class: "flame-tip hidden", role: "tooltip" });
    this.legend = element("div", { class: "legend" });
    this.root.classList.add("flame-view");
    const tools = element("div", { class: "tools no-print" }, this.partChoice, this.quantityChoice, this.search, this.found,
      this.icicleButton, this.resetButton);
    this.root.append(tools, this.box, this.status, this.legend, this.tip);
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("focusin", (event) => this.focused(event.target));
  }

  fillQuantities() {
    this.quantityChoice.replaceChildren();
    this.part.quantities.forEach((one, at) => {
      this.quantityChoice.append(element("option", { value: at, selected: one === this.quantity }, one.name));
    });
  }

  draw() {
    this.tip.classList.add("hidden");
    this.box.replaceChildren();
    this.current = null;
    this.resetButton.disabled = true;
    const columns = [this.quantity.values];
    if (this.part.change) columns.push(this.part.change.base, this.part.change.new);
    const { root, joined, depth } = this.tree.boxes(this.part.nodes, columns);
    this.joined = joined;
    this.total = root.value;
    this.drawLegend();
    if (!(this.total > 0)) {
      this.box.append(element("p", { class: "empty" }, `Nothing to show: ${this.quantity.name}: 0`));
      this.chart = null;
      this.say(null);
      return;
    }
    const still = prefersStill() ? 0 : 200;
    this.chart = flamegraph.default()
      .width(Math.max(this.box.clientWidth, 200)).cellHeight(CELL).height(depth * CELL)
      .minFrameSize(1)
      .transitionDuration(still).inverted(this.icicle)
      .sort((one, other) => other.data.value - one.data.value)
      .getName((node) => node.data.name)
      .setColorMapper((node) => this.colour(node))
      .setSearchMatch((node, term) => this.matches(node, term))
      .setSearchHandler((results) => this.sayFound(results.length))
      .onClick((node) => this.zoomed(node))
      .tooltip(this.tooltip());
    d3.select(this.box).datum(root).call(this.chart);
    const width = Math.max(this.box.clientWidth, 200);
    d3.select(this.box).select("svg").attr("viewBox", `0 0 ${width} ${depth * CELL}`); // scaled in print
    this.rootNode = d3.select(this.box).datum();
    this.say(this.rootNode);
    if (this.term) this.chart.search(this.term);
    this.label();
    if (!this.icicle) this.box.scrollTop = this.box.scrollHeight;
  }

  drawLegend() {
    const entry = (fill, text) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = fill;
      return element("span", {}, swatch, text);
    };
    const entries = this.part.change
      ? [entry(changeColour(1), "more"), entry(changeColour(0), "the same"), entry(changeColour(-1), "less")]
      : [entry(hue("own", "a"), "the program's own"), entry(hue("library", "a"), "libraries and runtimes"), entry(hue("runtime", "a"), "no name")];
    const note = this.joined ? [element("span", {}, `${count(this.joined)} boxes that are too small are joined`)] : [];
    this.legend.replaceChildren(...entries, ...note);
  }

  colour(node) {
    if (node.highlight) return "#d65db1";
    const box = node.data;
    if (this.part.change) {
      const [, base, now] = box.values;
      const scale = Math.max(base, now);
      return changeColour(scale > 0 ? (now - base) / scale : 0);
    }
    if (this.tree.has(box.frame, FRAME.REMARK)) return hue("remark", box.name);
    if (this.tree.has(box.frame, FRAME.UNNAMED)) return hue("runtime", box.name);
    return hue(this.tree.has(box.frame, FRAME.OWN) ? "own" : "library", box.name);
  }

  matches(node, term) {
    if (!term) return false;
    const box = node.data;
    if (this.tree.matches(box.frame, term) && box.frame !== this.rootNode.data.frame) return true;
    for (const place of box.places.keys()) if (place.toLowerCase().includes(term)) return true;
    return false;
  }

  /* How many boxes are marked, and which part of the whole they and those that are too small are. */
  sayFound(boxes) {
    if (!this.term) { this.found.textContent = ""; return; }
    const sum = this.tree.sumOfMatches(this.part.nodes, this.quantity.values, this.term);
    this.found.textContent = `${count(boxes)} found, ${percent(sum, this.total) || "0%"} of all`;
  }

  find(text) {
    this.term = text.trim().toLowerCase();
    if (this.chart) this.chart.search(this.term);
    this.label();
  }

  tooltip() {
    const tip = () => tip;
    tip.show = (event, node) => this.showTip(node, event.clientX, event.clientY);
    tip.hide = () => this.tip.classList.add("hidden");
    return tip;
  }

  words(value) { return this.part.about + figure(value, this.quantity.unit, this.part.noun); }

  showTip(node, x, y) {
    const box = node.data;
    const module = this.tree.text("module", box.frame);
    const shares = `${this.words(box.value)} (${percent(box.value, this.total)})`;
    const lines = [element("b", {}, box.name), element("div", {}, shares)];
    if (this.part.change) {
      const [, base, now] = box.values;
      const unit = this.quantity.unit;
      lines.push(element("div", {}, `${figure(base, unit, this.part.noun)} before, ${figure(now, unit, this.part.noun)} now: ${withSign(figure(now - base, unit, this.part.noun))}`));
    }
    const places = [...box.places].sort((one, other) => other[1] - one[1]);
    for (const [place, value] of places.slice(0, 5)) {
      const text = places.length > 1 ? `${place}  ${this.words(value)}` : place;
      lines.push(element("div", { class: "mono" }, text));
    }
    if (places.length > 5) lines.push(element("div", { class: "dim" }, `and ${count(places.length - 5)} more lines`));
    if (module) lines.push(element("div", { class: "mono dim" }, `[${module}]`));
    this.tip.replaceChildren(...lines);
    this.tip.classList.remove("hidden");
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    this.tip.style.left = `${Math.max(4, Math.min(x + 14, window.innerWidth - width - 8))}px`;
    const below = y + 18 + height < window.innerHeight;
    this.tip.style.top = `${Math.max(4, below ? y + 18 : y - height - 12)}px`;
  }

  say(node) {
    if (node === null) { this.status.textContent = ""; return; }
    this.status.textContent = `${node.data.name}: ${this.words(node.data.value)} (${percent(node.data.value, this.total)} of ${this.words(this.total)})`;
  }

  zoomed(node) {
    this.current = node;
    this.resetButton.disabled = node.parent === null;
    this.say(node);
    this.label(node);
  }

  reset() {
    if (this.chart) this.chart.resetZoom();
  }

  turn() {
    this.icicle = !this.icicle;
    this.icicleButton.setAttribute("aria-pressed", String(this.icicle));
    this.draw();
  }

  /* Make boxes reachable by keyboard: one by tab, the others by arrows. */
  label(current) {
    const chosen = current || this.current || this.rootNode;
    const frames = d3.select(this.box).selectAll("g.frame");
    frames.attr("role", "button").attr("tabindex", (node) => (node === chosen ? 0 : -1))
      .attr("aria-label", (node) => `${node.data.name.slice(0, 200)}, ${this.words(node.data.value)}, ${percent(node.data.value, this.total)}`);
    if (frames.filter((node) => node === chosen).empty()) frames.filter((node) => node === this.rootNode).attr("tabindex", 0);
    d3.select(this.box).select("svg").attr("role", "group").attr("aria-label", `Flame graph, ${this.quantity.name}. Arrow keys move, Enter zooms, Escape resets.`);
  }

  focused(target) {
    const node = d3.select(target).datum();
    if (!node || !node.data) return;
    this.current = node;
    this.say(node);
    const at = target.getBoundingClientRect();
    if (target.matches(":focus-visible")) this.showTip(node, at.left, at.bottom - 10);
  }

  focus(node) {
    const found = d3.select(this.box).selectAll("g.frame").filter((one) => one === node).node();
    if (!found) return;
    d3.select(this.box).selectAll("g.frame").attr("tabindex", (one) => (one === node ? 0 : -1));
    found.focus();
  }

  key(event) {
    const node = d3.select(event.target).datum();
    if (!node || !node.data) return;
    const [up, down] = this.icicle ? ["ArrowDown", "ArrowUp"] : ["ArrowUp", "ArrowDown"];
    const shown = (node.parent ? node.parent.children : [node]).filter((one) => one.value > 0);
    const at = shown.indexOf(node);
    const moves = { [up]: (node.children || []).find((one) => one.value > 0), [down]: node.parent, ArrowLeft: shown[at - 1], ArrowRight: shown[at + 1] };
    if (event.key in moves) {
      if (moves[event.key]) this.focus(moves[event.key]);
    } else if (event.key === "Enter" || event.key === " ") {
      this.chart.zoomTo(node);
      this.focus(node);
    } else return;
    event.preventDefault();
  }

  /* Keys of the page: "/" searches, Escape takes back the search, then the zoom. */
  pageKey(event) {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      this.search.focus();
      this.search.select();
      event.preventDefault();
    } else if (event.key === "Escape") {
      this.tip.classList.add("hidden");
      if (this.term) { this.search.value = ""; this.find(""); } else this.reset();
    }
  }
}

function hue(kind, name) {
  let hash = 0;
  for (let at = 0; at < Math.min(name.length, 40); at += 1) hash = (hash * 31 + name.charCodeAt(at)) >>> 0;
  const [angle, saturation] = HUES[kind];
  return `hsl(${angle + (hash % 14) - 7} ${saturation}% ${72 + (hash >>> 4) % 11}%)`;
}

/* -1: all gone, blue; 0: the same, grey; 1: all new, red. */
function changeColour(change) {
  const strength = Math.round(Math.sqrt(Math.abs(change)) * 34);
  if (change === 0) return "hsl(60 4% 84%)";
  return change > 0 ? `hsl(8 80% ${90 - strength}%)` : `hsl(212 72% ${90 - strength}%)`;
}
