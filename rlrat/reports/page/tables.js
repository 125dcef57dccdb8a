// Tables: a click on a heading sorts by it, one more the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const compare = (a, b) => {
    const [x, y] = [a, b].map((cell) => cell.dataset.value ?? cell.textContent);
    const [p, q] = [x, y].map(Number);
    if (x !== "" && y !== "" && !isNaN(p) && !isNaN(q)) return p - q;
    return x.localeCompare(y, "en", { numeric: true });
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const empty = (row) => (row.cells[column].dataset.value ?? row.cells[column].textContent) === "";
      const rows = [...table.tBodies[0].rows];
      // What has no value stays at the end, whichever way.
      rows.sort((a, b) => empty(a) - empty(b) || sign * compare(a.cells[column], b.cells[column]));
      table.tBodies[0].append(...rows);
    });
  });
}
