const controls = document.getElementById("controls");
let waiting = false;

function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; changed(); });
}

function addLimit(limit, i) {
  const label = document.createElement("label");
  const name = Object.assign(document.createElement("span"), { textContent: limit.title });
  const output = Object.assign(document.createElement("output"), { textContent: "any" });
  const slider = Object.assign(document.createElement("input"), {
    type: "range", min: 0, max: limit.stops.length - 1, step: 1, defaultValue: 0, name: `limit-${limit.name}`,
  });
  slider.value = 0;
  slider.addEventListener("input", () => { setLimit(limit, slider, output); soon(); });
  label.append(name, output, slider);
  document.getElementById("limits").append(label);
  return () => setLimit(limit, slider, output);
}

// The first stop is the loosest and means no limit.
function setLimit(limit, slider, output) {
  const [value, text] = limit.stops[Number(slider.value)];
  if (Number(slider.value) === 0) delete state.limits[limit.name];
  else state.limits[limit.name] = value;
  output.textContent = Number(slider.value) === 0 ? "any" : text;
  slider.setAttribute("aria-valuetext", output.textContent);
}

function readSwitches() {
  for (const kind of Object.keys(state.off)) state.off[kind] = !controls.elements[kind].checked;
  for (const axis of ["logx", "logy", "near"]) state[axis] = controls.elements[axis].checked;
}

function best(numbers) {
  const { name, maximize } = review.quality;
  const rated = numbers.map((n) => trials.get(n)).filter((t) => t.v[name] !== undefined && t.kind !== "repeat");
  return rated.sort((a, b) => (maximize ? -1 : 1) * (a.v[name] - b.v[name]))[0];
}

function sayNarrowed() {
  const line = document.getElementById("narrowed");
  const shown = review.trials.map((trial) => trial.n).filter(isShown);
  const missing = Object.keys(state.limits).map((name) => review.trials.filter((t) => t.v[name] === undefined).length);
  const unknown = Math.max(0, ...missing);
  const low = state.near ? qualities().filter((value) => outOfView(value)).length : 0;
  const texts = [`${shown.length} of ${review.trials.length} trials shown.`];
  if (unknown) texts.push(`${unknown} lack a limited number and are left out.`);
  if (low) texts.push(`${low} lie outside the pictures.`);
  line.textContent = texts.join(" ") + " ";
  const top = Object.keys(state.limits).length ? best(shown) : undefined;
  if (!top) return;
  const link = Object.assign(document.createElement("a"), { href: `#trial-${top.n}`, textContent: `trial ${top.n}` });
  line.append("Best within these limits: ", link, `, ${top.brief}.`);
}

function outOfView(value) {
  const { maximize, view } = review.quality;
  const top = maximize ? Math.max(...qualities()) : Math.min(...qualities());
  return maximize ? value < top - view : value > top + view;
}

function viewNearBest() {
  const { view } = review.quality;
  document.getElementById("near-label").hidden = !view;
  const values = qualities();
  const wide = view && values.length > 3 && Math.max(...values) - Math.min(...values) > 2.5 * view;
  controls.elements.near.defaultChecked = Boolean(wide);
  controls.elements.near.checked = Boolean(wide);
}

function hideIdleSwitches() {
  for (const kind of Object.keys(state.off)) {
    const used = review.trials.some((trial) => SWITCH_OF[trial.kind] === kind);
    controls.elements[kind].parentElement.hidden = !used;
  }
}

const limits = review.limits.map(addLimit);
hideIdleSwitches();
viewNearBest();
readSwitches();
controls.addEventListener("change", () => { readSwitches(); soon(); });
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(() => {
  for (const set of limits) set();
  readSwitches();
  soon();
}));
startTable();
startCandidate();
startParallel();
startPlots();
watchers.push(refresh, sayNarrowed);
sayNarrowed();
const asked = /^#trial-(\d+)$/.exec(location.hash);
if (asked && trials.has(Number(asked[1]))) open(Number(asked[1]), { scroll: true });
else if (review.first !== null) opens(review.first);
else panel.hidden = true;
