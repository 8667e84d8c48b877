"use strict";
// Step groups: a group's visits to one state, which GiGPO compares with each other. They share a colour, light up
// together under the pointer, and a pinned one is listed below the board.

const states = { hovered: -1, pinned: -1 };

/** Far apart for neighbouring numbers. */
const hueOf = (state) => String(Math.round((state * 137.5 + 205) % 360));

function visitsTo(state) {
  return board.members.flatMap((member) =>
    member.steps.filter((step) => step.state === state).map((step) => ({ member, step })),
  );
}

function stateChip(step) {
  if (step.state < 0) {
    const lone = el("span", "state lone", "◇");
    lone.title = "No other step of the group was in this state.";
    return lone;
  }
  const chip = el("button", "state", `◆ ${step.state + 1}`, el("small", "", `×${visitsTo(step.state).length}`));
  chip.type = "button";
  chip.title = `${step.anchor ?? step.observation}\nClick: list the steps in this state (s)`;
  return chip;
}

/** Classes of the hovered and the pinned step group. */
function markStates(within = byId("board")) {
  for (const cell of within.querySelectorAll(".turn")) {
    const state = Number(cell.dataset.state);
    cell.classList.toggle("linked", state >= 0 && state === states.hovered);
    cell.classList.toggle("pinned", state >= 0 && state === states.pinned);
  }
  byId("board").classList.toggle("has-pinned", states.pinned >= 0);
}

function hoverState(state) {
  if (state === states.hovered) return;
  states.hovered = state;
  markStates();
}

/** Lists a step group below the board; -1, or the pinned one again, closes the list. */
function pinState(state) {
  states.pinned = state === states.pinned ? -1 : state;
  const panel = byId("states");
  panel.hidden = states.pinned < 0;
  if (states.pinned >= 0) panel.replaceChildren(...statePanel(states.pinned));
  markStates();
}

function statePanel(state) {
  const visits = visitsTo(state).sort((a, b) => b.step.toGo - a.step.toGo);
  const { run } = app.index;
  const close = el("button", "close", "×");
  close.type = "button";
  close.title = "Close (Esc)";
  const title = el("div", "panel-head", el("b", "", `◆ ${state + 1}`), el("span", "", visible(visits[0].step.anchor ?? visits[0].step.observation)), close);
  title.style.setProperty("--hue", hueOf(state));
  const names = ["member", "turn", "action", "reward", `to go, γ ${run.gamma}`, "advantage"];
  const most = Math.max(...visits.map(({ step }) => Math.abs(stepAdvantage(step) ?? 0))) || 1;
  const table = el(
    "table",
    "",
    el("thead", "", el("tr", "", ...names.map((name) => el("th", "", name)))),
    el("tbody", "", ...visits.map((visit) => visitRow(visit, most))),
  );
  const note = run.similarity === null ? null : el("p", "muted", `The run also counted states as one that are ${run.similarity} alike; here only equal ones are linked.`);
  return [title, note, el("div", "scroll", table)].filter(Boolean);
}

function visitRow({ member, step }, most) {
  const advantage = stepAdvantage(step);
  const bar = el("i", `amount ${advantage < 0 ? "neg" : "pos"}`);
  setStrength(bar, Math.abs(advantage ?? 0) / most);
  const values = [short(step.reward), short(step.toGo, 3)].map((value) => el("td", "num", value));
  const row = el(
    "tr",
    "",
    el("td", "num", el("span", `badge ${outcome(member)}`, OUTCOME_SIGNS[outcome(member)]), ` #${member.slot}`),
    el("td", "num", String(step.turn + 1)),
    el("td", "act", visible(step.action)),
    ...values,
    el("td", "num", signed(advantage), bar),
  );
  row.dataset.member = member.at;
  row.dataset.turn = step.turn;
  return row;
}

/** Moves to the next visit of the pinned state, or of the one at the cursor; members in order, then turns. */
function nextVisit(direction) {
  const here = board.members[board.member].steps[board.turn];
  const state = states.pinned >= 0 ? states.pinned : here ? here.state : -1;
  const visits = visitsTo(state);
  if (state < 0 || !visits.length) return;
  const place = (member, turn) => member * 1e6 + turn;
  const now = place(board.member, board.turn);
  const places = visits.map(({ member, step }) => place(member.at, step.turn));
  const next =
    direction > 0 ? places.findIndex((p) => p > now) : places.length - 1 - [...places].reverse().findIndex((p) => p < now);
  const wrapped = next < 0 ? 0 : next >= places.length ? places.length - 1 : next;
  moveTo(visits[wrapped].member.at, visits[wrapped].step.turn, true);
}
