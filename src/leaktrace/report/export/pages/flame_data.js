"use strict";
/* From the tables of call_tree.py to the tree that d3-flame-graph draws. */

const FRAME = { INLINED: 1, OWN: 2, UNNAMED: 4, REMARK: 8 };
const MOST_BOXES = 4000; // of a flame graph; what is smaller is joined

class CallTree {
  constructor(table) {
    this.table = table;
    this.strings = table.strings;
  }

  text(column, frame) { return this.strings[this.table.frames[column][frame]]; }
  line(frame) { return this.table.frames.line[frame]; }
  has(frame, flag) { return (this.table.frames.flags[frame] & flag) !== 0; }

  place(frame) {
    const file = this.text("file", frame);
    return file ? `${file}:${this.line(frame)}` : "";
  }

  /* The frames of a stack, leaf first. */
  stack(node) {
    const frames = [];
    for (let at = node; at !== 0; at = this.table.parent[at]) frames.push(this.table.frame[at]);
    return frames;
  }

  /* Whether a frame's function, module or file contains a text in lower case. */
  matches(frame, term) {
    return ["function", "module"].some((column) => this.text(column, frame).toLowerCase().includes(term))
      || this.place(frame).toLowerCase().includes(term);
  }

  /* The sum of the values of all stacks that contain a frame that matches, of small ones too. */
  sumOfMatches(nodes, values, term) {
    const { parent, frame, frames } = this.table;
    const found = frames.function.map((_, at) => this.matches(at, term));
    const isBelow = new Uint8Array(parent.length);
    for (let node = 1; node < parent.length; node += 1) isBelow[node] = isBelow[parent[node]] || found[frame[node]] ? 1 : 0;
    return nodes.reduce((sum, node, at) => (isBelow[node] ? sum + values[at] : sum), 0);
  }

  /* The boxes of a flame graph: one per function below its caller, whatever the line.
     `columns`: arrays of values, one per entry of `nodes`; the first is the width. */
  boxes(nodes, columns) {
    const parent = this.table.parent;
    const sums = columns.map((values) => {
      const sum = new Float64Array(parent.length);
      nodes.forEach((node, at) => { sum[node] += values[at]; });
      for (let node = parent.length - 1; node > 0; node -= 1) sum[parent[node]] += sum[node];
      return sum;
    });
    const joined = this.joinByFunction(sums);
    return this.withoutSmallest(joined);
  }

  joinByFunction(sums) {
    const { parent, frame, frames } = this.table;
    const boxOf = new Array(parent.length).fill(null);
    const byKey = new Map();
    const root = { name: "all", frame: frame[0], values: sums.map((sum) => sum[0]), places: new Map(), children: [], key: 0 };
    boxOf[0] = root;
    let keys = 1;
    for (let node = 1; node < parent.length; node += 1) {
      const above = boxOf[parent[node]];
      if (above === null || sums.every((sum) => sum[node] === 0)) continue;
      const at = frame[node];
      const key = `${above.key} ${frames.function[at]} ${frames.module[at]}`;
      let box = byKey.get(key);
      if (box === undefined) {
        box = { name: this.text("function", at), frame: at, values: sums.map(() => 0), places: new Map(), children: [], key: keys };
        keys += 1;
        byKey.set(key, box);
        above.children.push(box);
      }
      sums.forEach((sum, column) => { box.values[column] += sum[node]; });
      const place = this.place(at);
      if (place) box.places.set(place, (box.places.get(place) || 0) + sums[0][node]);
      boxOf[node] = box;
    }
    return root;
  }

  /* At most MOST_BOXES boxes; the others of a caller become one. */
  withoutSmallest(root) {
    const values = [];
    const collect = (box) => { values.push(box.values[0]); box.children.forEach(collect); };
    collect(root);
    let least = 0;
    if (values.length > MOST_BOXES) least = Float64Array.from(values).sort()[values.length - MOST_BOXES];
    let [left, deepest] = [0, 0];
    const prune = (box, depth) => {
      deepest = Math.max(deepest, depth);
      const kept = [];
      const rest = box.values.map(() => 0);
      let number = 0;
      for (const child of box.children) {
        if (child.values[0] > 0 && child.values[0] >= least) { kept.push(child); continue; }
        child.values.forEach((value, column) => { rest[column] += value; });
        number += child.values[0] > 0 ? 1 : 0;
      }
      kept.forEach((child) => prune(child, depth + 1));
      if (rest[0] > 0) {
        deepest = Math.max(deepest, depth + 1);
        kept.push({ name: `(${count(number)} smaller)`, frame: root.frame, values: rest, places: new Map(), children: [] });
        left += number;
      }
      kept.sort((one, other) => other.values[0] - one.values[0]);
      box.children = kept;
      box.value = box.values[0];
      kept.forEach((child) => { child.value = child.values[0]; });
    };
    prune(root, 0);
    return { root, joined: left, depth: deepest + 1 };
  }
}
