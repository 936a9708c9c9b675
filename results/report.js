"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = [...document.querySelectorAll("[data-figure]")];
const PRINT_WIDTH = 640;

function theme(narrow) {
  const style = getComputedStyle(document.documentElement);
  const family = getComputedStyle(document.body).fontFamily;
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false,
    automargin: true, tickfont: { color: colour("--muted"), size: 12 }, title: { font: { size: 13 } },
  };
  return {
    font: { family, size: narrow ? 12 : 13, color: colour("--ink") },
    hoverlabel: {
      bgcolor: colour("--paper"), bordercolor: colour("--line"),
      font: { family, color: colour("--ink"), size: 13 }, align: "left",
    },
    legend: { font: { size: narrow ? 11 : 12 } },
    xaxis: { ...axis, showgrid: false, ticks: "outside", tickcolor: colour("--line"), showline: true }, yaxis: axis,
  };
}

function merged(base, extra) {
  const result = { ...base };
  for (const [key, value] of Object.entries(extra)) {
    const nested = value && typeof value === "object" && !Array.isArray(value);
    result[key] = nested ? merged(result[key] ?? {}, value) : value;
  }
  return result;
}

function draw(plot, width) {
  const { data, layout } = figures[plot.dataset.figure];
  const themed = merged(layout, theme(plot.clientWidth < 480));
  const size = width ? { width, height: plot.clientHeight } : { autosize: true };
  const config = {
    responsive: !width, displaylogo: false, displayModeBar: width ? false : undefined,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  return Plotly.react(plot, data, { ...themed, ...size }, config);
}

function show(number) {
  const card = document.getElementById(`trial-${number}`);
  (card ?? document.getElementById(`row-${number}`))?.scrollIntoView({ block: "center" });
  card?.focus({ preventScroll: true });
}

function start(plot) {
  draw(plot);
  plot.on("plotly_click", (event) => show(event.points[0].customdata));
}

plots.forEach((plot, i) => (i ? setTimeout(start, 0, plot) : start(plot)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((p) => draw(p)));
matchMedia("print").addEventListener("change", (event) =>
  plots.forEach((plot) => draw(plot, event.matches ? PRINT_WIDTH : undefined)));

function sortKey(row, column, numeric) {
  const cell = row.cells[column];
  if (!numeric) return cell.textContent.trim();
  return cell.dataset.key === undefined ? NaN : Number(cell.dataset.key);
}

function compare(a, b, sign) {
  const [noA, noB] = [a, b].map((key) => key === "" || Number.isNaN(key));
  if (noA || noB) return noA - noB;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
}

function sortBy(heading) {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = heading.closest("table").tBodies[0];
  const numeric = heading.classList.contains("number");
  const keyed = [...body.rows].map((row) => ({ row, key: sortKey(row, heading.cellIndex, numeric) }));
  keyed.sort((a, b) => compare(a.key, b.key, ascending ? 1 : -1));
  body.append(...keyed.map(({ row }) => row));
}

for (const heading of document.querySelectorAll("#all-trials th")) {
  heading.querySelector("button").addEventListener("click", () => sortBy(heading));
}
