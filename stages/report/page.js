"use strict";
const all = (query, root = document) => [...root.querySelectorAll(query)];
const root = document.documentElement;

// Light or dark: as the system has it, until the reader chooses.
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = document.getElementById("theme");
let chosen = null;
try { chosen = localStorage.getItem("semtok-theme"); } catch { /* storage may be off */ }
function paint() {
  root.dataset.theme = chosen || (dark.matches ? "dark" : "light");
  theme.textContent = root.dataset.theme === "dark" ? "Light" : "Dark";
}
theme.hidden = false;
theme.addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("semtok-theme", chosen); } catch { /* storage may be off */ }
  paint();
});
dark.addEventListener("change", paint);
paint();

// Tables: a header sorts, numbers by value, cells without one last.
const value = (text) => {
  const found = /^[≤≥~ ]*([+-]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?)/i.exec(text);
  return found ? parseFloat(found[1].replaceAll(",", "")) : NaN;
};
function compare(one, other, sign) {
  if (one === "–" || other === "–") return (one === "–") - (other === "–");
  const [a, b] = [value(one), value(other)];
  if (Number.isNaN(a) || Number.isNaN(b)) return sign * one.localeCompare(other, "en", { numeric: true });
  return sign * (a - b);
}
for (const table of all("table")) {
  const heads = all("thead th", table), body = table.tBodies[0];
  heads.forEach((head, place) => {
    head.firstElementChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((one) => one.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows];
      rows.sort((a, b) => compare(a.cells[place].textContent, b.cells[place].textContent, up ? 1 : -1));
      body.append(...rows);
    });
  });
}

// What is wider than the page scrolls in its box, which says so and takes the focus.
function hints() {
  for (const box of all(".scroll")) {
    const wide = box.scrollWidth > box.clientWidth + 1;
    if (wide && !box.previousElementSibling?.matches(".hint")) {
      box.insertAdjacentHTML("beforebegin", '<p class="hint">Scroll sideways for more columns →</p>');
    } else if (!wide && box.previousElementSibling?.matches(".hint")) box.previousElementSibling.remove();
    if (wide) box.tabIndex = 0; else box.removeAttribute("tabindex");
    box.classList.toggle("more", wide && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  }
}
all(".scroll").forEach((box) => box.addEventListener("scroll", hints, { passive: true }));
all("details").forEach((one) => one.addEventListener("toggle", hints));
addEventListener("resize", hints);
hints();

// Explanations, where the pointer or else the focus is.
const tip = document.getElementById("tip");
let pointed = null, told = null;
function place() {
  const box = told.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(box.left, root.clientWidth - tip.offsetWidth - 8))}px`;
  const above = box.top - tip.offsetHeight - 6;
  tip.style.top = `${above > 50 ? above : box.bottom + 6}px`;
}
function tell() {
  const focused = document.activeElement?.closest("[data-tip]");
  told?.removeAttribute("aria-describedby");
  told = pointed || (focused?.matches(":focus-visible") ? focused : null);
  tip.hidden = !told;
  if (!told) return;
  tip.textContent = told.dataset.tip;
  told.setAttribute("aria-describedby", "tip");
  place();
}
document.addEventListener("mouseover", (event) => {
  pointed = event.target.closest?.("[data-tip]");
  tell();
});
for (const kind of ["focusin", "focusout"]) document.addEventListener(kind, () => setTimeout(tell));
addEventListener("scroll", () => { if (told) place(); }, { passive: true, capture: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

for (const slider of all(".slider")) {
  const input = slider.querySelector("input"), frames = all("img", slider);
  input.addEventListener("input", () => {
    frames.forEach((frame, place) => { frame.hidden = place !== Number(input.value); });
    const { label } = frames[input.value].dataset;
    slider.querySelector("output").textContent = label;
    input.setAttribute("aria-valuetext", label);
  });
}

for (const gallery of all(".gallery")) {
  const select = gallery.querySelector("select"), search = gallery.querySelector("input");
  const items = all("figure", gallery), classes = new Set(items.map((one) => one.dataset.label));
  const filter = () => {
    const [generator, label] = [select?.value || "", (search?.value || "").trim().toLowerCase()];
    const fits = (text) => (classes.has(label) ? text === label : text.toLowerCase().includes(label));
    for (const { dataset, style } of items) {
      style.display = (!generator || dataset.generator === generator) && fits(dataset.label) ? "" : "none";
    }
    const shown = items.filter((one) => one.style.display === "").length;
    gallery.querySelector("[role=status]").textContent = `${shown} of ${items.length} shown`;
  };
  gallery.querySelector(".filters").hidden = !(select || search);
  select?.addEventListener("change", filter);
  search?.addEventListener("input", filter);
}

// The codebook: one stop for the tab key, arrows go to the codes around, the most used code first.
for (const map of all(".map")) {
  const codes = all(".plane button", map), patches = map.querySelector(".patches");
  const place = (one) => [parseFloat(one.style.left), parseFloat(one.style.bottom)];
  const show = (code) => {
    codes.forEach((one) => { one.classList.toggle("on", one === code); one.tabIndex = one === code ? 0 : -1; });
    patches.querySelector("p").textContent = code.getAttribute("aria-label");
    all("i", patches).forEach((one) => one.style.setProperty("--row", code.style.getPropertyValue("--row")));
  };
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const toward = (from, [dx, dy]) => {
    const [x, y] = place(from);
    const cost = (one) => {
      const [ahead, aside] = [(place(one)[0] - x) * dx + (place(one)[1] - y) * dy,
        (place(one)[0] - x) * dy + (place(one)[1] - y) * dx];
      return ahead > 0 ? ahead + 3 * Math.abs(aside) : Infinity;
    };
    const best = codes.reduce((a, b) => (cost(b) < cost(a) ? b : a));
    return cost(best) < Infinity ? best : from;
  };
  for (const code of codes) {
    for (const kind of ["mouseenter", "focus"]) code.addEventListener(kind, () => show(code));
    code.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      toward(code, steps[event.key]).focus();
    });
  }
  if (codes.length) show(codes[0]);
}

// On paper everything is open.
let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open])");
  opened.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
