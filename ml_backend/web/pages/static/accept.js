"use strict";
/* The page for accepting the rest; service.js stands before it. The service renders the state; here it is only put in place. */

const SOON = 2_000, CALM = 20_000, AFTER_TROUBLE = 5_000; // milliseconds to the next look
let timer = 0, looking = null, trying = null, asked = null, lost = false;

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

/* Say what would happen, and ask once. */
async function ask(title, yes, message) {
  asked = message;
  trying?.abort();
  trying = new AbortController();
  const mine = trying;
  at("ask-title").textContent = title;
  at("ask-yes").textContent = yes;
  at("ask-says").textContent = "Finding out what it would come to …";
  at("ask-wrong").textContent = "";
  at("ask-yes").disabled = true;
  at("ask").showModal();
  at("ask-no").focus();
  try {
    const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(message), signal: mine.signal };
    const told = await (await call("accept/would", sent)).json();
    if (mine !== trying) return;
    at("ask-says").textContent = told.says.replaceAll("\n", "\n\n");
    at("ask-yes").disabled = false;
  } catch (error) {
    if (mine !== trying || mine.signal.aborted) return;
    at("ask-says").textContent = "";
    at("ask-wrong").textContent = error.message;
  }
}

async function doIt() {
  at("ask-yes").disabled = true;
  try {
    await post("accept/acts", asked);
    at("ask").close();
    tell("");
  } catch (error) {
    at(at("ask").open ? "ask-wrong" : "wrong").textContent = error.message;
  }
  look();
}

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
  if (act) ask(title, yes, { act, certificate: certificate || null });
  else if (plan) workOut();
  else if (file) download(file, path);
});
at("work").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("begin-audit").getAttribute("aria-disabled") === "true") return;
  const [error, confidence] = ["error", "confidence"].map((id) => Number((at(id).valueAsNumber / 100).toPrecision(12)));
  ask("Begin an audit?", "Begin it", { act: "audit", error, confidence });
});
at("ask-yes").addEventListener("click", doIt);
at("ask-no").addEventListener("click", () => at("ask").close());
at("ask").addEventListener("close", () => { if (!at("ask").open) trying?.abort(); }); // it comes late: another may be open by then
at("forget").addEventListener("click", () => { clearTimeout(timer); looking?.abort(); askForToken(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && token() && !at("work").hidden) look(); });
signIn(look);
