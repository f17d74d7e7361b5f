// What the server should know of the reader: the time zone, and whether they want it light or dark.
const YEAR = 365 * 86400;

function remember(name, value) {
  document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=${value ? YEAR : 0}; samesite=strict`;
}

export function tellZone() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  const known = document.cookie.split("; ").includes(`sexton_zone=${encodeURIComponent(zone)}`);
  if (!zone || known) return;
  remember("sexton_zone", zone);
  document.dispatchEvent(new CustomEvent("sexton:refresh"));
}

const NEXT = { "": "light", light: "dark", dark: "" };
const SAID = { "": "as the system has it", light: "light", dark: "dark" };

export function changeTheme() {
  const root = document.documentElement;
  const theme = NEXT[root.dataset.theme ?? ""];
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  remember("sexton_theme", theme);
  document.getElementById("theme").setAttribute("aria-label", `Light or dark: ${SAID[theme]}`);
}

export function offerTheme() {
  document.getElementById("theme").addEventListener("click", changeTheme);
}
