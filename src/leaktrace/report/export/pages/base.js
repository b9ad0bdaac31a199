"use strict";
/* What all pages use: figures in words, elements, the theme, the data. */

const SIZE_UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/* Bytes as leaktrace writes them: "512 B", "12.0 MiB". */
function size(bytes) {
  const sign = bytes < 0 ? "-" : "";
  let value = Math.abs(bytes);
  if (value < 1024) return `${sign}${Math.round(value)} B`;
  value /= 1024;
  let unit = 0;
  while (Math.round(value * 10) / 10 >= 1024 && unit + 1 < SIZE_UNITS.length) {
    value /= 1024;
    unit += 1;
  }
  return `${sign}${value.toFixed(1)} ${SIZE_UNITS[unit]}`;
}

function withSign(text) { return text.startsWith("-") ? text : `+${text}`; }

function count(number) { return Math.round(number).toLocaleString("en-US"); }

/* A value in its unit: "bytes", "blocks", "bytes/h", "blocks/h". */
function figure(value, unit, noun) {
  const what = unit.startsWith("bytes") ? size(value) : count(value);
  if (unit.endsWith("/h")) return `${what}/h`;
  return unit === "blocks" ? `${what} ${noun}${value === 1 ? "" : "s"}` : what;
}

function percent(part, whole) {
  if (!(whole > 0)) return "";
  const share = 100 * part / whole;
  if (share > 0 && share < 1) return "<1%";
  if (share > 99 && share < 100) return ">99%";
  return `${Math.round(share)}%`;
}

/* An element with attributes and children; texts become text, never HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function data() { return JSON.parse(document.getElementById("data").textContent); }

/* Light or dark: as the system says, until the reader chooses. */
function setUpTheme(button, changed) {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const apply = () => {
    const dark = chosen === null ? system.matches : chosen;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${dark ? "light" : "dark"} theme`);
    changed();
  };
  system.addEventListener("change", apply);
  window.addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; });
  window.addEventListener("afterprint", apply);
  button.addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme !== "dark";
    apply();
  });
  apply();
}

function prefersStill() { return window.matchMedia("(prefers-reduced-motion: reduce)").matches; }
