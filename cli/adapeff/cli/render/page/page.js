"use strict";
// Sort a table by a column: numbers by value, text by letters; missing cells last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.children[column], number = cell.dataset.number;
      return number === undefined ? cell.textContent.trim() : Number(number);
    };
    const missing = (value) => value === "–" || value === "";
    const rows = [...body.rows].sort((one, other) => {
      const a = key(one), b = key(other);
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return ascending ? order : -order;
    });
    body.append(...rows);
  });
}
// Show only the rows that contain the text.
const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const wanted = filter.value.toLowerCase();
  for (const row of document.querySelectorAll("main tbody tr"))
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
});
// Open the run that a link leads to.
const open = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", open);
open();
