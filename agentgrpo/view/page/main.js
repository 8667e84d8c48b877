"use strict";
// Starts the page and connects what stands in it.

const app = { index: null, groups: [], texts: {}, special: new Set(), hasTexts: false, search: 0, numChunks: 0 };

async function start() {
  if (!("DecompressionStream" in window)) {
    byId("loading").textContent = "This browser cannot unpack the data: it needs DecompressionStream (any browser since 2024).";
    return;
  }
  setTheme(stored("theme"));
  const [index, vocabulary] = await Promise.all([readBlock("index"), readBlock("vocabulary")]);
  Object.assign(app, { index, groups: groupsOf(index), texts: vocabulary.texts, special: new Set(vocabulary.special) });
  app.hasTexts = Object.keys(vocabulary.texts).length > 0;
  app.numChunks = index.groups[index.groups.length - 1].chunk + 1;
  drawFrame();
  connect();
  setMode(MODES[0]);
  applyFilters();
  await select(groupInAddress() || list.groups[0]);
  byId("loading").remove();
  document.body.classList.add("ready");
}

function drawFrame() {
  const { run, notes } = app.index;
  const facts = [run.env, run.algorithm, plural(run.updates, "update")].filter(Boolean).join(" · ");
  const state = el("span", `chip ${run.finished ? "" : "warn"}`, run.finished ? "finished" : "not finished");
  byId("run").append(el("b", "", run.name), el("span", "muted", facts), state);
  byId("notes").hidden = notes.length === 0;
  byId("notes").append(...notes.map((note) => el("p", "", visible(note))));
  byId("modes").append(...MODES.map(modeButton));
  byId("help").append(...helpContent());
  fillSelect("update", [...new Set(app.groups.map((group) => group.update))]);
  fillSelect("env", [...new Set(app.groups.map((group) => group.env))].sort());
  fillSelect("status", [...app.index.statuses].sort());
}

function modeButton(mode) {
  const button = el("button", isThere(mode, app.index) ? "" : "off", mode.label);
  button.type = "button";
  button.title = isThere(mode, app.index) ? mode.about : mode.absent;
  button.dataset.mode = mode.key;
  button.setAttribute("role", "radio");
  button.addEventListener("click", () => setMode(mode));
  return button;
}

function fillSelect(id, values) {
  byId(id).append(new Option("all", ""), ...values.map((value) => new Option(visible(String(value)), String(value))));
}

function connect() {
  byId("list").addEventListener("scroll", () => requestAnimationFrame(drawList));
  addEventListener("resize", drawList);
  byId("rows").addEventListener("click", (event) => {
    const row = event.target.closest(".group-row");
    if (row) select(app.groups[Number(row.dataset.number)]);
  });
  for (const id of ["update", "env", "status", "order"]) {
    byId(id).addEventListener("change", (event) => {
      filters[id] = event.target.value;
      event.target.blur(); // so that the keys work again
      applyFilters();
    });
  }
  byId("success").addEventListener("click", (event) => {
    if (!event.target.dataset.value) return;
    filters.success = event.target.dataset.value;
    applyFilters();
  });
  let waiting = 0;
  byId("query").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(event.target.value), 200);
  });
  byId("theme").addEventListener("click", switchTheme);
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("help").addEventListener("click", (event) => {
    if (event.target === byId("help") || event.target.closest(".close")) byId("help").close();
  });
  connectBoard();
  addEventListener("keydown", onKey);
  addEventListener("hashchange", () => groupInAddress() && select(groupInAddress()));
}

function connectBoard() {
  byId("board").addEventListener("mouseover", (event) => {
    const cell = event.target.closest(".turn");
    hoverState(cell ? Number(cell.dataset.state) : -1);
    const token = event.target.closest(".tok");
    if (token) showTip(token);
    else byId("tip").hidden = true;
  });
  byId("board").addEventListener("mouseleave", () => {
    hoverState(-1);
    byId("tip").hidden = true;
  });
  byId("board").addEventListener("scroll", () => (byId("tip").hidden = true));
  byId("board").addEventListener("click", clickBoard);
  byId("states").addEventListener("click", (event) => {
    if (event.target.closest(".close")) return pinState(-1);
    const row = event.target.closest("tr[data-member]");
    return row && moveTo(Number(row.dataset.member), Number(row.dataset.turn), true);
  });
}

function clickBoard(event) {
  const head = event.target.closest(".head");
  if (head) {
    board.member = Number(head.dataset.member);
    return setAlone(!board.alone);
  }
  const cell = event.target.closest(".cell[data-member]");
  if (!cell) return undefined;
  board.member = Number(cell.dataset.member);
  board.turn = Number(cell.dataset.turn);
  markCursor();
  return event.target.closest("button.state") ? pinState(Number(cell.dataset.state)) : undefined;
}

// --- what is shown -----------------------------------------------------------------------------------------------

/** Shows a group; the last one asked for wins. */
async function select(group) {
  if (!group) return;
  markListed(group.number);
  const chunk = await readChunk(group.chunk);
  if (list.selected !== group.number || board.group === group) return;
  Object.assign(board, { group, members: membersOf(chunk, group), member: 0, turn: 0, alone: false });
  Object.assign(states, { hovered: -1, pinned: -1 });
  byId("states").hidden = true;
  drawBoard();
  if (filters.query) showFirstHit();
  history.replaceState(null, "", `#update-${group.update}-group-${group.name}`);
}

function groupInAddress() {
  const found = /^#update-(\d+)-group-(\d+)$/.exec(location.hash);
  return found && app.groups.find((group) => group.update === Number(found[1]) && group.name === Number(found[2]));
}

function setMode(mode) {
  const before = board.group && showsPrompts();
  board.mode = mode;
  for (const button of byId("modes").children) {
    button.setAttribute("aria-checked", button.dataset.mode === mode.key);
  }
  byId("legend").replaceChildren(legendOf(mode, app.index));
  if (!board.group) return;
  if (before !== showsPrompts()) drawBoard(true);
  else repaint();
}

/** Lists what the filters want; a group that is no longer listed stays on the board. */
function applyFilters() {
  for (const button of byId("success").children) {
    button.setAttribute("aria-checked", button.dataset.value === filters.success);
  }
  const { shown, trajectories } = filtered(app.groups);
  setListed(shown);
  const total = app.groups.reduce((count, group) => count + group.members.length, 0);
  byId("count").textContent =
    `${trajectories.toLocaleString("en")} of ${plural(total, "trajectory").replace("trajectorys", "trajectories")}` +
    ` in ${plural(shown.length, "group")}`;
  if (board.group) drawBoard(true);
}

async function search(text) {
  const ticket = ++app.search;
  const query = text.trim().toLowerCase();
  if (byId("query").value.trim().toLowerCase() !== query) byId("query").value = text;
  const report = (done) => (byId("count").textContent = `searching, ${Math.round((100 * done) / app.numChunks)}%`);
  const found = query ? await searchAll(app.groups, query, app.numChunks, () => ticket === app.search, report) : null;
  if (ticket !== app.search) return;
  Object.assign(filters, { query, found });
  applyFilters();
  if (!query || !list.groups.length) return;
  if (list.groups.includes(board.group)) showFirstHit();
  else await select(list.groups[0]);
}

/** Moves to the first step of the group that holds the searched text. */
function showFirstHit() {
  for (const member of board.members) {
    const at = member.steps.findIndex((step) => holdsQuery([step.observation, step.text, step.action, step.anchor ?? ""]));
    if (at >= 0) return moveTo(member.at, at, true);
    if (holdsQuery([member.final, member.error])) return moveTo(member.at, member.steps.length, true);
  }
  return undefined;
}

// --- light and dark ------------------------------------------------------------------------------------------------

function stored(name) {
  try {
    return localStorage.getItem(`agentgrpo.${name}`);
  } catch {
    return null; // forbidden for files in some browsers
  }
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function switchTheme() {
  const theme = isDark() ? "light" : "dark";
  setTheme(theme);
  try {
    localStorage.setItem("agentgrpo.theme", theme);
  } catch {
    // Then the choice lasts as long as the page.
  }
}

start().catch((error) => {
  byId("loading").textContent = `The page cannot be shown: ${error}`;
  throw error;
});
