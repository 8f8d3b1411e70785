"use strict";
/* The overview; service.js stands before it. Each Label Studio has a token of its own, which goes to no other. */

const hosts = JSON.parse(document.body.dataset.hosts);
const CALM = 20_000; // milliseconds to the next look
let timer = 0;

async function look() {
  clearTimeout(timer);
  const which = Number(at("host")?.value || 0);
  try {
    const text = await (await call(`overview/cards?host=${which}`)).text();
    at("work").replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
    at("wrong").textContent = "";
    showSignedIn(true);
  } catch (error) {
    complain(error);
    if (error.status === 401 || error.status === 403) return;
  }
  if (!document.hidden) timer = setTimeout(look, CALM);
}

at("host")?.addEventListener("change", () => {
  clearTimeout(timer);
  document.body.dataset.host = hosts[Number(at("host").value)];
  if (token()) look(); else askForToken();
});
at("forget").addEventListener("click", () => { clearTimeout(timer); askForToken(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && token() && !at("work").hidden) look(); });
signIn(look);
