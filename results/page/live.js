const live = document.getElementById("live");
const KEPT = `sharetune:${location.pathname}`;
const EVERY_MS = 2000;

function keep() {
  const fields = [...controls.elements].filter((field) => field.name);
  const values = fields.map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value, field.max]);
  sessionStorage.setItem(KEPT, JSON.stringify({ values, scroll: scrollY }));
}

// Sliders stand on the values that occur; new trials move the stops, so the value is what is kept.
function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  sessionStorage.removeItem(KEPT);
  if (!kept) return;
  for (const [name, value, max] of kept.values) {
    const field = controls.elements[name];
    if (!field) continue;
    if (field.type === "checkbox") field.checked = value;
    else field.value = Math.round((value * field.max) / Math.max(1, max));
    field.dispatchEvent(new Event(field.type === "checkbox" ? "change" : "input", { bubbles: true }));
  }
  requestAnimationFrame(() => scrollTo({ top: kept.scroll, behavior: "instant" }));
}

async function look() {
  try {
    const state = await (await fetch("state", { cache: "no-store" })).text();
    live.textContent = "live";
    if (state !== live.dataset.state && !document.hidden) {
      keep();
      location.reload();
      return;
    }
  } catch {
    live.textContent = "the server has ended; this page stays as it is";
  }
  setTimeout(look, EVERY_MS);
}

restore();
setTimeout(look, EVERY_MS);
