"use strict";
/* The page for accepting the rest; service.js and ask.js stand before it. The service renders the state; here it is only put in place. */

const SOON = 2_000, CALM = 20_000, AFTER_TROUBLE = 5_000; // milliseconds to the next look
let timer = 0, looking = null, lost = false;

// -- what is shown ----------------------------------------------------------------------------------------------------

/* Make `old` what `fresh` is, and leave alone what is so already: focus, what is typed and what is read out stay. */
function morph(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  let here = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const twin = next.id ? [...old.children].find((child) => child.id === next.id) : null;
    while (twin && here && here !== twin) here = drop(here);
    if (here && here.nodeName === next.nodeName && (here.id || "") === (next.id || "")) {
      if (next.nodeType === Node.ELEMENT_NODE) morph(here, next);
      else if (here.data !== next.data) here.data = next.data;
      here = here.nextSibling;
    } else {
      old.insertBefore(next, here);
    }
  }
  while (here) here = drop(here);
}

function drop(node) {
  const after = node.nextSibling;
  node.remove();
  return after;
}

function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("state");
  const focused = at("state").contains(document.activeElement) ? document.activeElement : null;
  const home = focused?.closest("section")?.id;
  morph(at("state"), fresh);
  if (focused && !focused.isConnected) (at(home)?.querySelector("h3") || at("top")).focus({ preventScroll: true });
  at("person").textContent = `as ${fresh.dataset.person}`;
  showSignedIn(true);
}

async function look() {
  clearTimeout(timer);
  looking?.abort();
  const mine = looking = new AbortController();
  let pause = AFTER_TROUBLE;
  try {
    show(await (await call("accept/state", { signal: mine.signal })).text());
    if (lost) at("wrong").textContent = "";
    lost = false;
    pause = at("state").dataset.busy === "yes" ? SOON : CALM;
  } catch (error) {
    if (mine.signal.aborted) return;
    lost = true;
    complain(error);
    if (error.status === 403) return;
  }
  if (!document.hidden && mine === looking) timer = setTimeout(look, pause);
}

// -- what is asked for ------------------------------------------------------------------------------------------------

const askFor = (title, yes, body) => ask({ would: "accept/would", path: "accept/acts", body, title, yes, spaced: true, after: look });

async function workOut() {
  try {
    await post("accept/plan", {});
  } catch (error) {
    complain(error);
  }
  look();
}

async function download(name, path) {
  try {
    const address = URL.createObjectURL(await (await call(path)).blob());
    Object.assign(document.createElement("a"), { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  } catch (error) {
    complain(error);
  }
}

at("work").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  const { act, title, yes, certificate, plan, file, path } = button.dataset;
  if (act) askFor(title, yes, { act, certificate: certificate || null });
  else if (plan) workOut();
  else if (file) download(file, path);
});
at("work").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("begin-audit").getAttribute("aria-disabled") === "true") return;
  const [error, confidence] = ["error", "confidence"].map((id) => Number((at(id).valueAsNumber / 100).toPrecision(12)));
  askFor("Begin an audit?", "Begin it", { act: "audit", error, confidence });
});
at("forget").addEventListener("click", () => { clearTimeout(timer); looking?.abort(); askForToken(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && token() && !at("work").hidden) look(); });
signIn(look);
