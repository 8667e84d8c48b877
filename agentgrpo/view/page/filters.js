"use strict";
// Which trajectories are wanted. A group is listed when at least one of its members is.

const filters = { success: "all", update: "", env: "", status: "", order: "time", query: "", found: null };

function wanted(group, member, at) {
  if (filters.success !== "all" && member.success !== (filters.success === "yes")) return false;
  if (filters.status && member.status !== filters.status) return false;
  return !filters.found || filters.found.has(`${group.number}/${at}`);
}

function wantedMembers(group) {
  if (filters.update && String(group.update) !== filters.update) return 0;
  if (filters.env && group.env !== filters.env) return 0;
  return group.members.reduce((count, member, at) => count + wanted(group, member, at), 0);
}

const returnsOf = (group) => group.members.map((member) => member.return);

const ORDERS = {
  time: (a, b) => a.number - b.number,
  spread: (a, b) => deviation(returnsOf(b)) - deviation(returnsOf(a)) || a.number - b.number,
  low: (a, b) => (mean(returnsOf(a)) ?? Infinity) - (mean(returnsOf(b)) ?? Infinity) || a.number - b.number,
  long: (a, b) => mostTurns(b) - mostTurns(a) || a.number - b.number,
};

const mostTurns = (group) => Math.max(...group.members.map((member) => member.turns));

/** The groups to list, and how many trajectories of them are wanted. */
function filtered(groups) {
  let trajectories = 0;
  const shown = groups.filter((group) => {
    const count = wantedMembers(group);
    trajectories += count;
    return count > 0;
  });
  return { shown: shown.sort(ORDERS[filters.order]), trajectories };
}

/** "group/member" of every trajectory with the text; null when a newer search has begun. */
async function searchAll(groups, query, numChunks, isCurrent, report) {
  const found = new Set();
  const byPlace = new Map(groups.map((group) => [`${group.chunk}/${group.row}`, group]));
  for (let number = 0; number < numChunks; number++) {
    // Not through the cache: what is looked at stays there.
    const chunk = await readBlock(`chunk-${number}`);
    if (!isCurrent()) return null;
    const hits = new Set(chunk.texts.keys());
    chunk.texts.forEach((text, i) => text.toLowerCase().includes(query) || hits.delete(i));
    if (hits.size) addHits(chunk, number, hits, byPlace, found);
    report(number + 1);
  }
  return found;
}

function addHits(chunk, number, hits, byPlace, found) {
  chunk.groups.forEach((members, row) => {
    const group = byPlace.get(`${number}/${row}`);
    members.forEach((trajectory, at) => {
      if (holdsAny(trajectory, hits)) found.add(`${group.number}/${at}`);
    });
  });
}

function holdsAny(trajectory, hits) {
  return (
    [trajectory.final, trajectory.error, trajectory.info].some((i) => hits.has(i)) ||
    ["observation", "text", "action", "anchor"].some((name) => trajectory[name].some((i) => hits.has(i)))
  );
}
