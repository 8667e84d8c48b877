"use strict";
// The list of groups. Only the rows in sight exist, so its length does not matter.

const ROW_HEIGHT = 54;
const list = { groups: [], selected: -1, drawn: "" };

function setListed(groups) {
  list.groups = groups;
  list.drawn = "";
  byId("rows").style.height = `${groups.length * ROW_HEIGHT}px`;
  drawList();
}

/** Draws the rows in sight, unless they stand there already. */
function drawList() {
  const box = byId("list");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - 5);
  const last = Math.min(list.groups.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW_HEIGHT) + 5);
  const state = `${first} ${last} ${list.selected}`;
  if (state === list.drawn) return;
  list.drawn = state;
  const rows = list.groups.slice(first, last).map((group, i) => listRow(group, first + i));
  byId("rows").replaceChildren(...rows);
}

function listRow(group, position) {
  const chosen = group.number === list.selected;
  const value = mean(returnsOf(group));
  const row = el(
    "div",
    `group-row${chosen ? " chosen" : ""}`,
    el("div", "line", el("span", "env", group.env || "group"), el("span", "place", `update ${group.update} · group ${group.name}`)),
    el("div", "line", strip(group), el("span", "mean", short(value))),
  );
  row.style.top = `${position * ROW_HEIGHT}px`;
  row.dataset.number = group.number;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", chosen);
  return row;
}

/** A square per member: filled when it succeeded, faint when the filters do not want it. */
function strip(group) {
  const squares = group.members.map((member, at) => {
    const square = el("i", `square ${outcome(member)}${wanted(group, member, at) ? "" : " unwanted"}`);
    square.title = `member ${member.slot}: ${member.status}, return ${short(member.return)}`;
    return square;
  });
  return el("span", "strip", ...squares);
}

/** Marks a group and brings its row into sight. */
function markListed(number) {
  list.selected = number;
  const position = list.groups.findIndex((group) => group.number === number);
  const box = byId("list");
  if (position >= 0) {
    const top = position * ROW_HEIGHT;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW_HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW_HEIGHT - box.clientHeight;
  }
  drawList();
}

/** The group so many places further down the list; the end of the list where there is none. */
function neighbour(distance) {
  const position = list.groups.findIndex((group) => group.number === list.selected);
  const next = Math.min(list.groups.length - 1, Math.max(0, position + distance));
  return list.groups[next];
}
