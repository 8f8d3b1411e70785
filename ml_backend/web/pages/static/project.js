"use strict";
/* The page of a project; service.js and ask.js stand before it. The service renders its sections; here they are asked for, and acts too. */

// -- what is shown ----------------------------------------------------------------------------------------------------

async function start() {
  try {
    const text = await (await call("page/start")).text();
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("start");
    at("title").textContent = document.title = fresh.dataset.title;
    at("person").textContent = `as ${fresh.dataset.person}`;
    at("wrong").textContent = "";
    for (const old of [...at("work").children]) htmx.remove(old);
    at("work").replaceChildren(document.adoptNode(fresh));
    showSignedIn(true);
    htmx.process(fresh);
  } catch (error) {
    complain(error);
    if (error.status !== 401 && error.status !== 403) setTimeout(start, 5_000);
  }
}

function refresh() {
  for (const part of document.querySelectorAll("#start [hx-get]")) htmx.trigger(part, "acted");
}

/* Who asks, and what a section was asked to show: its fields of the class `query`. */
document.body.addEventListener("htmx:configRequest", ({ detail }) => {
  Object.assign(detail.headers, credentials());
  if (!detail.elt.matches(".body")) return;
  for (const field of detail.elt.querySelectorAll(".query")) {
    if (field.type !== "checkbox" || field.checked) detail.parameters[field.name] = field.value;
  }
});
document.body.addEventListener("htmx:responseError", (event) => {
  const { xhr, target } = event.detail;
  let said = `The service answered ${xhr.status}: see its log.`;
  try { said = JSON.parse(xhr.responseText).error || said; } catch { /* no sentence of ours */ }
  const error = Object.assign(new Error(said), { status: xhr.status });
  if (xhr.status === 401 || xhr.status === 403) return complain(error);
  target.replaceChildren(Object.assign(document.createElement("p"), { className: "wrong", textContent: said }));
});
for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.body.addEventListener(name, () => {
    at("wrong").textContent = 'The service cannot be reached: see that "ml-backend serve" runs. It is tried again by itself.';
  });
}
document.body.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) at("wrong").textContent = ""; });

document.body.addEventListener("htmx:load", (event) => showThumbnails(event.detail.elt));
document.body.addEventListener("htmx:afterSettle", () => showThumbnails(at("work")));
document.body.addEventListener("change", (event) => {
  if (event.target.matches(".query")) htmx.trigger(event.target.closest("[hx-get]"), "acted");
});

/* What somebody typed, chose, opened or has in sight stays as it is when a section is put in place again. */
function isTouched(field) {
  if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
  if (field.tagName === "SELECT") {
    const given = [...field.options].findIndex((each) => each.defaultSelected);
    return field.selectedIndex !== Math.max(given, 0);
  }
  return ["INPUT", "TEXTAREA"].includes(field.tagName) && field.value !== field.defaultValue;
}
Object.assign(Idiomorph.defaults.callbacks, {
  beforeNodeMorphed: (old) => !(old.dataset && "kept" in old.dataset) && !(old.form && !old.matches(".query") && isTouched(old)),
  beforeAttributeUpdated: (name, node) => !(name === "src" && node.dataset.thumb) && !(name === "open" && node.tagName === "DETAILS"),
});

// -- what is asked for ------------------------------------------------------------------------------------------------

function askFor(act, given, form = null) {
  ask({ would: "would", path: "acts", body: { act, given }, done: () => form?.reset(), after: refresh });
}

/* What a form or a button says: a button in data-given, a form in its fields; numbers as numbers, ticks as true or false. */
function givenBy(element) {
  const given = JSON.parse(element.dataset.given || "{}");
  if (element.tagName !== "FORM") return given;
  for (const field of element.elements) {
    if (!field.name || field.disabled || (field.type === "radio" && !field.checked)) continue;
    given[field.name] = field.type === "number" ? field.valueAsNumber : field.type === "checkbox" ? field.checked : field.value;
  }
  return given;
}

at("work").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button && button.getAttribute("aria-disabled") !== "true") askFor(button.dataset.act, givenBy(button));
});
at("work").addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-act]");
  if (!form) return;
  event.preventDefault();
  askFor(form.dataset.act, givenBy(form), form);
});
at("forget").addEventListener("click", () => {
  for (const old of [...at("work").children]) htmx.remove(old);
  at("person").textContent = "";
  askForToken();
});
signIn(start);
