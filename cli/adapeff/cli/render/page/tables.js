"use strict";
// Sort a table by a column: numbers by value, text by letters; cells without a value last.
const sortBy = (head) => {
  const table = head.closest("table"), column = head.cellIndex, rows = [...table.tBodies[0].rows];
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const hasNumbers = rows.some((row) => row.cells[column].dataset.number !== undefined);
  const key = (row) => {
    const cell = row.cells[column], text = cell.textContent.trim();
    if (hasNumbers) return cell.dataset.number === undefined ? null : Number(cell.dataset.number);
    return text === "–" || text === "" ? null : text;
  };
  rows.sort((one, other) => {
    const a = key(one), b = key(other);
    if (a === null || b === null) return (a === null) - (b === null);
    const order = hasNumbers ? a - b : a.localeCompare(b);
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...rows);
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("table.sortable th button");
  if (button) sortBy(button.closest("th"));
});

// Show only the rows that contain the text, and the tables that have such rows.
const filter = document.getElementById("filter"), filtered = document.getElementById("filtered");
const applyFilter = () => {
  const wanted = filter.value.trim().toLowerCase();
  let count = 0;
  for (const grid of document.querySelectorAll("section.grid")) {
    const rows = [...grid.querySelectorAll("tbody tr")];
    for (const row of rows) {
      row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    grid.hidden = wanted !== "" && rows.every((row) => row.hidden);
  }
  filtered.textContent = wanted === "" ? "" : `${count} rows`;
};
if (filter) filter.addEventListener("input", applyFilter);
