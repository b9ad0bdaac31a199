"use strict";
/* The table of all sites, a page at a time: sorted, filtered, with what a site did in a span. */

const ROWS = 25; // of a page
const classesOf = (column) => [column.number ? "number" : `of-${column.key}`, column.optional ? "optional" : ""].filter(Boolean).join(" ");
const SPARK = [96, 24]; // pixels

class SiteTable {
  constructor(root, page, tree) {
    this.root = root;
    this.page = page;
    this.tree = tree;
    this.part = page.parts[0];
    this.span = null;
    this.sort = { column: "order", down: true };
    this.open = new Set();
    this.at = 0;
    this.build();
    this.setPart(this.part);
  }

  build() {
    this.partChoice = element("select", { "aria-label": "Part of the report whose sites are shown" });
    this.page.parts.forEach((part, at) => this.partChoice.append(element("option", { value: at }, part.name)));
    this.partChoice.classList.toggle("hidden", this.page.parts.length < 2);
    this.partChoice.addEventListener("change", () => this.setPart(this.page.parts[this.partChoice.value]));
    this.filter = element("input", { type: "search", placeholder: "Filter by function, file, module, ID", "aria-label": "Filter sites" });
    this.filter.addEventListener("input", () => this.refresh());
    this.verdict = element("select", { "aria-label": "Verdict" });
    this.verdict.addEventListener("change", () => this.refresh());
    this.note = element("span", { class: "dim", role: "status" });
    this.head = element("tr", {});
    this.body = element("tbody", {});
    this.back = element("button", { type: "button", onclick: () => this.turn(-1) }, "Previous");
    this.next = element("button", { type: "button", onclick: () => this.turn(1) }, "Next");
    this.shown = element("span", {});
    this.root.replaceChildren(
      element("div", { class: "tools no-print" }, this.partChoice, this.filter, this.verdict, this.note),
      element("div", { class: "scroll" }, element("table", { class: "sites" }, element("thead", {}, this.head), this.body)),
      element("div", { class: "pager" }, this.back, this.next, this.shown));
  }

  setPart(part) {
    this.part = part;
    this.open.clear();
    this.texts = null;
    const length = part.nodes.length;
    this.values = part.sites.course.map((changes) => {
      const values = new Float64Array(part.grid.length);
      let value = 0;
      for (let at = 0; at < values.length; at += 1) {
        value += changes[at] || 0;
        values[at] = value;
      }
      return values;
    });
    this.places = new Array(length);
    const used = new Set(part.sites.verdict);
    const choices = [element("option", { value: "" }, "all verdicts")];
    part.kinds.forEach((kind, at) => { if (used.has(at)) choices.push(element("option", { value: at }, kind.word)); });
    if (used.has(-1)) choices.push(element("option", { value: -1 }, "gone or none"));
    this.verdict.replaceChildren(...choices);
    this.verdict.classList.toggle("hidden", !part.kinds.length);
    this.refresh();
  }

  /* `span`: two indices of points, or null. */
  setSpan(span) {
    const wasSpan = this.span !== null;
    this.span = span;
    if (span !== null && !wasSpan) this.sort = { column: "change", down: true };
    if (span === null && wasSpan) this.sort = { column: "order", down: true };
    this.refresh();
  }

  /* The first and the last value of the span, as indices of the grid. */
  ends() {
    const { grid } = this.part;
    if (this.span === null) return [0, grid.length - 1];
    const nearest = (point) => grid.reduce((best, one, at) => (Math.abs(one - point) < Math.abs(grid[best] - point) ? at : best), 0);
    const [from, to] = this.span.map(nearest);
    return from === to ? [Math.max(0, from - 1), Math.max(to, 1)] : [from, to];
  }

  change(row) {
    const [from, to] = this.bounds;
    const values = this.values[row];
    return values.length ? values[to] - values[from] : 0;
  }

  columns() {
    const { sites, counted } = this.part;
    const [from, to] = this.bounds.map((at) => this.page.chart.time[this.part.grid[at]]);
    const span = this.span === null ? "Change" : `Change ${duration(from)} to ${duration(to)}`;
    return [
      { key: "verdict", name: this.part.kinds.length ? "Verdict" : "", of: this.part.kinds.length ? (row) => -this.rank(row) : undefined },
      ...(counted ? [] : [{ key: "held", name: "In use", number: true, of: (row) => sites.held[row] },
        { key: "share", name: "Share", number: true, optional: true, of: (row) => sites.held[row] }]),
      { key: "count", name: counted ? "Number" : this.part.noun === "object" ? "Objects" : "Blocks", number: true, of: (row) => sites.count[row] },
      { key: "rate", name: "Rate", number: true, optional: true, of: (row) => sites.rate[row] },
      { key: "change", name: span, number: true, of: (row) => this.change(row) },
      { key: "course", name: "Course", optional: true },
      { key: "oldest", name: "Oldest", number: true, optional: true, of: (row) => sites.oldest_ms[row] ?? -1 },
      { key: "where", name: "Where", of: null, text: (row) => this.place(row).name },
    ];
  }

  rank(row) {
    const verdict = this.part.sites.verdict[row];
    return verdict < 0 ? this.part.kinds.length : verdict;
  }

  refresh() {
    this.bounds = this.ends();
    this.all = this.columns();
    const column = this.all.find((one) => one.key === this.sort.column);
    const wanted = this.filter.value.trim().toLowerCase();
    const verdict = this.verdict.value;
    const rows = [];
    for (let row = 0; row < this.part.nodes.length; row += 1) {
      if (verdict !== "" && this.part.sites.verdict[row] !== Number(verdict)) continue;
      if (wanted && !this.text(row).includes(wanted)) continue;
      rows.push(row);
    }
    if (column) {
      const sign = this.sort.down ? -1 : 1;
      if (column.text) rows.sort((one, other) => -sign * column.text(one).localeCompare(column.text(other)));
      else {
        const values = new Map(rows.map((row) => [row, column.of(row)]));
        rows.sort((one, other) => sign * (values.get(one) - values.get(other)) || one - other);
      }
    }
    this.rows = rows;
    this.at = 0;
    const left = this.part.dropped ? `, and ${count(this.part.dropped)} that hold nothing any more are left out` : "";
    this.note.textContent = `${count(rows.length)} of ${count(this.part.nodes.length)} sites${left}`;
    this.draw();
  }

  /* All that a filter looks at, in lower case. */
  text(row) {
    if (this.texts === null) {
      const { frames } = this.tree.table;
      this.frameTexts = frames.function.map((_, at) => `${this.tree.text("function", at)} ${this.tree.place(at)} ${this.tree.text("module", at)}`.toLowerCase());
      this.texts = new Array(this.part.nodes.length);
    }
    if (this.texts[row] === undefined) {
      this.texts[row] = `${this.part.sites.id[row]} ${this.tree.stack(this.part.nodes[row]).map((at) => this.frameTexts[at]).join(" ")}`;
    }
    return this.texts[row];
  }

  /* The frame that says most, as leaktrace chose it. */
  place(row) {
    if (this.places[row] === undefined) {
      const where = this.part.sites.where[row];
      const at = where < 0 ? this.tree.stack(this.part.nodes[row])[0] : where;
      const module = this.tree.has(at, FRAME.UNNAMED) ? "" : this.tree.text("module", at);
      this.places[row] = { name: this.tree.text("function", at), place: [this.tree.place(at), module ? `[${module}]` : ""].filter(Boolean).join("  ") };
    }
    return this.places[row];
  }

  turn(by) {
    this.at += by * ROWS;
    this.draw();
  }

  draw() {
    this.head.replaceChildren(...this.all.map((column) => this.header(column)));
    const rows = this.rows.slice(this.at, this.at + ROWS);
    this.body.replaceChildren(...rows.flatMap((row) => (this.open.has(row) ? [this.row(row), this.detail(row)] : [this.row(row)])));
    this.back.disabled = this.at === 0;
    this.next.disabled = this.at + ROWS >= this.rows.length;
    this.shown.textContent = rows.length ? `${count(this.at + 1)} to ${count(this.at + rows.length)} of ${count(this.rows.length)}` : "no site matches";
  }

  header(column) {
    const classes = classesOf(column);
    const made = element("th", { scope: "col", class: classes || null });
    if (column.of === undefined) { made.append(column.name); return made; }
    const isSorted = this.sort.column === column.key;
    if (isSorted) made.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
    const arrow = isSorted ? (this.sort.down ? " ↓" : " ↑") : "";
    made.append(element("button", { type: "button", onclick: () => {
      this.sort = { column: column.key, down: isSorted ? !this.sort.down : true };
      this.refresh();
    } }, column.name + arrow));
    return made;
  }

  row(row) {
    const { sites, about, counted, total } = this.part;
    const kind = this.part.kinds[sites.verdict[row]];
    const change = this.change(row);
    const { name, place } = this.place(row);
    const isOpen = this.open.has(row);
    const button = element("button", { type: "button", class: "open no-print", "aria-expanded": String(isOpen), "aria-label": `Stack of ${name.slice(0, 80)}` }, isOpen ? "▾" : "▸");
    const cells = {
      verdict: [button, kind ? element("span", { class: `tag ${kind.class === "good" ? "" : kind.class}`.trim() }, kind.word) : row >= this.part.in_last ? element("span", { class: "tag" }, "gone") : this.part.kinds.length ? element("span", { class: "tag" }, "none") : ""],
      held: [about + size(sites.held[row])],
      share: [percent(sites.held[row], total)],
      count: [about + count(sites.count[row])],
      rate: [this.part.texts[sites.rate_text[row]]],
      change: [element("span", { class: change > 0 ? "more" : change < 0 ? "less" : "dim" }, change === 0 ? "0" : about + withSign(counted ? count(change) : size(change)))],
      course: [this.spark(row)],
      oldest: [sites.oldest_ms[row] === null ? "" : (this.part.at_least ? "≥ " : "") + duration(sites.oldest_ms[row] / 1000)],
      where: [element("span", { class: "function" }, name), element("span", { class: "place" }, place)],
    };
    const made = element("tr", { class: "row", "data-row": row });
    for (const column of this.all) {
      const classes = classesOf(column);
      made.append(element("td", { class: classes || null }, ...cells[column.key]));
    }
    made.addEventListener("click", () => {
      if (window.getSelection().toString()) return;
      if (this.open.has(row)) this.open.delete(row); else this.open.add(row);
      this.draw();
      const again = this.body.querySelector(`tr[data-row="${row}"] .open`);
      if (again) again.focus({ preventScroll: true });
    });
    return made;
  }

  spark(row) {
    const values = this.values[row];
    const [width, height] = SPARK;
    if (values.length < 2) return "";
    const high = Math.max(...values, 1);
    const times = this.part.grid.map((at) => this.page.chart.time[at]);
    const span = times[times.length - 1] - times[0] || 1;
    const points = Array.from(values, (value, at) => `${(width * (times[at] - times[0]) / span).toFixed(1)},${(height - 1 - (height - 3) * value / high).toFixed(1)}`);
    const d = `M${points.join("L")}`;
    return svg("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `from ${this.inUnit(values[0])} to ${this.inUnit(values[values.length - 1])}` },
      svg("path", { class: "below", d: `${d}L${width},${height}L0,${height}Z` }), svg("path", { d }));
  }

  inUnit(value) { return this.part.counted ? count(value) : size(value); }

  detail(row) {
    const { sites, texts, noun, about } = this.part;
    const cell = element("td", { colspan: this.all.length });
    const lines = [texts[sites.evidence[row]], ...sites.details[row].map((at) => texts[at])].filter(Boolean);
    for (const key of ["allocated", "freed"]) {
      const bytes = this.part.quantities.find((one) => one.key === key);
      const blocks = this.part.quantities.find((one) => one.key === `${key}-blocks`);
      if (!blocks || !blocks.values[row]) continue;
      const number = about + figure(blocks.values[row], "blocks", noun);
      lines.push(`${key} since ${this.part.since}: ${bytes ? `${about}${size(bytes.values[row])} in ${number}` : number}`);
    }
    lines.push(`ID ${sites.id[row]}`);
    cell.append(...lines.map((line) => element("div", {}, line)));
    const frames = element("tbody", {});
    for (const at of this.tree.stack(this.part.nodes[row])) {
      const offset = this.tree.table.frames.offset[at];
      const inlined = this.tree.has(at, FRAME.INLINED) ? " (inlined)" : offset ? `+0x${offset.toString(16)}` : "";
      const module = this.tree.text("module", at);
      frames.append(element("tr", { class: this.tree.has(at, FRAME.OWN) ? "own" : null },
        element("td", {}, this.tree.text("function", at) + inlined), element("td", {}, this.tree.place(at)), element("td", { class: "dim" }, module ? `[${module}]` : "")));
    }
    cell.append(element("div", { class: "scroll" }, element("table", { class: "frames" }, frames)));
    return element("tr", { class: "detail" }, cell);
  }
}
