"use strict";
/* What the pages have in common: the person's own token, or the service's password, which this tab keeps, and calls of the service with it. */

const HEADER = "X-Label-Studio-Token";
const OPERATOR = "the service's own password";
const kept = () => `token of ${document.body.dataset.host}`;

const at = (id) => document.getElementById(id);

// -- the service ------------------------------------------------------------------------------------------------------

const token = () => sessionStorage.getItem(kept()) || sessionStorage.getItem(OPERATOR) || "";

/* The headers that say who calls: a person by their token, or else the operator by the service's password. */
function credentials() {
  const mine = sessionStorage.getItem(kept()), basic = sessionStorage.getItem(OPERATOR);
  return mine ? { [HEADER]: mine } : basic ? { Authorization: basic } : {};
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      ...options, headers: { ...options.headers, ...credentials() }, redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The service cannot be reached: see that "ml-backend serve" runs, then ${document.body.dataset.again}.`);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const problem = new Error(told.error || `The service answered ${answer.status}: see its log.`);
  problem.status = answer.status;
  throw problem;
}

async function post(path, body, signal = undefined) {
  const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
  return (await call(path, sent)).json();
}

// -- what is told -----------------------------------------------------------------------------------------------------

const many = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;

function tell(sentence, strong = "") {
  const found = at("told");
  found.replaceChildren();
  if (strong) found.append(Object.assign(document.createElement("b"), { textContent: strong }), " ");
  found.append(sentence);
  at("wrong").textContent = "";
}

function complain(error) {
  at("told").textContent = "";
  at("wrong").textContent = error.message;
  if (error.status === 403 || error.status === 401) askForToken(error.status === 403);
}

function showSignedIn(known) {
  for (const form of document.querySelectorAll("#sign-in, #sign-in-operator")) form.hidden = known;
  for (const part of document.querySelectorAll("[data-signed-in]")) part.hidden = !known;
}

/* keeps: the operator's password is right, and what was asked for takes a person. */
function askForToken(keeps = false) {
  sessionStorage.removeItem(kept());
  if (!keeps) sessionStorage.removeItem(OPERATOR);
  showSignedIn(false);
  at("told").textContent = "";
  at("token").value = "";
  at("token").focus();
}

/* Have the token asked for where this tab has none. entered: what is done with one, now and each time another was given. */
function signIn(entered) {
  at("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(kept(), at("token").value.trim());
    at("wrong").textContent = "";
    entered();
  });
  at("sign-in-operator")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const both = new TextEncoder().encode(`${at("operator-name").value}:${at("operator-password").value}`);
    sessionStorage.setItem(OPERATOR, `Basic ${btoa(String.fromCharCode(...both))}`);
    at("operator-password").value = "";
    at("wrong").textContent = "";
    entered();
  });
  if (token()) entered(); else askForToken();
}
