"use strict";
(() => {
  const PAGE = 25;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // What needs a script is hidden in the file and shown by it.
  for (const element of all(".script-only, #filters, #theme")) element.hidden = false;

  function setUpTheme() {
    const button = byId("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => {
      const chosen = document.documentElement.dataset.theme;
      return chosen ? chosen === "dark" : system.matches;
    };
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      show();
    });
    system.addEventListener("change", show);
    show();
  }

  function compare(a, b) {
    const [x, y] = [a, b].map((cell) => cell.dataset.value);
    if (x !== undefined) return Number(x) - Number(y);
    return a.textContent.localeCompare(b.textContent, "en");
  }

  function sortBy(header) {
    const table = header.closest("table");
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort(
      (a, b) => direction * compare(a.cells[header.cellIndex], b.cells[header.cellIndex]),
    );
    body.append(...rows);
    for (const other of all("th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  }

  function setUpErrors() {
    const [form, list, more, status] = ["filters", "error-list", "more", "shown"].map(byId);
    const rows = all("li", list).map((element) => ({
      element,
      ...element.dataset,
      slices: JSON.parse(element.dataset.slices),
      text: all(".query, dd", element).map((part) => part.textContent).join("\n").toLowerCase(),
    }));
    let limit = PAGE;

    const show = () => {
      const { gold, got, slice, kind, text } = form.elements;
      const wanted = text.value.trim().toLowerCase();
      const matching = rows.filter(
        (row) =>
          (!gold.value || row.gold === gold.value) &&
          (!got.value || row.got === got.value) &&
          (!kind.value || row.kind === kind.value) &&
          (!slice.value || row.slices.includes(slice.value)) &&
          row.text.includes(wanted),
      );
      const visible = new Set(matching.slice(0, limit));
      for (const row of rows) row.element.hidden = !visible.has(row);
      more.hidden = matching.length <= limit;
      const shown = Math.min(limit, matching.length);
      status.textContent = `${matching.length} of ${rows.length} wrong answers match, ${shown} shown`;
      return matching;
    };
    const restart = () => {
      limit = PAGE;
      show();
    };
    form.addEventListener("input", restart);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(restart));
    more.addEventListener("click", () => {
      const matching = show();
      const next = matching[limit];
      limit += PAGE;
      show();
      next.element.tabIndex = -1;
      next.element.focus(); // a keyboard goes on where the list went on
    });
    for (const button of all("button.show")) {
      button.addEventListener("click", () => {
        form.reset();
        form.elements.gold.value = button.dataset.gold;
        form.elements.got.value = button.dataset.got;
        restart();
        byId("errors").focus();
      });
    }
    addEventListener("beforeprint", () => {
      for (const details of all("details")) details.open = true;
      limit = Infinity;
      show();
    });
    addEventListener("afterprint", restart);
    show();
  }

  setUpTheme();
  for (const button of all("table.sortable th button"))
    button.addEventListener("click", () => sortBy(button.closest("th")));
  setUpErrors();
})();
