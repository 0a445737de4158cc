"use strict";
// Filter the cards by words and facts, and sort the table of claims by a column.
(() => {
  const cards = [...document.querySelectorAll(".card")];
  const search = document.getElementById("search");
  const selects = [...document.querySelectorAll(".filters select")];
  const count = document.getElementById("count");

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (text) => words.every((word) => text.toLowerCase().includes(word));
    const chosen = new Set();  // pages that the lists allow
    let shown = 0;
    for (const card of cards) {
      const facts = JSON.parse(card.dataset.facts);
      const allowed = selects.every((select) => !select.value || facts[select.dataset.kind].includes(select.value));
      if (allowed) chosen.add(facts.name);
      card.hidden = !(allowed && has(card.textContent + JSON.stringify(facts)));
      shown += !card.hidden;
    }
    for (const row of document.querySelectorAll("table.sortable tbody tr")) {
      row.hidden = !(chosen.has(row.dataset.page) && has(row.textContent));
    }
    count.textContent = shown ? `${shown} of ${cards.length}` : `none of ${cards.length} fits`;
  }

  function sort(table, column, header) {
    const rising = header.getAttribute("aria-sort") !== "ascending";
    const rows = [...table.tBodies[0].rows];
    // Verdicts, and what they rest on, have an order of their own; other cells are sorted as text.
    const order = (row) => Number(row.cells[column].dataset.order ?? 0);
    const compare = (a, b) => order(a) - order(b) || a.cells[column].textContent.localeCompare(b.cells[column].textContent);
    rows.sort((a, b) => compare(a, b) * (rising ? 1 : -1));
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
