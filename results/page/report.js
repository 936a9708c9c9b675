"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const review = read("review");
const trials = new Map(review.trials.map((trial) => [trial.n, trial]));
const ALWAYS = new Set(["front", "anchor", "unfinished"]);
const SWITCH_OF = { dominated: "dominated", repeat: "dominated", pruned: "pruned", failed: "failed" };

// What the reader has set: limits by objective, kinds not shown, axes, and the opened trial.
const state = {
  limits: {}, off: { dominated: false, pruned: false, failed: false },
  logx: false, logy: false, near: false, chosen: review.first,
};
const watchers = [];

// Text that was packed as base64 of its gzip.
async function unzipped(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const figures = new Map();

// A figure with what its points say, read when it is first drawn.
function figureOf(name) {
  if (!figures.has(name)) {
    const script = [...document.querySelectorAll("script[data-of]")].find(({ dataset }) => dataset.of === name);
    const figure = JSON.parse(script.textContent);
    for (const trace of figure.data) {
      if (Array.isArray(trace.customdata)) trace.hovertext = trace.customdata.map((number) => trials.get(number).hover);
    }
    figures.set(name, figure);
  }
  return figures.get(name);
}

function changed() {
  for (const watcher of watchers) watcher();
}

function within(trial) {
  return review.limits.every(({ name, least }) => {
    const limit = state.limits[name];
    if (limit === undefined) return true;
    const value = trial.v[name];
    return value !== undefined && (least ? value >= limit : value <= limit);
  });
}

function isShown(number) {
  const trial = trials.get(number);
  if (!trial) return true;
  return (ALWAYS.has(trial.kind) || !state.off[SWITCH_OF[trial.kind]]) && within(trial);
}

function walkable() {
  return review.front.filter(isShown);
}

function qualities() {
  return review.trials.map((trial) => trial.v[review.quality.name]).filter((value) => value !== undefined);
}
