"use strict";
(() => {
  const root = document.documentElement;

  // Theme: the system's, until the reader says otherwise; remembered as long as the page is open.
  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const named = () => { toggle.textContent = isDark() ? "Light" : "Dark"; };
  toggle.hidden = false;
  toggle.setAttribute("aria-label", "Switch between light and dark");
  toggle.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; named(); });
  system.addEventListener("change", named);
  named();

  // Tables: by number or by text, up, then down; what has no value stays last.
  const order = new Intl.Collator("en", { numeric: true });
  const value = (row, column, numeric) => {
    const cell = row.cells[column];
    return numeric ? (cell.dataset.key === undefined ? NaN : Number(cell.dataset.key)) : cell.textContent;
  };
  const sort = (table, header) => {
    const column = header.cellIndex, numeric = header.classList.contains("number");
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (one, other) => {
      const a = value(one, column, numeric), b = value(other, column, numeric);
      if (!numeric) return (down ? -1 : 1) * order.compare(a, b);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return (down ? -1 : 1) * (a - b);
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      header.firstElementChild.addEventListener("click", () => sort(table, header));
    }
  }

  // Tables can be taken along, as a spreadsheet takes them.
  if (navigator.clipboard && window.isSecureContext) {
    for (const table of document.querySelectorAll("table.sortable")) {
      const copy = document.createElement("button");
      copy.type = "button";
      copy.className = "copy";
      copy.textContent = "copy";
      copy.setAttribute("aria-label", "Copy this table");
      copy.addEventListener("click", async () => {
        const lines = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent).join("\t"));
        try { await navigator.clipboard.writeText(lines.join("\n")); copy.textContent = "copied"; } catch { copy.textContent = "not allowed"; }
        setTimeout(() => { copy.textContent = "copy"; }, 1500);
      });
      table.caption.append(" ", copy);
    }
  }

  // Legends: a pressed key brings its arm out everywhere.
  const keys = document.querySelectorAll("button.key");
  for (const key of keys) {
    key.addEventListener("click", () => {
      const chosen = key.getAttribute("aria-pressed") === "true" ? null : key.dataset.series;
      if (chosen === null) delete root.dataset.focus; else root.dataset.focus = chosen;
      for (const other of keys) other.setAttribute("aria-pressed", String(other.dataset.series === chosen));
    });
  }

  // What a mark says when it is pointed at: at once, instead of after the browser's pause.
  const tip = document.getElementById("tip");
  const said = new WeakMap();
  for (const title of document.querySelectorAll(".drawing title")) {
    said.set(title.parentNode, title.textContent);
    title.remove();
  }
  const point = (event) => {
    let mark = event.target instanceof Element ? event.target : null;
    while (mark && !said.has(mark) && !mark.matches(".drawing")) mark = mark.parentElement;
    tip.hidden = !(mark && said.has(mark));
    if (tip.hidden) return;
    tip.textContent = said.get(mark);
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, innerWidth - box.width - 8))}px`;
    tip.style.top = `${event.clientY > box.height + 20 ? event.clientY - box.height - 12 : event.clientY + 18}px`;
  };
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Contents: where the reader is.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const places = [...links.keys()].map((key) => document.getElementById(key)).filter(Boolean);
  const current = () => {
    const passed = places.filter((place) => place.getBoundingClientRect().top < innerHeight * 0.3);
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get((passed.at(-1) || places[0]).id).setAttribute("aria-current", "true");
  };
  document.addEventListener("scroll", () => requestAnimationFrame(current), { passive: true });
  current();
})();
