const plots = [...document.querySelectorAll("[data-figure]")];
const AHEAD = "500px";
const RING = 10;
const BESIDE = 7;
const inView = new Set();
const stale = new Set(plots);
const SPACE = "front-3d";
let pressed = () => {};

function theme(narrow) {
  const style = getComputedStyle(document.documentElement);
  const family = getComputedStyle(document.body).fontFamily;
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false,
    automargin: true, tickfont: { color: colour("--muted"), size: 12 }, title: { font: { size: 13 } },
  };
  const depth = { ...axis, backgroundcolor: colour("--paper"), automargin: undefined };
  return {
    font: { family, size: narrow ? 12 : 13, color: colour("--ink") },
    hoverlabel: {
      bgcolor: colour("--paper"), bordercolor: colour("--line"),
      font: { family, color: colour("--ink"), size: 13 }, align: "left",
    },
    legend: { font: { size: narrow ? 11 : 12 } },
    xaxis: { ...axis, showgrid: false, ticks: "outside", tickcolor: colour("--line"), showline: true },
    yaxis: { ...axis, title: narrow ? { text: "" } : { ...axis.title, standoff: 12 } },
    scene: { xaxis: depth, yaxis: depth, zaxis: depth },
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

const POINTWISE = ["x", "y", "z", "customdata", "hovertext", "text"];

// A trace with only its shown points. Traces without trial numbers stay as they are.
function narrowed(trace) {
  if (!Array.isArray(trace.customdata)) return trace;
  const kept = trace.customdata.map((number, i) => (isShown(number) ? i : -1)).filter((i) => i >= 0);
  if (kept.length === trace.customdata.length) return trace;
  const pick = (list) => (Array.isArray(list) ? kept.map((i) => list[i]) : list);
  const result = { ...trace };
  for (const key of POINTWISE) if (key in trace) result[key] = pick(trace[key]);
  for (const key of ["error_x", "error_y"]) {
    const bars = trace[key];
    if (bars) result[key] = { ...bars, array: pick(bars.array), arrayminus: pick(bars.arrayminus) };
  }
  if (trace.marker) result.marker = { ...trace.marker, symbol: pick(trace.marker.symbol) };
  return result;
}

// The steps that no shown point passes; `signs` turn both axes so that less is better.
function frontLine(trace, data) {
  const [sx, sy] = trace.meta.signs;
  const points = [];
  for (const { customdata, yaxis, x, y, meta } of data) {
    if (Array.isArray(customdata) && yaxis !== "y2" && !meta?.behind) x.forEach((value, i) => points.push([value, y[i]]));
  }
  points.sort((a, b) => sx * (a[0] - b[0]) || sy * (a[1] - b[1]));
  const front = [];
  for (const point of points) if (!front.length || sy * (point[1] - front.at(-1)[1]) < 0) front.push(point);
  return { ...trace, x: front.map((p) => p[0]), y: front.map((p) => p[1]) };
}

function isFront(plot) {
  return plot.dataset.figure.startsWith("front-") && plot.dataset.figure !== SPACE;
}

function nearRange() {
  const { maximize, view } = review.quality;
  const best = maximize ? Math.max(...qualities()) : Math.min(...qualities());
  const range = maximize ? [best - view, best + 0.35 * view] : [best - 0.35 * view, best + view];
  return state.logy ? range.map((value) => Math.log10(Math.max(value, 1e-9))) : range;
}

function axes(plot) {
  const front = isFront(plot);
  if (!front && !plot.dataset.figure.startsWith("effect-")) return {};
  const near = state.near && review.quality.view && qualities().length;
  return {
    ...(front ? { xaxis: { type: state.logx ? "log" : "linear" } } : {}),
    yaxis: { type: state.logy ? "log" : "linear", ...(near ? { range: nearRange(), autorange: false } : {}) },
  };
}

function ring(plot) {
  for (const { customdata, x, y, z, yaxis } of plot.data ?? []) {
    const at = Array.isArray(customdata) ? customdata.indexOf(state.chosen) : -1;
    if (at < 0 || z || x[at] === null) continue;
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    return [{
      type: "circle", xref: "x", yref: yaxis ?? "y", xsizemode: "pixel", ysizemode: "pixel",
      xanchor: x[at], yanchor: y[at], x0: -RING, x1: RING, y0: -RING, y1: RING, line: { color: ink, width: 2 },
    }];
  }
  return [];
}

const flat = window.Plotly;
let deep;

// Three dimensions need more of plotly.js, which is unpacked when they are first looked at.
async function loadDeep() {
  const text = await unzipped(document.getElementById("deep-bundle").textContent);
  document.head.append(Object.assign(document.createElement("script"), { textContent: text }));
  return window.Plotly;
}

function draw(plot, width) {
  stale.delete(plot);
  if (plot.dataset.figure === SPACE) (deep ??= loadDeep()).then((library) => drawWith(library, plot, width));
  else drawWith(flat, plot, width);
}

function drawWith(library, plot, width) {
  const { data, layout } = figureOf(plot.dataset.figure);
  const kept = data.map(narrowed);
  const traces = kept.map((trace) => (trace.meta?.signs ? frontLine(trace, kept) : trace));
  const themed = merged(merged(layout, theme(plot.clientWidth < 480)), axes(plot));
  const size = width ? { width, height: plot.clientHeight } : { autosize: true };
  const config = {
    responsive: !width, displaylogo: false, displayModeBar: width ? false : undefined,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const first = !plot.data;
  library.react(plot, traces, { ...themed, ...size, shapes: [] }, config);
  if (first) {
    plot.on("plotly_click", (event) => pressed(event.points[0].customdata));
    plot.on("plotly_afterplot", () => placeLabels(plot));
    placeLabels(plot);
  }
  mark(plot);
}

function place({ left, top, width, height }, dx = 0, dy = 0) {
  return { dx, dy, left: left + dx, right: left + dx + width, top: top + dy, bottom: top + dy + height };
}

function overlap(one, other) {
  return one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
}

// Moves a name to the side of its point where it covers no other named point and no other name; the
// names that fit nowhere are hidden, for a point says its name when it is pointed at.
function placeLabels(plot) {
  const [{ right }, { left }] = [plot, plot.querySelector(".nsewdrag") ?? plot].map((part) => part.getBoundingClientRect());
  const taken = [...plot.querySelectorAll(".trace:has(text) .points path")].map((mark) => place(mark.getBoundingClientRect()));
  for (const label of plot.querySelectorAll(".textpoint text")) {
    Object.assign(label.style, { translate: "", visibility: "" });
    const box = label.getBoundingClientRect();
    const [aside, below] = [-box.width - 2 * BESIDE, box.height + 2 * BESIDE];
    const free = [[0, 0], [aside, 0], [0, below], [aside, below]]
      .map(([dx, dy]) => place(box, dx, dy))
      .find((at) => at.left > left && at.right < right && !taken.some((other) => overlap(at, other)));
    if (free) taken.push(free);
    Object.assign(label.style, free ? { translate: `${free.dx}px ${free.dy}px` } : { visibility: "hidden" });
  }
}

function mark(plot) {
  if (!plot.data || plot.dataset.figure === SPACE) return;
  const shapes = ring(plot);
  if (shapes.length || plot.layout.shapes?.length) flat.relayout(plot, { shapes });
}

function refresh() {
  for (const plot of plots) stale.add(plot);
  for (const plot of inView) draw(plot);
}

function markAll() {
  for (const plot of plots) if (!stale.has(plot)) mark(plot);
}

function startPlots() {
  if (!flat) return;
  draw(plots[0]);
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) { inView.delete(target); continue; }
      inView.add(target);
      if (stale.has(target)) draw(target);
    }
  }, { rootMargin: AHEAD });
  plots.forEach((plot) => observer.observe(plot));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
  matchMedia("print").addEventListener("change", ({ matches }) => {
    for (const plot of plots) if (plot.clientWidth) draw(plot, matches ? plot.clientWidth : undefined);
  });
}
