"use strict";
// Elements and texts. Whatever comes from a run gets into the page through text nodes only.

/** An element with a class and children; a child that is no element becomes text. */
function el(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

/** Control characters as their pictures, and marks that change the direction of text by name: nothing acts or hides. */
function visible(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/\u007f/g, "\u2421")
    .replace(/[\u0080-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (c) => `‹U+${codeOf(c)}›`);
}

function codeOf(character) {
  return character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
}

/** Text in which the search's matches are marked. */
function marked(text, query) {
  const out = document.createDocumentFragment();
  const lower = query ? text.toLowerCase() : "";
  // Lower-casing may change the length of a text; then positions do not fit, and nothing is marked.
  if (!query || lower.length !== text.length) {
    out.append(visible(text));
    return out;
  }
  let from = 0;
  for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, from)) {
    out.append(visible(text.slice(from, at)), el("mark", "", visible(text.slice(at, at + query.length))));
    from = at + query.length;
  }
  out.append(visible(text.slice(from)));
  return out;
}

/** A number in few characters; an en dash where there is none. */
function short(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.5 * 10 ** -digits || size >= 1e5)) return value.toExponential(1).replace("-", "−");
  return value.toFixed(digits).replace("-", "−");
}

function signed(value, digits = 2) {
  return value > 0 ? `+${short(value, digits)}` : short(value, digits);
}

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

function mean(values) {
  const known = values.filter((v) => v !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}

function deviation(values) {
  const known = values.filter((v) => v !== null);
  const middle = mean(known);
  return known.length ? Math.sqrt(mean(known.map((v) => (v - middle) ** 2))) : 0;
}

/** ✓, ✗, or ! for an episode whose environment failed. */
function outcome(member) {
  if (member.status.startsWith("env_")) return "crash";
  return member.success ? "good" : "bad";
}

const OUTCOME_SIGNS = { good: "✓", bad: "✗", crash: "!" };
