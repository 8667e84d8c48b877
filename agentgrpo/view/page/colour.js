"use strict";
// What the colour of a token means. A token gets a class (which colour) and --w (how much of it).

const SURPRISE = 4; // nats at which the colour of a log-probability is full: a chance of 2 per cent

/** All colourings: `kind` is diverging (around 0), heat (from 0 up) or mask. */
const MODES = [
  { key: "advantage", label: "advantage", kind: "diverging", about: "Advantage of each token that the policy wrote" },
  { key: "logprob", label: "surprise", kind: "heat", about: "−log p of the sampler: how unlikely the token was" },
  {
    key: "gap",
    label: "gap",
    kind: "diverging",
    about: "Log-probability recomputed by the trainer, less the sampler's",
    absent:
      "This run's trainer took the sampler's log-probabilities as they are, so there is no gap to show. " +
      "algorithm.old_logprobs=recompute, with more than one optimiser step per update, has it.",
  },
  {
    key: "reference",
    label: "reference",
    kind: "diverging",
    about: "Log-probability under the reference policy, less the sampler's",
    absent: "This run had no reference policy: algorithm.kl_coef was 0.",
  },
  {
    key: "value",
    label: "value",
    kind: "diverging",
    about: "What the critic expected before the token",
    absent: "This run had no critic: only ppo has one.",
  },
  { key: "mask", label: "mask", kind: "mask", about: "Who wrote the token: policy, expert or environment" },
  { key: "none", label: "plain", kind: "none", about: "No colour" },
];

function isThere(mode, index) {
  return !mode.absent || index.columns.includes(mode.key);
}

/** Colours a token's element; `fact` says whose token it is and where its values are. */
function paint(span, fact, mode, scales) {
  span.classList.remove("pos", "neg", "heat", "in-mask");
  if (mode.kind === "mask") {
    span.classList.add("in-mask");
    return;
  }
  if (fact.kind !== "policy" || mode.kind === "none") return;
  const value = tokenValue(fact.step, mode.key, fact.at);
  if (value === null) return;
  if (mode.kind === "heat") {
    span.classList.add("heat");
    setStrength(span, -value / SURPRISE);
  } else {
    span.classList.add(value < 0 ? "neg" : "pos");
    // The root lets weak values be seen beside strong ones: one winner of eight has seven times the advantage of a loser.
    setStrength(span, Math.sqrt(Math.abs(value) / (scales[mode.key] || 1)));
  }
}

/** `share` is between 0 and 1; what lies beyond gets the full colour. */
function setStrength(element, share) {
  element.style.setProperty("--w", `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%`);
}

/** The legend of a colouring: a bar with its ends, or the names of the mask. */
function legendOf(mode, index) {
  if (!isThere(mode, index)) return el("span", "absent", mode.absent);
  if (mode.kind === "none") return el("span", "");
  if (mode.kind === "mask") {
    const names = [["policy", "policy"], ["expert", "expert"], ["env", "environment"]];
    return el("span", "keys", ...names.map(([kind, name]) => el("span", `tok in-mask ${kind}`, name)));
  }
  const scale = mode.kind === "heat" ? SURPRISE : index.scales[mode.key] || 0;
  const ends = mode.kind === "heat" ? ["p = 1", `p < ${short(Math.exp(-scale))}`] : [short(-scale), signed(scale)];
  return el("span", "keys", ends[0], el("span", `bar ${mode.kind}`), ends[1]);
}
