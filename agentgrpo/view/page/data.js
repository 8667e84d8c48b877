"use strict";
// Data blocks stand in the page as base64 of gzip of JSON. Each is decoded when it is first looked at.

const KEPT_CHUNKS = 24;
const chunks = new Map(); // number -> promise, the least recently used first

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function readBlock(id) {
  const packed = new Blob([bytesOf(document.getElementById(id).textContent)]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** A chunk's texts, token sequences and groups. */
function readChunk(number) {
  const found = chunks.get(number) || readBlock(`chunk-${number}`);
  chunks.delete(number);
  chunks.set(number, found);
  if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  return found;
}

/** The groups of the index, with a member object per trajectory. */
function groupsOf(index) {
  return index.groups.map((g, number) => ({
    number,
    update: g.update,
    name: g.group,
    env: index.envs[g.env],
    seed: g.seed,
    maxReturn: g.max_return,
    chunk: g.chunk,
    row: g.row,
    members: g.slot.map((slot, i) => ({
      slot,
      status: index.statuses[g.status[i]],
      success: g.success[i] === 1,
      return: g.return[i],
      turns: g.turns[i],
      tokens: g.tokens[i],
      guided: g.guided[i],
    })),
  }));
}

/** One step of a member, its numbers resolved into texts and tokens. */
function stepAt(chunk, trajectory, turn) {
  const at = (name) => (trajectory[name] ? trajectory[name][turn] : null);
  return {
    turn,
    observation: chunk.texts[at("observation")],
    text: chunk.texts[at("text")],
    action: chunk.texts[at("action")],
    anchor: at("anchor") < 0 ? null : chunk.texts[at("anchor")],
    state: at("state"),
    reward: at("reward"),
    terms: at("terms"),
    prompt: chunk.sequences[at("prompt")],
    fresh: at("fresh") === 1,
    tokens: chunk.sequences[at("tokens")],
    guided: at("guided"),
    valid: at("valid") === 1,
    cut: at("cut") === 1,
    version: at("version"),
    advantage: at("advantage"),
    logprob: at("logprob"),
    gap: at("gap"),
    reference: at("reference"),
    value: at("value"),
  };
}

/** A step's value in a column for its i-th sampled token; advantages may be one number for all of them. */
function tokenValue(step, column, i) {
  const values = step[column];
  if (Array.isArray(values)) return values[i] ?? null;
  return column === "advantage" ? values : null;
}

/** The mean advantage of a step's sampled tokens; null where there are none. */
function stepAdvantage(step) {
  if (!Array.isArray(step.advantage)) return step.advantage;
  const known = step.advantage.filter((a) => a !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}

/** Discounted sums of rewards from each step on. */
function returnsToGo(rewards, gamma) {
  const out = new Array(rewards.length);
  let rest = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    rest = (rewards[t] ?? 0) + gamma * rest;
    out[t] = rest;
  }
  return out;
}
