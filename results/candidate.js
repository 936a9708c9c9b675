const panel = document.getElementById("candidate");
const panelBody = document.getElementById("candidate-body");
let pages;

// Candidates are packed, for most are never opened.
async function unpacked() {
  const packed = document.getElementById("details").textContent.trim();
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function open(number, { scroll = false } = {}) {
  if (!trials.has(number)) return;
  state.chosen = number;
  pages ??= unpacked();
  const page = (await pages)[number];
  if (state.chosen !== number) return;
  const opened = [...panelBody.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  panelBody.innerHTML = page;
  for (const details of panelBody.querySelectorAll("details")) {
    details.open = opened.includes(details.querySelector("summary").textContent);
  }
  panel.dataset.trial = number;
  history.replaceState(null, "", `#trial-${number}`);
  showPlace();
  markAll();
  if (canvas?.dataset.width) drawParallel();
  for (const card of document.querySelectorAll(".card[data-trial]")) {
    card.classList.toggle("chosen", Number(card.dataset.trial) === number);
  }
  if (scroll) goToPanel();
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
    const link = event.target.closest?.('a[href^="#trial-"]');
    if (!link) return;
    event.preventDefault();
    open(Number(link.hash.slice(7)), { scroll: true });
  });
  addEventListener("hashchange", () => open(Number(location.hash.slice(7)), { scroll: true }));
  watchers.push(showPlace);
}
