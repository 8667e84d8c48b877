"use strict";
// One group: a column per member, a row per turn. Rows are filled when they come near the window.

const board = { group: null, members: [], member: 0, turn: 0, alone: false, prompts: false, mode: MODES[0] };
const facts = new WeakMap(); // token element -> whose token it is, where its values are
let rowWatcher = null;

/** Steps and texts of a group's members. */
function membersOf(chunk, group) {
  return chunk.groups[group.row].map((trajectory, at) => {
    const steps = trajectory.observation.map((_, turn) => stepAt(chunk, trajectory, turn));
    const toGo = returnsToGo(steps.map((step) => step.reward), app.index.run.gamma);
    steps.forEach((step, turn) => (step.toGo = toGo[turn]));
    const [final, error, info] = ["final", "error", "info"].map((name) => chunk.texts[trajectory[name]]);
    return { ...group.members[at], at, steps, final, error, info };
  });
}

/** Draws the group anew; `keep` leaves the window where it was. */
function drawBoard(keep = false) {
  const box = byId("board");
  const [top, left] = [box.scrollTop, box.scrollLeft];
  byId("group-head").replaceChildren(...groupHead());
  const shown = shownMembers();
  box.style.setProperty("--columns", shown.length);
  box.classList.toggle("alone", board.alone);
  const numRows = Math.max(...shown.map((member) => member.steps.length)) + 1;
  const rows = Array.from({ length: numRows }, (_, turn) => emptyRow(turn));
  box.replaceChildren(el("div", "heads", el("span", "number"), ...shown.map(memberHead)), ...rows);
  watchRows(box, rows);
  box.scrollTo(keep ? left : 0, keep ? top : 0);
  markStates();
  markCursor();
}

function shownMembers() {
  return board.alone ? [board.members[board.member]] : board.members;
}

function emptyRow(turn) {
  const row = el("div", "row");
  row.dataset.turn = turn;
  return row;
}

function watchRows(box, rows) {
  if (rowWatcher) rowWatcher.disconnect();
  const options = { root: box, rootMargin: "800px 0px" };
  rowWatcher = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => fillRow(entry.target));
  }, options);
  rows.forEach((row, turn) => (turn < 4 ? fillRow(row) : rowWatcher.observe(row)));
}

function fillRow(row) {
  if (row.childElementCount) return;
  if (rowWatcher) rowWatcher.unobserve(row);
  const turn = Number(row.dataset.turn);
  row.append(el("span", "number", String(turn + 1)), ...shownMembers().map((member) => cellAt(member, turn)));
  markStates(row);
  markCursor(row);
}

function cellAt(member, turn) {
  if (turn > member.steps.length) return el("div", "cell nothing");
  const cell = turn === member.steps.length ? endCell(member) : turnCell(member.steps[turn]);
  cell.dataset.member = member.at;
  cell.dataset.turn = turn;
  if (!wanted(board.group, board.group.members[member.at], member.at)) cell.classList.add("unwanted");
  return cell;
}

// --- heads ---------------------------------------------------------------------------------------------------------

function groupHead() {
  const group = board.group;
  const returns = returnsOf(group);
  const solved = group.members.filter((member) => member.success).length;
  const facts = [
    ["update", group.update],
    ["task", group.seed],
    ["solved", `${solved} of ${group.members.length}`],
    ["return", `${short(mean(returns))} ± ${short(deviation(returns))}`],
    ["best possible", group.maxReturn === null ? null : short(group.maxReturn)],
  ];
  const shown = facts.filter(([, value]) => value !== null);
  return [
    el("h1", "", group.env || "group", el("small", "", ` group ${group.name}`)),
    el("dl", "", ...shown.map(([name, value]) => el("div", "", el("dt", "", name), el("dd", "", String(value))))),
    deviation(returns) === 0 ? flatNote() : null,
    ...taskInfo(),
  ].filter(Boolean);
}

function flatNote() {
  const note = el("span", "chip warn", "no spread");
  note.title = "All returns are equal: comparing the members' returns teaches nothing here.";
  return note;
}

function taskInfo() {
  const text = board.members[0].info;
  return text ? [el("details", "", el("summary", "", "task info"), el("pre", "", marked(text, filters.query)))] : [];
}

function memberHead(member) {
  const kind = outcome(member);
  const head = el(
    "div",
    `head ${kind}`,
    el("span", `badge ${kind}`, OUTCOME_SIGNS[kind]),
    el("b", "", `#${member.slot}`),
    el("span", "return", short(member.return)),
    el("span", "muted", `${plural(member.turns, "turn")} · ${plural(member.tokens, "token")}`),
    member.status === "terminated" ? null : el("span", "chip", member.status.replace("_", " ")),
    member.guided ? el("span", "chip expert-chip", "expert led in") : null,
  );
  head.dataset.member = member.at;
  head.title = "Click: this member alone (Enter)";
  if (!wanted(board.group, board.group.members[member.at], member.at)) head.classList.add("unwanted");
  return head;
}

// --- cells ---------------------------------------------------------------------------------------------------------

function turnCell(step) {
  const cell = el(
    "div",
    "cell turn",
    el("div", "turn-head", stateChip(step), ...chipsOf(step), rewardOf(step)),
    showsPrompts() ? promptOf(step) : el("div", "observation", marked(step.observation, filters.query)),
    completionOf(step),
    step.action !== step.text.trim() ? el("div", "action", "→ ", marked(step.action, filters.query)) : null,
  );
  if (step.state >= 0) cell.style.setProperty("--hue", hueOf(step.state));
  cell.dataset.state = step.state;
  if (holdsQuery([step.observation, step.text, step.action])) cell.classList.add("hit");
  return cell;
}

function endCell(member) {
  const cell = el(
    "div",
    "cell end",
    el("div", "turn-head", el("span", `badge ${outcome(member)}`, OUTCOME_SIGNS[outcome(member)]), el("span", "muted", member.status.replace("_", " "))),
    el("div", "observation", marked(member.final, filters.query)),
    member.error ? el("pre", "error", marked(member.error, filters.query)) : null,
  );
  if (holdsQuery([member.final, member.error])) cell.classList.add("hit");
  return cell;
}

function holdsQuery(texts) {
  return filters.query !== "" && texts.some((text) => text.toLowerCase().includes(filters.query));
}

function chipsOf(step) {
  const lag = board.group.update - 1 - step.version;
  const chips = [];
  if (!step.valid) chips.push(["invalid", "The environment could not read this action."]);
  if (step.cut) chips.push(["cut off", "The turn's token limit came before the end of the answer."]);
  if (lag > 0) chips.push([`${lag} late`, `Drawn from weights that were ${plural(lag, "update")} older than those that learnt.`]);
  return chips.map(([text, title]) => {
    const chip = el("span", "chip warn", text);
    chip.title = title;
    return chip;
  });
}

function rewardOf(step) {
  const tone = step.reward > 0 ? " good" : step.reward < 0 ? " bad" : " zero";
  const reward = el("span", `reward${tone}`, signed(step.reward));
  reward.title = step.reward === null ? "unknown reward" : "reward";
  const terms = step.terms.filter(([, value]) => step.terms.length > 1 || value !== step.reward);
  const parts = terms.map(([term, value]) => el("span", "term", `${app.index.terms[term]} ${short(value)}`));
  return el("span", "rewards", ...parts, reward);
}

function showsPrompts() {
  return board.prompts || board.mode.kind === "mask";
}

function promptOf(step) {
  const title = step.fresh ? "a fresh prompt" : "appended to the sequence";
  const box = el("div", "prompt", ...step.prompt.map((id) => tokenSpan(id, { kind: "env", step })));
  box.title = title;
  return box;
}

/** What was answered, token by token; as plain text where the run has no tokenizer. */
function completionOf(step) {
  const box = el("div", "completion");
  if (!app.hasTexts) box.append(el("div", "observation", marked(step.text, filters.query)));
  step.tokens.forEach((id, i) => {
    const expert = i < step.guided;
    box.append(tokenSpan(id, { kind: expert ? "expert" : "policy", step, at: i - step.guided }));
  });
  return box;
}

function tokenSpan(id, fact) {
  const text = app.texts[id];
  const span = el("span", `tok ${fact.kind}`, text === undefined ? `#${id} ` : visible(text).replace(/\n/g, "↵\n"));
  if (app.special.has(id)) span.classList.add("special");
  facts.set(span, { ...fact, id });
  paint(span, fact, board.mode, app.index.scales);
  return span;
}

function repaint() {
  for (const span of byId("board").querySelectorAll(".tok")) paint(span, facts.get(span), board.mode, app.index.scales);
}

// --- cursor --------------------------------------------------------------------------------------------------------

/** Outlines the cell that the keys are at. */
function markCursor(within = byId("board")) {
  for (const cell of within.querySelectorAll(".cell.cursor")) cell.classList.remove("cursor");
  const cell = cellOf(board.member, board.turn, within);
  if (cell) cell.classList.add("cursor");
}

function cellOf(member, turn, within = byId("board")) {
  return within.querySelector(`.cell[data-member="${member}"][data-turn="${turn}"]`);
}

/** Moves the cursor, clipped to what there is, and brings it into sight. */
function moveTo(member, turn, centre = false) {
  board.member = Math.min(board.members.length - 1, Math.max(0, member));
  board.turn = Math.min(board.members[board.member].steps.length, Math.max(0, turn));
  if (board.alone && !cellOf(board.member, 0)) drawBoard();
  const row = byId("board").querySelector(`.row[data-turn="${board.turn}"]`);
  fillRow(row);
  markCursor();
  cellOf(board.member, board.turn).scrollIntoView({ block: centre ? "center" : "nearest", inline: "nearest" });
}

function setAlone(alone) {
  board.alone = alone;
  drawBoard();
  moveTo(board.member, board.turn);
}

// --- the tip over a token --------------------------------------------------------------------------------------------

function showTip(span) {
  const tip = byId("tip");
  const fact = facts.get(span);
  tip.hidden = !fact;
  if (!fact) return;
  const rows = tipRows(fact).filter(([, value]) => value !== null);
  tip.replaceChildren(...rows.flatMap(([name, value]) => [el("span", "", name), el("b", "", value)]));
  const at = span.getBoundingClientRect();
  const below = at.bottom + tip.offsetHeight + 8 < innerHeight;
  tip.style.left = `${Math.max(4, Math.min(at.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${below ? at.bottom + 6 : at.top - tip.offsetHeight - 6}px`;
}

function tipRows(fact) {
  const text = app.texts[fact.id];
  const rows = [["token", `${text === undefined ? "" : `${visible(JSON.stringify(text))} `}${fact.id}`]];
  if (fact.kind !== "policy") return [...rows, ["from", fact.kind === "env" ? "environment" : "expert"]];
  const value = (column) => tokenValue(fact.step, column, fact.at);
  const number = (column) => (value(column) === null ? null : signed(value(column), 3));
  const logprob = value("logprob");
  return [
    ...rows,
    ["advantage", number("advantage")],
    ["probability", logprob === null ? null : `${short(Math.exp(logprob), 3)}  (log ${short(logprob, 3)})`],
    ["gap", number("gap")],
    ["reference", number("reference")],
    ["value", number("value")],
  ];
}
