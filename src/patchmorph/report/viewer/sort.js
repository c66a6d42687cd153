// A click on a column's name sorts the rows by it, another click the other way round; empty cells come last.
"use strict";
const body = document.querySelector(".cohort tbody");
const headings = Array.from(document.querySelectorAll(".cohort thead th"));

function compare(one, other) {
  if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
  const numbers = [Number(one), Number(other)];
  return numbers.some(Number.isNaN) ? one.localeCompare(other, undefined, { numeric: true }) : numbers[0] - numbers[1];
}

for (const heading of headings)
  heading.querySelector("button").addEventListener("click", () => {
    const turn = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1, place = headings.indexOf(heading) + 1;
    const value = (row) => row.children[place].dataset.value;
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
    const rows = Array.from(body.rows);
    const order = (one, other) => {
      const [a, b] = [value(one), value(other)];
      return a === undefined || b === undefined ? compare(a, b) : turn * compare(a, b);
    };
    body.append(...rows.sort(order));
  });
