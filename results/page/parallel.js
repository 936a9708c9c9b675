const canvas = document.getElementById("parallel");
const PARALLEL = { height: 330, top: 46, foot: 26, side: 70, step: 114 };
const COLOURS = { front: "#2b83ba", anchor: "#d1701f", dominated: "#8b939c", repeat: "#8b939c" };

function parallelPlace(i) {
  const { axes: list } = review.parallel;
  const width = Number(canvas.dataset.width);
  return PARALLEL.side + (i * (width - 2 * PARALLEL.side)) / Math.max(1, list.length - 1);
}

function parallelHeight(place) {
  return PARALLEL.height - PARALLEL.foot - place * (PARALLEL.height - PARALLEL.foot - PARALLEL.top);
}

function parallelLines() {
  return Object.keys(review.parallel.lines).map(Number).filter(isShown);
}

function strokeTrial(pen, number, look) {
  Object.assign(pen, look);
  pen.beginPath();
  let drawing = false;
  review.parallel.lines[number].forEach((place, i) => {
    if (place === null) { drawing = false; return; }
    pen[drawing ? "lineTo" : "moveTo"](parallelPlace(i), parallelHeight(place));
    drawing = true;
  });
  pen.stroke();
}

function drawAxis(pen, axis, i, colour) {
  const x = parallelPlace(i);
  Object.assign(pen, { strokeStyle: colour("--muted"), lineWidth: 1, globalAlpha: 0.5 });
  pen.beginPath();
  pen.moveTo(x, parallelHeight(0));
  pen.lineTo(x, parallelHeight(1));
  pen.stroke();
  Object.assign(pen, { globalAlpha: 1, textAlign: "center", fillStyle: colour("--ink") });
  pen.font = `${axis.objective ? 600 : 400} 12px ${getComputedStyle(document.body).fontFamily}`;
  pen.fillText(axis.title, x, 16, PARALLEL.step - 6);
  Object.assign(pen, { fillStyle: colour("--muted") });
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const shown = axis.ticks.length <= 8 ? axis.ticks : [axis.ticks[0], axis.ticks.at(-1)];
  for (const [place, text] of shown) {
    const y = parallelHeight(place);
    const inner = place > 0 && place < 1;
    const cut = text.length > 18 ? `${text.slice(0, 17)}…` : text;
    pen.textAlign = inner ? "left" : "center";
    pen.fillText(cut, inner ? x + 6 : x, inner ? y + 4 : place === 0 ? y + 17 : y - 9, PARALLEL.step - 8);
  }
}

function drawParallel() {
  const list = review.parallel.axes;
  const width = Math.max(canvas.parentElement.clientWidth, 2 * PARALLEL.side + (list.length - 1) * PARALLEL.step);
  const dense = window.devicePixelRatio || 1;
  canvas.dataset.width = width;
  Object.assign(canvas.style, { width: `${width}px`, height: `${PARALLEL.height}px` });
  Object.assign(canvas, { width: width * dense, height: PARALLEL.height * dense });
  const pen = canvas.getContext("2d");
  pen.scale(dense, dense);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const lines = parallelLines();
  const faint = Math.max(0.08, Math.min(0.45, 40 / Math.max(1, lines.length)));
  const of = (kinds) => lines.filter((number) => kinds.includes(trials.get(number).kind));
  for (const number of of(["dominated", "repeat"])) {
    strokeTrial(pen, number, { strokeStyle: COLOURS.dominated, lineWidth: 1.2, globalAlpha: faint });
  }
  for (const kind of ["anchor", "front"]) {
    for (const number of of([kind])) strokeTrial(pen, number, { strokeStyle: COLOURS[kind], lineWidth: 1.8, globalAlpha: 0.85 });
  }
  if (lines.includes(state.chosen)) {
    strokeTrial(pen, state.chosen, { strokeStyle: colour("--ink"), lineWidth: 3, globalAlpha: 1 });
  }
  list.forEach((axis, i) => drawAxis(pen, axis, i, colour));
}

// The trial whose line passes closest above or below the pointer.
function trialAt(event) {
  const list = review.parallel.axes;
  const left = list.findLastIndex((_, i) => parallelPlace(i) <= event.offsetX);
  if (left < 0 || left >= list.length - 1) return undefined;
  const share = (event.offsetX - parallelPlace(left)) / (parallelPlace(left + 1) - parallelPlace(left));
  let best, least = 12;
  for (const number of parallelLines()) {
    const [from, to] = [review.parallel.lines[number][left], review.parallel.lines[number][left + 1]];
    if (from === null || to === null) continue;
    const distance = Math.abs(parallelHeight(from + share * (to - from)) - event.offsetY);
    if (distance < least) [best, least] = [number, distance];
  }
  return best;
}

function startParallel() {
  if (review.parallel.axes.length < 2) {
    document.getElementById("parallel-figure").hidden = true;
    return;
  }
  canvas.addEventListener("click", (event) => {
    const number = trialAt(event);
    if (number !== undefined) pressed(number);
  });
  canvas.addEventListener("pointermove", (event) => {
    const number = trialAt(event);
    canvas.title = number === undefined ? "" : `trial ${number}: ${trials.get(number).brief}`;
    canvas.style.cursor = number === undefined ? "" : "pointer";
  });
  new ResizeObserver(drawParallel).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawParallel);
  watchers.push(drawParallel);
}
