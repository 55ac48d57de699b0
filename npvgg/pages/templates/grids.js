"use strict";
// Pictures are read cell by cell: with the pointer, or with the arrow keys where one has the focus.
// Each is one stop of the Tab key; what is read stands below it, and is said by a screen reader.
for (const data of document.querySelectorAll("script.grids")) {
  const figure = data.closest("figure"), drawing = figure.querySelector(".drawing");
  const whole = drawing.querySelector("svg").viewBox.baseVal;
  const reading = document.createElement("p");
  reading.className = "reading";
  reading.setAttribute("role", "status");
  data.before(reading);

  const place = (element, x, y, width, height) => {
    for (const [side, share] of Object.entries({ left: x, top: y, width, height })) {
      element.style[side] = `${100 * share}%`;
    }
  };

  for (const { title, x, y, width, height, cells, numbered } of JSON.parse(data.textContent)) {
    const rows = cells.length, columns = cells[0].length;
    const grid = document.createElement("div"), mark = document.createElement("span");
    let row = 0, column = 0;
    grid.className = "grid";
    grid.tabIndex = 0;
    grid.setAttribute("role", "application");
    grid.setAttribute("aria-roledescription", "picture of numbers");
    grid.setAttribute("aria-label", `${title}: ${rows} × ${columns} numbers; the arrow keys read them`);
    place(grid, x / whole.width, y / whole.height, width / whole.width, height / whole.height);
    mark.hidden = true;
    grid.append(mark);
    drawing.append(grid);

    const show = (toRow, toColumn) => {
      row = Math.max(0, Math.min(rows - 1, toRow));
      column = Math.max(0, Math.min(columns - 1, toColumn));
      place(mark, column / columns, row / rows, 1 / columns, 1 / rows);
      mark.hidden = false;
      const where = numbered ? `row ${row}, column ${column}: ` : "";
      const says = `${title}, ${where}${cells[row][column]}`;
      if (reading.textContent !== says) reading.textContent = says;
    };
    const hide = () => {
      if (document.activeElement === grid) return;
      mark.hidden = true;
      reading.textContent = "";
    };
    const point = (event) => {
      const box = grid.getBoundingClientRect();
      show(Math.floor((event.clientY - box.top) / box.height * rows),
        Math.floor((event.clientX - box.left) / box.width * columns));
    };
    const moves = {
      ArrowUp: () => show(row - 1, column), ArrowDown: () => show(row + 1, column),
      ArrowLeft: () => show(row, column - 1), ArrowRight: () => show(row, column + 1),
      Home: () => show(row, 0), End: () => show(row, columns - 1),
      PageUp: () => show(0, column), PageDown: () => show(rows - 1, column),
    };
    grid.addEventListener("pointermove", point);
    grid.addEventListener("pointerdown", point);
    grid.addEventListener("pointerleave", hide);
    grid.addEventListener("focus", () => show(row, column));
    grid.addEventListener("blur", hide);
    grid.addEventListener("keydown", (event) => {
      if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      moves[event.key]();
    });
  }
}

// What scrolls can be reached by keyboard; what does not, need not be.
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const box of document.querySelectorAll(".wide, pre, .formula")) watch.observe(box);
