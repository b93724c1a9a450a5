// Heads of tables sort their rows; without this the page is read as it stands.
const value = cell => cell.dataset.v ?? cell.textContent.trim();
const order = (a, b) => (a === "") - (b === "") || (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
for (const head of document.querySelectorAll("table.sort thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending", body = head.closest("table").tBodies[0];
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map(row => [value(row.cells[head.cellIndex]), row]);
    rows.sort(([a], [b]) => a === "" || b === "" ? order(a, b) : up ? order(a, b) : order(b, a));
    body.append(...rows.map(([, row]) => row));
  });
}
