"use strict";
// Ask for this page again every second, and show what has changed; what is open and focused stays so.
const SECONDS = 1;
const part = document.getElementById("live"), stale = document.getElementById("stale");
let shown = part && part.innerHTML;

const replaceWith = (next) => {
  const opened = [...part.querySelectorAll("details[open][id]")].map((details) => details.id);
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  part.innerHTML = next;
  for (const id of opened) { const details = document.getElementById(id); if (details) details.open = true; }
  if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
};

const refresh = async () => {
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    if (!next) throw new Error(answer.redirected ? "log in again" : `the server answers ${answer.status}`);
    if (next.innerHTML !== shown) replaceWith(shown = next.innerHTML);
    stale.textContent = "";
  } catch (error) {
    stale.textContent = `Not up to date: ${error.message}.`;
  }
};
const tick = async () => {
  if (!document.hidden) await refresh();
  setTimeout(tick, 1000 * SECONDS);
};
if (part) setTimeout(tick, 1000 * SECONDS);
