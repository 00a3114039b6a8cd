"use strict";
/* What the page can do beyond being read: sort and filter tables, read out charts, put the confusion in other orders.
   Names come from outside: they are put into the page as text, never as HTML. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.querySelector(".tip");
  document.documentElement.classList.add("scripted");

  const make = (tag, attributes = {}, text = null) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== null) element.textContent = text;
    return element;
  };
  // A place in the page, not in the window: what has just got the focus may be scrolling into view.
  const showTip = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const top = y + 14 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 14;
    tip.style.left = `${scrollX + Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${scrollY + top}px`;
  };
  const hideTip = () => { tip.hidden = true; };
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

  // Tables: a button in each head that can be sorted by, a field to find a class.
  const collator = new Intl.Collator("en", { numeric: true });
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    for (const [column, head] of heads.entries()) {
      const isNumber = head.dataset.sort === "number";
      const button = make("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const first = head.dataset.first || (isNumber ? "descending" : "ascending");
        const other = first === "ascending" ? "descending" : "ascending";
        const order = before === first ? other : first;
        for (const one of heads) one.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const of = (row) => row.cells[column].dataset.value;
        const rows = [...body.rows].sort((a, b) => {
          const [one, two] = [of(a), of(b)];
          // What has no value comes last in either order.
          if (one === "" || two === "") return (one === "") - (two === "");
          return sign * (isNumber ? one - two : collator.compare(one, two));
        });
        body.replaceChildren(...rows);
      });
    }
    if (body.rows.length > 20) {
      const label = make("label", { class: "filter" }, "Find a class");
      const field = make("input", { type: "search", id: table.dataset.filter });
      label.append(field);
      table.closest(".scroll").before(label);
      field.addEventListener("input", () => {
        const wanted = field.value.toLocaleLowerCase();
        for (const row of body.rows) {
          row.hidden = !row.cells[0].dataset.value.toLocaleLowerCase().includes(wanted);
        }
      });
    }
  }

  // Charts: the figures at the step that is pointed at, or moved to with the arrow keys.
  for (const chart of data.charts) {
    const svg = document.querySelector(`#chart-${chart.id} svg`);
    const cursor = svg.querySelector(".cursor");
    const points = chart.series[0].points;
    let at = -1;
    svg.setAttribute("tabindex", "0");
    const nearest = (of, x) => of.reduce((best, one) => (Math.abs(one[0] - x) < Math.abs(best[0] - x) ? one : best));
    const show = (number) => {
      at = Math.max(0, Math.min(points.length - 1, number));
      const [x, y, step, value] = points[at];
      const lines = chart.series.length > 1 ? [`${chart.series[0].name} ${value}`] : [value];
      for (const other of chart.series.slice(1)) {
        const near = nearest(other.points, x);
        lines.push(`${other.name} ${near[3]}${near[2] === step ? "" : ` (${near[2]})`}`);
      }
      cursor.setAttribute("transform", `translate(${x},0)`);
      cursor.setAttribute("visibility", "visible");
      const place = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
      showTip([step, ...lines].join("\n"), place.x, place.y);
    };
    const hide = () => { cursor.setAttribute("visibility", "hidden"); hideTip(); };
    svg.addEventListener("pointermove", (event) => {
      const { x } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      show(points.indexOf(nearest(points, x)));
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: points.length - 1 };
      if (event.key in moves) { event.preventDefault(); show(moves[event.key]); }
    });
  }

  // Confusion: other orders, and what a cell says.
  for (const [id, confusion] of Object.entries(data.confusions)) {
    const { names, videos, cells, orders, levels, palette, opacity } = confusion;
    const count = names.length;
    const rows = names.map(() => new Map());
    for (let i = 0; i < cells.length; i += 3) rows[cells[i]].set(cells[i + 1], cells[i + 2]);
    const levelOf = (i, j) => Math.ceil(((rows[i].get(j) || 0) / videos[i]) * levels - 1e-9) || 0;
    const table = document.querySelector(`table[data-confusion="${id}"]`);
    const image = document.querySelector(`img[data-picture="${id}"]`);
    const readout = document.querySelector(`[data-readout="${id}"]`);
    let order = orders.confused;

    const drawFigures = () => {
      const shown = order.slice(0, confusion.figures);
      const head = make("tr");
      head.append(make("th", { scope: "col" }, "Class"));
      const body = shown.map((i, number) => {
        const column = make("th", { scope: "col", title: names[i] });
        column.append(make("abbr", {}, number + 1), make("span", { class: "unseen" }, ` ${names[i]}`));
        head.append(column);
        const row = make("tr");
        const name = make("th", { scope: "row" });
        name.append(make("span", { class: "number" }, number + 1), " ", make("bdi", { class: "name", title: names[i] }, names[i]));
        row.append(name);
        for (const j of shown) {
          const level = levelOf(i, j);
          row.append(make("td", level ? { class: `${i === j ? "hit" : "miss"} l${level}` } : {}, rows[i].get(j) || "·"));
        }
        return row;
      });
      table.tHead.replaceChildren(head);
      table.tBodies[0].replaceChildren(...body);
    };

    let drawPicture = () => {};
    if (image) {
      const canvas = make("canvas", {
        width: count, height: count, tabindex: "0", role: "application", "aria-roledescription": "heatmap",
        "aria-label": `${image.alt} Move over the cells with the arrow keys.`,
      });
      canvas.style.width = canvas.style.height = `${image.width}px`;
      image.replaceWith(canvas);
      drawPicture = () => {
        const place = new Array(count);
        for (const [at, number] of order.entries()) place[number] = at;
        const picture = new ImageData(count, count);
        for (let i = 0; i < count; i++) {
          for (const j of rows[i].keys()) {
            const [red, green, blue] = palette[i === j ? 0 : 1];
            picture.data.set([red, green, blue, opacity[levelOf(i, j)]], 4 * (place[i] * count + place[j]));
          }
        }
        canvas.getContext("2d").putImageData(picture, 0, 0);
      };
      let [row, column] = [0, 0];
      const say = () => {
        const [i, j] = [order[row], order[column]];
        const found = rows[i].get(j) || 0;
        const share = videos[i] ? ` (${((100 * found) / videos[i]).toFixed(1)}%)` : "";
        const what = i === j ? "are taken for what they are" : `are taken for “${names[j]}”`;
        return `“${names[i]}”: ${found} of ${videos[i]} videos${share} ${what}.`;
      };
      const read = (x, y) => { const said = say(); readout.textContent = said; showTip(said, x, y); };
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect();
        const cell = (at, size) => Math.max(0, Math.min(count - 1, Math.floor((at / size) * count)));
        column = cell(event.clientX - box.left, box.width);
        row = cell(event.clientY - box.top, box.height);
        read(event.clientX, event.clientY);
      });
      canvas.addEventListener("pointerleave", hideTip);
      canvas.addEventListener("blur", hideTip);
      canvas.addEventListener("keydown", (event) => {
        const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
        const move = moves[event.key];
        if (!move) return;
        event.preventDefault();
        row = Math.max(0, Math.min(count - 1, row + move[0]));
        column = Math.max(0, Math.min(count - 1, column + move[1]));
        const box = canvas.getBoundingClientRect();
        read(box.left + ((column + 0.5) / count) * box.width, box.top + ((row + 0.5) / count) * box.height);
      });
      drawPicture();
    }

    const group = document.querySelector(`[data-orders="${id}"]`);
    const buttons = [...group.querySelectorAll("button")];
    group.hidden = false;
    for (const button of buttons) {
      button.addEventListener("click", () => {
        order = orders[button.dataset.order];
        for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
        if (readout) readout.textContent = `All ${count} classes, in the order: ${button.textContent.toLowerCase()}.`;
        drawFigures();
        drawPicture();
      });
    }
  }

  // On paper all of it is to be read.
  addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
})();
