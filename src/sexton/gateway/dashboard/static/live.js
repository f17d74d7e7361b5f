// Keeps the page up to date: the journal's event stream says when, the page itself is asked for again, and only what
// differs is changed.  Focus, selection, open details and what is being typed stay as they are.
import { Idiomorph } from "./vendor/idiomorph-0.8.0.js";

const SOON = 120; // ms after an event, so that those that come together are one
const APART = 900; // ms between two requests at least
const SHARE = 4; // and so many times what the last one took, so that nobody's machine is busy with being looked at

let source = null;
let timer = null;
let last = 0;
let took = 0;
let asking = null;
let again = false;
let isHeld = false;
let lastId = "";
let isLost = false;

const live = () => document.body.dataset.live.split(" ").filter(Boolean);
const every = () => Number(document.body.dataset.every) * 1000;

export function keepLive() {
  document.addEventListener("sexton:refresh", () => soon(0));
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (event) => event.persisted && connect());
  setInterval(countOn, 1000);
  setInterval(() => {
    if (every() && !document.hidden && Date.now() - last >= every()) soon(0);
  }, 1000);
  connect();
}

export function hold() {
  isHeld = !isHeld;
  tell(isHeld ? "held" : isLost ? "lost" : "live");
  if (!isHeld) soon(0);
}

function connect() {
  if (document.hidden || source) return;
  // A browser allows six connections to a server, so a page that nobody sees lets go of its own.
  source = new EventSource(`/api/v1/events?unnamed=1${lastId ? `&after=${lastId}` : ""}`);
  source.addEventListener("open", () => {
    isLost = false;
    notice("");
    tell(isHeld ? "held" : "live");
    soon(0);
  });
  source.addEventListener("message", heard);
  source.addEventListener("error", lost);
}

function disconnect() {
  source?.close();
  source = null;
}

function heard(message) {
  lastId = message.lastEventId || lastId;
  const { kind } = JSON.parse(message.data);
  document.dispatchEvent(new CustomEvent("sexton:event", { detail: kind }));
  if (concerns(kind)) soon(SOON);
}

// Progress comes every second, and only a page that shows it names it.
function concerns(kind) {
  const named = live();
  if (kind === "run.progress") return named.includes(kind);
  return named.some((one) => one === "*" || kind.startsWith(one));
}

function lost() {
  isLost = true;
  tell("lost");
  notice(`The gateway does not answer. What you see is as it was at ${new Date(last || Date.now()).toLocaleTimeString()}.`);
  if (source?.readyState === EventSource.CLOSED) {
    disconnect(); // it was refused: perhaps we are no longer logged in, which the page itself tells
    setTimeout(connect, 3000);
    soon(0);
  }
}

function soon(wait) {
  if (isHeld) return;
  if (asking) {
    again = true;
    return;
  }
  if (timer !== null) return;
  timer = setTimeout(refresh, Math.max(wait, last + Math.max(APART, took * SHARE) - Date.now(), 0));
}

async function refresh() {
  timer = null;
  if (document.hidden) return;
  asking = new AbortController();
  const began = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: asking.signal });
    if (answer.status === 401) return location.reload();
    take(await answer.text());
    last = Date.now();
    took = last - began;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // the gateway is away; the event stream tells when it is back
  } finally {
    asking = null;
    if (again) {
      again = false;
      soon(SOON);
    }
  }
}

function take(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const main = fresh.getElementById("main");
  if (!main || isHeld) return;
  document.title = fresh.title;
  document.body.dataset.live = fresh.body.dataset.live;
  document.body.dataset.every = fresh.body.dataset.every;
  document.getElementById("zone").textContent = fresh.getElementById("zone").textContent;
  Idiomorph.morph(document.getElementById("main"), main, {
    morphStyle: "outerHTML",
    ignoreActiveValue: true,
    restoreFocus: true,
    callbacks: { beforeNodeMorphed: mayChange, beforeAttributeUpdated: mayChangeAttribute },
  });
  countOn();
  document.dispatchEvent(new CustomEvent("sexton:changed"));
}

function mayChange(old) {
  return !(old instanceof Element && (old.hasAttribute("data-keep") || old.getAttribute("aria-busy") === "true"));
}

function mayChangeAttribute(name, element) {
  return !(name === "open" && element instanceof HTMLDetailsElement) && !(name === "hidden" && element.dataset.name);
}

function tell(state) {
  const place = document.getElementById("live");
  if (place.dataset.state === state) return;
  place.dataset.state = state;
  place.querySelector(".word").textContent = { live: "live", lost: "no answer", held: "held still" }[state];
}

function notice(text) {
  const place = document.getElementById("stale");
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

// Times that count on.  The same rule as `brief` of the server.

function countOn() {
  const now = Date.now();
  for (const place of document.querySelectorAll("time[data-counts]")) {
    const seconds = (Date.parse(place.dateTime) - now) / 1000;
    const text = place.dataset.counts === "elapsed" ? brief(-seconds) : seconds > 0 ? `in ${brief(seconds)}` : `${brief(-seconds)} ago`;
    if (place.textContent !== text) place.textContent = text;
  }
}

export function brief(seconds) {
  const whole = Math.max(0, Math.trunc(seconds));
  const two = (large, largeUnit, small, smallUnit) => (small ? `${large}${largeUnit} ${small}${smallUnit}` : `${large}${largeUnit}`);
  if (whole < 60) return `${whole}s`;
  if (whole < 600) return two(Math.trunc(whole / 60), "m", whole % 60, "s");
  if (whole < 3600) return `${Math.trunc(whole / 60)}m`;
  if (whole < 86400) return two(Math.trunc(whole / 3600), "h", Math.trunc((whole % 3600) / 60), "m");
  return two(Math.trunc(whole / 86400), "d", Math.trunc((whole % 86400) / 3600), "h");
}
