// The keyboard.  Nothing here takes a key away from a field that is being typed in.
import { changeTheme } from "./reader.js";

const ROW = "tbody th a, .events .who a, .concerns a, details > summary";
let awaitsPlace = false;

export function offerKeys({ hold }) {
  showPlace();
  document.getElementById("keys").addEventListener("click", help);
  document.addEventListener("keydown", (event) => pressed(event, hold));
  document.addEventListener("input", narrow);
  document.addEventListener("sexton:changed", () => document.querySelectorAll("[data-narrows]").forEach(narrowBy));
}

function showPlace() {
  const here = document.querySelector("nav [aria-current]");
  const nav = here?.parentElement;
  // Not scrollIntoView: from there on, the first Tab would lead past the link that skips the navigation.
  if (nav) nav.scrollLeft = here.offsetLeft - nav.offsetLeft - (nav.clientWidth - here.offsetWidth) / 2;
}

function pressed(event, hold) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (awaitsPlace) return goTo(event);
  const acts = { g: () => (awaitsPlace = true), t: changeTheme, "?": help, "/": filter, ".": hold, n: newJob, ArrowDown: () => step(1), ArrowUp: () => step(-1) };
  const act = acts[event.key];
  if (act && act() !== false) event.preventDefault();
}

function goTo(event) {
  awaitsPlace = false;
  const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
  if (!link) return;
  event.preventDefault();
  link.click();
}

function help() {
  document.getElementById("help").showModal();
}

function filter() {
  const field = document.querySelector("[data-filter]");
  if (!field) return false;
  field.focus();
  field.select?.();
  return true;
}

function newJob() {
  location.assign("/new-job");
}

function step(by) {
  const rows = [...document.querySelectorAll(`main :is(${ROW})`)].filter((one) => one.offsetParent !== null);
  const at = rows.indexOf(document.activeElement);
  if (at < 0) return false;
  rows[at + by]?.focus();
  return true;
}

function narrow(event) {
  if (event.target.dataset.narrows) narrowBy(event.target);
}

function narrowBy(field) {
  const sought = field.value.trim().toLowerCase();
  for (const row of document.querySelectorAll(`${field.dataset.narrows} tr[data-name]`)) {
    row.hidden = !row.textContent.toLowerCase().includes(sought);
  }
}
