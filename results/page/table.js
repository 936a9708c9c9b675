const table = document.getElementById("all-trials");

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

function narrowTable() {
  for (const row of table.tBodies[0].rows) row.hidden = !isShown(Number(row.cells[0].dataset.key));
}

// A spreadsheet takes a text that begins like this for a formula; a number may.
const harmless = (text) => (/^[=+@\-\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text);
const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

// The shown rows in their order; numbers as they are, not as they are written on the page.
function csvOfShown() {
  const headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const rows = shown.map((row) => [...row.cells].map((cell) => cell.dataset.key ?? cell.textContent.trim()));
  return [headings, ...rows].map((row) => row.map(harmless).map(quoted).join(",")).join("\r\n") + "\r\n";
}

function saveCsv() {
  const url = URL.createObjectURL(new Blob([csvOfShown()], { type: "text/csv" }));
  const name = `${document.querySelector("h1").textContent.replace(/[^\w.-]+/g, "-")}.csv`;
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function startTable() {
  for (const heading of table.querySelectorAll("th")) {
    heading.querySelector("button").addEventListener("click", () => sortBy(heading));
  }
  document.getElementById("csv").addEventListener("click", saveCsv);
  watchers.push(narrowTable);
}
