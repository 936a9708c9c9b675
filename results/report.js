"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const figures = read("figures");
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
