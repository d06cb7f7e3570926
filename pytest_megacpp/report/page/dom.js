"use strict";
// Owns making elements; must not know what of. A text becomes a text node, whatever is in it.

const $ = (id) => document.getElementById(id);

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  for (const child of children.flat())
    if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}

function ranksOf(list) {
  const found = new Set();
  for (const part of String(list).split(",")) {
    const match = /^\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*$/.exec(part);
    if (match) for (let r = +match[1]; r <= Math.min(+(match[2] || match[1]), +match[1] + 10000); r++) found.add(r);
  }
  return found;
}

/** The opposite of `ranksOf`: `0-3,5`. */
function listOf(ranks) {
  const parts = [];
  for (const rank of [...ranks].sort((a, b) => a - b)) {
    const last = parts[parts.length - 1];
    if (last && last[1] === rank - 1) last[1] = rank;
    else parts.push([rank, rank]);
  }
  return parts.map(([a, b]) => (a === b ? a : b === a + 1 ? a + "," + b : a + "-" + b)).join();
}

const fill = (element, ...children) =>
  element.replaceChildren(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
const named = (list) => (/^\d+$/.test(list) ? "rank " : "ranks ") + list;
const link = (path, text) =>
  /^(receipts|flight|ranks)\/[\w.\-/\[\]]+$/.test(path || "") && !path.includes("..")
    ? h("a", { href: encodeURI(path) }, text)
    : path
      ? h("span", {}, text + ": " + path)
      : null;
