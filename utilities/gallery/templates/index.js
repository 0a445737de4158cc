"use strict";
// Filter the cards by words and facts, and sort the table of claims by a column.
(() => {
  const cards = [...document.querySelectorAll(".card")];
  const search = document.getElementById("search");
  const selects = [...document.querySelectorAll(".filters select")];
  const count = document.getElementById("count");

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const facts = JSON.parse(card.dataset.facts);
      const text = (card.textContent + JSON.stringify(facts)).toLowerCase();
      const fits = words.every((word) => text.includes(word)) &&
        selects.every((select) => !select.value || facts[select.dataset.kind].includes(select.value));
      card.hidden = !fits;
      shown += fits;
    }
    for (const row of document.querySelectorAll("table.sortable tbody tr")) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.textContent = `${shown} of ${cards.length}`;
  }

  function sort(table, column, header) {
    const rising = header.getAttribute("aria-sort") !== "ascending";
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => a.cells[column].textContent.localeCompare(b.cells[column].textContent) * (rising ? 1 : -1));
    table.tBodies[0].append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }

  search.addEventListener("input", filter);
  selects.forEach((select) => select.addEventListener("change", filter));
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => sort(table, column, header));
    });
  }
  filter();
})();
