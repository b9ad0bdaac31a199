"use strict";
/* Values over time: areas, one on the other, with a line; below them a line with its own scale; a span to choose. */

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 74, RIGHT = 14, MAIN = 220, GAP = 30, SMALL = 70, BOTTOM = 26;
const MOST_MARKS = 200; // that are drawn

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function duration(seconds) {
  if (seconds < 59.95) return `${Math.round(seconds * 10) / 10} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d${Math.floor(whole / 3600) % 24}h`;
}

/* Round values between two bounds, about `number` of them; of bytes, powers of two. */
function ticks(low, high, number, base) {
  const span = high - low || 1;
  let step = base === 2 ? 2 ** Math.ceil(Math.log2(span / number)) : 10 ** Math.floor(Math.log10(span / number));
  if (base === 10) step *= [1, 2, 5, 10].find((factor) => span / (step * factor) <= number);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

function timeTicks(low, high, number) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const step = steps.find((one) => (high - low) / one <= number) || 86400 * Math.ceil((high - low) / number / 86400);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

class Chart {
  /* `chosen(from, to)` is called with indices of points, or with nulls. */
  constructor(root, page, chosen) {
    this.root = root;
    this.page = page;
    this.data = page.chart;
    this.chosen = chosen;
    this.span = null;
    this.times = this.data.time;
    root.classList.add("chart");
    this.legend = element("div", { class: "legend" });
    this.holder = element("div", {});
    root.append(this.legend, this.holder, this.sliders());
    this.draw();
    let width = root.clientWidth;
    new ResizeObserver(() => {
      if (root.clientWidth === width) return;
      width = root.clientWidth;
      this.draw();
    }).observe(root);
  }

  sliders() {
    const last = this.times.length - 1;
    const make = (name, at) => {
      const input = element("input", { type: "range", min: 0, max: last, value: at, "aria-label": `${name} of the span` });
      const shown = element("output", {}, duration(this.times[at]));
      input.addEventListener("input", () => this.choose(Number(this.from.value), Number(this.to.value)));
      return [input, shown, element("label", {}, name, input, shown)];
    };
    let fromLabel, toLabel;
    [this.from, this.fromShown, fromLabel] = make("Begin", 0);
    [this.to, this.toShown, toLabel] = make("End", last);
    this.clear = element("button", { type: "button", disabled: true, onclick: () => this.choose(null, null) }, "Whole time");
    return element("div", { class: "sliders no-print" }, fromLabel, toLabel, this.clear,
      element("span", {}, "or drag over the chart"));
  }

  choose(from, to) {
    const last = this.times.length - 1;
    if (from === null) this.span = null;
    else {
      const [first, end] = [Math.min(from, to), Math.max(from, to)];
      this.span = first === end || (first === 0 && end === last) ? null : [first, end];
    }
    const [first, end] = this.span || [0, last];
    this.from.value = first;
    this.to.value = end;
    this.fromShown.textContent = duration(this.times[first]);
    this.toShown.textContent = duration(this.times[end]);
    this.clear.disabled = this.span === null;
    this.drawSpan();
    this.chosen(this.span);
  }

  draw() {
    const width = Math.max(this.root.clientWidth, 280);
    const { times } = this;
    this.width = width;
    const [start, end] = [times[0], times[times.length - 1]];
    this.x = (time) => LEFT + (width - LEFT - RIGHT) * (time - start) / (end - start || 1);
    const { below } = this.data;
    const height = MAIN + BOTTOM + 8 + (below ? GAP + SMALL : 0);
    this.svg = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.inWords() });
    const bottom = this.drawMain(8, 8 + MAIN);
    if (below) this.drawBelow(below, bottom + GAP, bottom + GAP + SMALL);
    this.bottom = height - BOTTOM;
    for (const time of timeTicks(start, end, width / 110)) {
      const isLast = this.x(time) > width - RIGHT - 20; // its text would not fit
      this.svg.append(svg("text", { x: isLast ? width - RIGHT : this.x(time), y: height - 8, "text-anchor": isLast ? "end" : "middle" }, duration(time)));
    }
    for (const mark of this.page.marks.slice(0, MOST_MARKS)) {
      if (mark.time < start || mark.time > end) continue;
      const x = this.x(mark.time);
      const name = mark.text.length > 40 ? `${mark.text.slice(0, 40)}…` : mark.text;
      this.svg.append(svg("line", { class: "mark", x1: x, x2: x, y1: 8, y2: this.bottom }),
        svg("text", { class: "mark-text", x: x > width - 200 ? x - 5 : x + 5, y: 20, "text-anchor": x > width - 200 ? "end" : "start" }, name));
    }
    this.spanBox = svg("rect", { class: "span", y: 8, height: this.bottom - 8, width: 0, visibility: "hidden" });
    this.cursor = svg("line", { class: "cursor", y1: 8, y2: this.bottom, visibility: "hidden" });
    this.svg.append(this.spanBox, this.cursor);
    this.holder.replaceChildren(this.svg);
    this.listen();
    this.drawSpan();
    this.read(times.length - 1);
  }

  /* The areas, one on the other, and the line. */
  drawMain(top, bottom) {
    const { data, times } = this;
    let below = times.map(() => 0);
    this.layers = data.layers.map((layer) => {
      const above = below.map((one, at) => one + layer.values[at]);
      const made = { ...layer, below, above };
      below = above;
      return made;
    });
    const known = data.line ? data.line.values.filter((one) => one !== null) : [];
    const high = Math.max(...below, ...known, 1);
    const low = Math.min(0, ...known);
    const y = (value) => bottom - (bottom - top) * (value - low) / (high - low);
    this.axis(ticks(low, high, 5, data.counted ? 10 : 2), y, data.counted);
    for (const layer of this.layers) {
      const up = times.map((time, at) => `${this.x(time)},${y(layer.above[at])}`);
      const down = times.map((time, at) => `${this.x(time)},${y(layer.below[at])}`).reverse();
      this.svg.append(svg("path", { class: `area-${layer.series}`, d: `M${up.join("L")}L${down.join("L")}Z` }));
    }
    if (data.line) this.svg.append(svg("path", { class: "rss", d: this.line(data.line.values, y) }));
    return bottom;
  }

  drawBelow(shown, top, bottom) {
    const { values } = shown;
    const high = Math.max(...values.filter((one) => one !== null), 1);
    const y = (value) => bottom - (bottom - top) * value / high;
    this.axis(ticks(0, high, 2, shown.counted ? 10 : 2), y, shown.counted);
    this.svg.append(svg("text", { x: LEFT, y: top - 9 }, shown.name));
    const d = this.line(values, y);
    const first = values.findIndex((one) => one !== null);
    const last = values.length - 1 - [...values].reverse().findIndex((one) => one !== null);
    this.svg.append(svg("path", { class: "below", d: `${d}L${this.x(this.times[last])},${bottom}L${this.x(this.times[first])},${bottom}Z` }),
      svg("path", { class: "rss", d }));
  }

  line(values, y) {
    const points = [];
    values.forEach((value, at) => { if (value !== null) points.push(`${this.x(this.times[at])},${y(value)}`); });
    return `M${points.join("L")}`;
  }

  axis(values, y, counted) {
    for (const value of values) {
      const at = y(value);
      this.svg.append(svg("line", { class: value === 0 ? "zero" : "grid", x1: LEFT, x2: this.width - RIGHT, y1: at, y2: at }),
        svg("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, counted ? count(value) : size(value).replace(".0 ", " ")));
    }
  }

  inWords() {
    const { title, counted, layers: [first] } = this.data;
    const words = (value) => (counted ? count(value) : size(value));
    return `${title}: ${first.name} went from ${words(first.values[0])} to ${words(first.values[first.values.length - 1])}`;
  }

  /* The figures of a point, in the legend. */
  read(at) {
    const { about, counted, line, below } = this.data;
    const words = (value) => about + (counted ? count(value) : size(value));
    const entry = (colour, name, value, opacity, line) => {
      const swatch = element("span", { class: line ? "swatch line" : "swatch" });
      swatch.style.background = `var(${colour})`;
      swatch.style.opacity = opacity;
      return element("span", {}, swatch, `${name} `, element("b", {}, value));
    };
    const entries = [element("span", { class: "at" }, "at ", element("b", {}, duration(this.times[at])))];
    for (const layer of this.layers) entries.push(entry(`--series-${layer.series}`, layer.name, words(layer.values[at]), layer.series === 3 ? 0.45 : 0.8));
    if (line && line.values[at] !== null) {
      const value = line.values[at];
      entries.push(entry("--rss", line.name, line.change ? withSign(size(value)) : size(value), 1, true));
      const explained = this.layers.reduce((sum, layer) => sum + (layer.part ? layer.values[at] : 0), 0);
      entries.push(element("span", {}, "rest ", element("b", {}, withSign(size(value - explained)))));
    }
    if (below && below.values[at] !== null) entries.push(element("span", {}, `${below.name} `, element("b", {}, below.counted ? count(below.values[at]) : size(below.values[at]))));
    this.legend.replaceChildren(...entries);
  }

  nearest(clientX) {
    const box = this.svg.getBoundingClientRect();
    const x = (clientX - box.left) * this.width / box.width;
    let best = 0;
    this.times.forEach((time, at) => { if (Math.abs(this.x(time) - x) < Math.abs(this.x(this.times[best]) - x)) best = at; });
    return best;
  }

  listen() {
    let began = null;
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      began = this.nearest(event.clientX);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointermove", (event) => {
      const at = this.nearest(event.clientX);
      this.read(at);
      const x = this.x(this.times[at]);
      this.cursor.setAttribute("x1", x);
      this.cursor.setAttribute("x2", x);
      this.cursor.setAttribute("visibility", "visible");
      if (began !== null && at !== began) this.choose(began, at);
    });
    this.svg.addEventListener("pointerup", (event) => {
      if (began !== null && this.nearest(event.clientX) === began) this.choose(null, null);
      began = null;
    });
    this.svg.addEventListener("pointerleave", () => {
      this.cursor.setAttribute("visibility", "hidden");
      this.read(this.times.length - 1);
    });
  }

  drawSpan() {
    if (this.span === null) { this.spanBox.setAttribute("visibility", "hidden"); return; }
    const [from, to] = this.span.map((at) => this.x(this.times[at]));
    this.spanBox.setAttribute("x", from);
    this.spanBox.setAttribute("width", to - from);
    this.spanBox.setAttribute("visibility", "visible");
  }
}
