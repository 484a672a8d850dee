// Tables sort by a click or a key on a head; charts say what is under the pointer, and single out a line of their legend.
"use strict";

const number = (cell) => {
  const text = cell ? cell.textContent.trim().replace(/^~/, "") : "";
  const found = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i.exec(text);
  return found ? Number(found[0]) : null;
};

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], original = [...body.rows];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? next : "none"));
      const words = original.filter((row) => number(row.cells[column]) !== null).length * 2 < original.length;
      const key = (row) => words ? (row.cells[column]?.textContent.trim() || null) : number(row.cells[column]);
      const sign = next === "descending" ? -1 : 1;
      const compare = (a, b) => words ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
      const sorted = next === "none" ? original : [...original].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b); // what has no number goes last
      });
      body.append(...sorted);
    });
  });
}

function chart(figure, tip) {
  const svg = figure.querySelector("svg"), buttons = [...figure.querySelectorAll("ul.legend button")];
  const points = [...svg.querySelectorAll(".series circle")].map((circle) => {
    const words = circle.querySelector("title").textContent;
    circle.querySelector("title").remove(); // the browser's own would cover ours
    return { circle, words, series: circle.parentNode };
  });
  let pressed = null;
  const single = (label) => {
    svg.classList.toggle("chosen", label !== null);
    svg.querySelectorAll(".series").forEach((series) => series.classList.toggle("on", series.dataset.label === label));
  };
  const near = (event) => {
    let best = null, least = 26 ** 2;
    for (const point of points) {
      const box = point.circle.getBoundingClientRect();
      const far = (box.x + box.width / 2 - event.clientX) ** 2 + (box.y + box.height / 2 - event.clientY) ** 2;
      const hidden = pressed !== null && point.series.dataset.label !== pressed;
      if (!hidden && far < least) [best, least] = [point, far];
    }
    return best;
  };
  const show = (event) => {
    const point = near(event);
    tip.hidden = point === null;
    single(point ? point.series.dataset.label : pressed);
    if (point === null) return;
    tip.textContent = point.words;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - 14 - tip.offsetHeight : event.clientY + 18}px`;
  };
  const known = new Set(points.map((point) => point.series.dataset.label));
  for (let next = figure.nextElementSibling; next && !["FIGURE", "H2"].includes(next.tagName); next = next.nextElementSibling) {
    for (const row of next.querySelectorAll("tbody tr")) { // a row of the tables below singles out its line
      const label = row.cells[0].textContent;
      if (!known.has(label)) continue;
      row.addEventListener("pointerenter", () => single(label));
      row.addEventListener("pointerleave", () => single(pressed));
    }
  }
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => { tip.hidden = true; single(pressed); });
  buttons.forEach((button) => button.addEventListener("click", () => {
    pressed = pressed === button.textContent ? null : button.textContent;
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(other.textContent === pressed)));
    single(pressed);
  }));
}

const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
tip.setAttribute("role", "status");
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("figure.chart").forEach((figure) => chart(figure, tip));
