// The log of a server, followed: what is new is added at the end, and the end stays in sight if it was in sight.
const MOST = 400_000; // characters that are kept in the page
const LINES = 400;
const AGAIN = 3000; // ms after the connection ended

export function followLog() {
  const place = document.querySelector("[data-log]");
  if (!place) return;
  let ending = null;
  const follow = () => {
    if (document.hidden || ending) return;
    ending = new AbortController();
    read(place, ending.signal).finally(() => {
      ending = null;
      tell("not followed");
      setTimeout(follow, AGAIN);
    });
  };
  // A browser allows six connections to a server, so a page that nobody sees lets go of its own.
  document.addEventListener("visibilitychange", () => (document.hidden ? ending?.abort() : follow()));
  window.addEventListener("pagehide", () => ending?.abort());
  follow();
}

async function read(place, signal) {
  try {
    const answer = await fetch(`${place.dataset.log}?follow=true&lines=${LINES}`, { signal });
    if (!answer.ok) return;
    tell("followed live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    place.textContent = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) add(place, part.value);
  } catch (error) {
    if (!(error instanceof TypeError || error.name === "AbortError")) throw error; // the gateway is away, or we are
  }
}

function add(place, text) {
  const atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
  place.append(text);
  if (place.textContent.length > MOST) place.textContent = place.textContent.slice(-MOST / 2);
  if (atEnd) place.scrollTop = place.scrollHeight;
}

function tell(text) {
  const place = document.getElementById("log-state");
  if (place) place.textContent = text;
}
