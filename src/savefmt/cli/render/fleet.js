"use strict";
// The page can be read without: this sorts the table by the heading that the address names.
const order = new Intl.Collator("en", { numeric: true }).compare;
function sort() {
  const head = document.getElementById(location.hash.slice(1));
  if (!head || head.tagName !== "TH") return;
  const body = head.closest("table").tBodies[0];
  const key = (row) => row.cells[head.cellIndex].dataset.key ?? row.cells[head.cellIndex].textContent;
  const rows = [...body.rows].sort((one, other) => order(key(one), key(other)));
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...(down ? rows.reverse() : rows));
}
addEventListener("hashchange", sort);
addEventListener("click", (event) => {
  const link = event.target.closest?.("th a");
  if (link && link.hash === location.hash) sort(); // again: the other way round
});
sort();
