"use strict";
// Tables sort by a click on a header: numbers from the greatest, words from A, then the other way, then as they were.

const NUMBER = /[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i;

function read(row, column, numeric) {
  const text = row.cells[column].textContent.trim().replaceAll("−", "-").replace(/,(?=\d{3})/g, "");
  if (!numeric) return /^[–-]?$/.test(text) ? null : text;
  const found = text.match(NUMBER);
  if (!found) return null; // no number here: it goes last
  return text.startsWith("<") ? Number(found[0]) * 0.999 : Number(found[0]);
}

function compare(one, other) {
  return typeof one === "number" ? one - other : one.localeCompare(other, undefined, { numeric: true });
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const blocks = [...table.tBodies].map((body) => [body, [...body.querySelectorAll("tr:not(.block, .sum)")]]);
  const all = blocks.flatMap(([, rows]) => rows);
  if (blocks.every(([, rows]) => rows.length < 2)) return;
  heads.forEach((head, column) => {
    const numeric = head.classList.contains("r") && all.some((row) => read(row, column, true) !== null);
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turns = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
      const next = head.ariaSort ? turns[turns.indexOf(head.ariaSort) + 1] : turns[0];
      for (const each of heads) each.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      for (const [body, rows] of blocks) {
        const sign = next === "descending" ? -1 : 1;
        const keyed = rows.map((row) => [read(row, column, numeric), row]);
        if (next) keyed.sort(([a], [b]) => (a === null) - (b === null) || (a !== null && sign * compare(a, b)) || 0);
        const foot = body.querySelector("tr.sum"); // a sum over the rows stays under them
        for (const [, row] of keyed) body.insertBefore(row, foot);
      }
    });
  });
}

// What is wider than the screen says so, and can be scrolled by the keyboard.
function mark() {
  for (const box of document.querySelectorAll(".wide")) {
    const over = box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("over", over);
    if (over) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

document.querySelectorAll("table").forEach(sortable);
addEventListener("resize", mark);
mark();
