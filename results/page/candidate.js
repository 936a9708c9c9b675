const panel = document.getElementById("candidate");
const panelBody = document.getElementById("candidate-body");
const details = read("details");
const unpacked = new Map();

// Candidates are packed, some together, for most are never opened.
async function pageOf(number) {
  const at = Math.floor(number / details.size);
  if (!unpacked.has(at)) unpacked.set(at, unzipped(details.chunks[at]).then(JSON.parse));
  return (await unpacked.get(at))[number];
}

async function open(number, { scroll = false } = {}) {
  if (!trials.has(number)) return;
  state.chosen = number;
  const page = await pageOf(number);
  if (state.chosen !== number) return;
  const opened = [...panelBody.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  panelBody.innerHTML = page;
  for (const part of panelBody.querySelectorAll("details")) {
    part.open = opened.includes(part.querySelector("summary").textContent);
  }
  history.replaceState(null, "", `#trial-${number}`);
  opens(number);
  if (scroll) goToPanel();
}

// What else on the page tells which trial is open.
function opens(number) {
  panel.dataset.trial = number;
  showPlace();
  markAll();
  if (canvas?.dataset.width) drawParallel();
  for (const card of document.querySelectorAll(".card[data-trial]")) {
    card.classList.toggle("chosen", Number(card.dataset.trial) === number);
  }
}

function goToPanel() {
  panel.scrollIntoView({ block: "start" });
  panel.focus({ preventScroll: true });
}

function showPlace() {
  const front = walkable();
  const at = front.indexOf(state.chosen);
  document.getElementById("place").textContent =
    at < 0 ? "not on the front" : `${at + 1} of ${front.length} on the front`;
  document.getElementById("previous").disabled = neighbour(-1) === undefined;
  document.getElementById("next").disabled = neighbour(1) === undefined;
}

// The next shown model of the front that way; beside the front, by its first axis.
function neighbour(step) {
  const front = walkable();
  const at = front.indexOf(state.chosen);
  if (at >= 0) return front[at + step];
  const axis = review.limits.find(({ least }) => !least)?.name;
  const value = trials.get(state.chosen)?.v[axis];
  if (value === undefined) return step > 0 ? front[0] : front.at(-1);
  const beyond = front.filter((number) => step * (trials.get(number).v[axis] - value) > 0);
  return step > 0 ? beyond[0] : beyond.at(-1);
}

function walk(event) {
  const front = walkable();
  const to = {
    ArrowLeft: () => neighbour(-1), ArrowRight: () => neighbour(1),
    Home: () => front[0], End: () => front.at(-1),
  }[event.key];
  if (event.key === "Enter") goToPanel();
  else if (!to) return;
  else if (to() !== undefined) open(to());
  event.preventDefault();
}

async function copy(button) {
  const text = button.parentElement.querySelector("pre").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function startCandidate() {
  pressed = (number) => { if (number !== undefined) open(number, { scroll: true }); };
  panel.addEventListener("click", (event) => {
    if (event.target.matches("button.copy")) copy(event.target);
  });
  document.getElementById("previous").addEventListener("click", () => open(neighbour(-1)));
  document.getElementById("next").addEventListener("click", () => open(neighbour(1)));
  document.getElementById("walk")?.addEventListener("keydown", walk);
  document.addEventListener("click", (event) => {
    const row = event.target.closest('tr[data-trial], .card[data-trial], a[href^="#trial-"]');
    if (!row || String(getSelection())) return;
    event.preventDefault();
    open(Number(row.dataset.trial ?? row.hash.slice(7)), { scroll: true });
  });
  addEventListener("hashchange", () => open(Number(location.hash.slice(7)), { scroll: true }));
  watchers.push(showPlace);
}
