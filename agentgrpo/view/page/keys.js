"use strict";
// Everything can be done from the keyboard; the overlay lists what is bound here.

const KEYS = [
  { keys: ["j", "k"], about: "next, previous group", run: (key) => select(neighbour(key === "j" ? 1 : -1)) },
  { keys: ["g", "G"], about: "first, last group", run: (key) => select(neighbour(key === "g" ? -Infinity : Infinity)) },
  { keys: ["ArrowLeft", "ArrowRight"], about: "member to the left, right", run: (key) => moveTo(board.member + (key === "ArrowRight" ? 1 : -1), board.turn) },
  { keys: ["ArrowUp", "ArrowDown"], about: "turn before, after", run: (key) => moveTo(board.member, board.turn + (key === "ArrowDown" ? 1 : -1)) },
  { keys: ["Enter"], about: "this member alone, and back", run: () => setAlone(!board.alone) },
  { keys: ["s"], about: "list the steps in this state", run: () => pinState(stateAtCursor()) },
  { keys: ["]", "["], about: "next, previous step in this state", run: (key) => nextVisit(key === "]" ? 1 : -1) },
  { keys: ["c", "C"], about: "next, previous colouring", run: (key) => cycleMode(key === "c" ? 1 : -1) },
  { keys: ["t"], about: "prompts token by token", run: () => togglePrompts() },
  { keys: ["f"], about: "all, solved, failed", run: () => cycleSuccess() },
  { keys: ["/"], about: "search", run: () => byId("query").focus() },
  { keys: ["d"], about: "light or dark", run: () => switchTheme() },
  { keys: ["?"], about: "this list", run: () => byId("help").showModal() },
  { keys: ["Escape"], about: "close, leave, clear the search", run: () => leave() },
];
const KEY_SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (typing && event.key !== "Escape") return;
  // A focused button keeps its own Enter.
  if (event.key === "Enter" && event.target instanceof HTMLButtonElement) return;
  const binding = KEYS.find((entry) => entry.keys.includes(event.key));
  if (!binding || (!board.group && event.key !== "?" && event.key !== "Escape")) return;
  event.preventDefault();
  binding.run(event.key);
}

function stateAtCursor() {
  const step = board.members[board.member].steps[board.turn];
  return step ? step.state : -1;
}

function cycleMode(direction) {
  const at = MODES.indexOf(board.mode);
  setMode(MODES[(at + direction + MODES.length) % MODES.length]);
}

function cycleSuccess() {
  const order = ["all", "yes", "no"];
  filters.success = order[(order.indexOf(filters.success) + 1) % order.length];
  applyFilters();
}

function togglePrompts() {
  board.prompts = !board.prompts;
  drawBoard(true);
}

/** Escape: out of the search, the list of states, the single member; then the search is cleared. */
function leave() {
  if (document.activeElement === byId("query")) {
    byId("query").blur();
    if (filters.query) search("");
  } else if (states.pinned >= 0) pinState(-1);
  else if (board.alone) setAlone(false);
  else if (filters.query) search("");
}

function helpContent() {
  const close = el("button", "close", "×");
  close.type = "button";
  const rows = KEYS.map(({ keys, about }) =>
    el("div", "", el("span", "", ...keys.map((key) => el("kbd", "", KEY_SIGNS[key] || key))), el("span", "", about)),
  );
  return [
    el("div", "panel-head", el("b", "", "Keys"), close),
    el("div", "key-list", ...rows),
    el("p", "muted", "◆ marks a step group: steps of one group in the same state share its number and colour, and GiGPO compares them. Hover a token for its figures, click a column's head to see the member alone."),
  ];
}
