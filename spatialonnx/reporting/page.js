// Tables of class "sortable": a click on a heading sorts by that column, another one turns it round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      // Names begin at the start of the alphabet, numbers at the largest.
      const now = head.getAttribute("aria-sort");
      const down = column === 0 ? now === "ascending" : now !== "descending";
      const value = (row) => {
        const text = row.cells[column].dataset.value;
        return text === "" ? NaN : Number(text);
      };
      const name = (row) => row.cells[column].textContent;
      const rows = [...body.rows];
      rows.sort((a, b) => {
        if (column === 0) {
          const order = name(a).localeCompare(name(b), "en", { numeric: true });
          return down ? -order : order;
        }
        const x = value(a), y = value(b);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return down ? y - x : x - y;
      });
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}
