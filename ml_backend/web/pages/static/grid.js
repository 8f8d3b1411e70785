"use strict";
/* The grid. What comes from the service is put into the page as text, never as markup. */

const HEADER = "X-Label-Studio-Token";
const KEPT = `token of ${document.body.dataset.host}`;
const PAGE = 60, GAP = 8, SMALLEST = 64, LARGEST = 200; // images of a page; pixels
const TINY = 64; // pixels: an image that small is shown as the squares that it is made of

const at = (id) => document.getElementById(id);
const state = {
  label: null, person: "", classes: [], tasks: [], images: new Map(), since: 0, busy: false, made: 0, ended: null, seen: null, zoom: 1,
};

// -- the service ------------------------------------------------------------------------------------------------------

const token = () => sessionStorage.getItem(KEPT) || "";

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      ...options, headers: { ...options.headers, [HEADER]: token() }, redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached: see that `ml-backend serve` runs, then press Enter to try again.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const problem = new Error(told.error || `The service answered ${answer.status}: see its log.`);
  problem.status = answer.status;
  throw problem;
}

async function post(path, body) {
  const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
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
  if (error.status === 403) askForToken();
}

function askForToken() {
  sessionStorage.removeItem(KEPT);
  at("work").hidden = at("actions").hidden = at("keys").hidden = true;
  at("sign-in").hidden = false;
  at("told").textContent = "";
  at("token").value = "";
  at("token").focus();
}

// -- the page ---------------------------------------------------------------------------------------------------------

function showClasses() {
  const rows = state.classes.map((known) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = known.tasks ? "" : "none";
    button.setAttribute("aria-current", String(known.name === state.label));
    button.title = known.name;
    const pressing = known.key;
    if (pressing) button.setAttribute("aria-keyshortcuts", pressing);
    if (pressing && pressing !== known.name) {
      const key = Object.assign(document.createElement("kbd"), { textContent: pressing });
      key.setAttribute("aria-hidden", "true");
      button.append(key);
    }
    const name = Object.assign(document.createElement("span"), { className: "name", textContent: known.name });
    const count = Object.assign(document.createElement("span"), {
      className: "count", textContent: known.tasks.toLocaleString("en"),
    });
    button.append(name, " ", count);
    button.setAttribute("aria-label", `${known.name}, ${many(known.tasks, "image")} left`);
    button.addEventListener("click", () => open(known.name));
    const row = document.createElement("li");
    row.append(button);
    return row;
  });
  at("classes").replaceChildren(...rows);
  at("classes").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

/* Nobody labels what they have not had in sight: between the bars above and below. */
function watch() {
  const [above, below] = ["header", "footer"].map((bar) => document.querySelector(bar).offsetHeight);
  state.seen?.disconnect();
  state.seen = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) if (isIntersecting) target.dataset.seen = "yes";
  }, { threshold: 0.6, rootMargin: `-${above}px 0px -${below}px 0px` });
  for (const tile of tiles()) state.seen.observe(tile);
}

function showTiles() {
  fit();
  for (const address of state.images.values()) URL.revokeObjectURL(address);
  state.images.clear();
  state.ended?.abort();
  state.ended = new AbortController();
  const made = state.tasks.map((task, place) => {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.className = "tile";
    tile.tabIndex = place ? -1 : 0;
    tile.dataset.task = String(task.id);
    tile.setAttribute("role", "checkbox");
    tile.setAttribute("aria-checked", "true");
    tile.setAttribute("aria-label", task.name);
    tile.title = task.name;
    tile.addEventListener("click", () => toggle(tile));
    tile.addEventListener("focus", () => rove(tile));
    draw(tile, task, state.ended.signal);
    return tile;
  });
  at("tiles").replaceChildren(...made);
  watch();
  at("empty").hidden = made.length > 0;
  at("empty").textContent = made.length ? "" : nothingLeft();
  showQuestion();
  count();
  window.scrollTo(0, 0);
  (made[0] || at("classes").querySelector('[aria-current="true"]'))?.focus({ preventScroll: true });
}

function nothingLeft() {
  const others = state.classes.filter((known) => known.tasks > 0 && known.name !== state.label);
  if (!others.length) return "There is no image left that the model has a guess for. What is unticked comes up in Label Studio's queue.";
  return `No image is left that the model takes for ${state.label}. Choose another class above, or press ].`;
}

function showQuestion() {
  const found = at("question");
  const name = Object.assign(document.createElement("strong"), { textContent: state.label });
  const left = state.classes.find((known) => known.name === state.label)?.tasks ?? 0;
  const more = Object.assign(document.createElement("span"), { textContent: `${many(left, "image")} to go in this class` });
  found.replaceChildren(...(state.tasks.length ? ["Are these all ", name, "? ", more] : [name]));
  document.title = `${state.label}: grid`;
}

async function draw(tile, task, signal) {
  try {
    const answer = await call(`tasks/${task.id}/thumbnail`, { signal });
    const address = URL.createObjectURL(await answer.blob());
    state.images.set(task.id, address);
    const image = new Image();
    image.alt = "";
    image.src = address;
    await image.decode();
    image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < TINY);
    tile.replaceChildren(image);
    tile.dataset.drawn = "yes";
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (error.status === 403) return complain(error);
    const why = Object.assign(document.createElement("span"), { className: "why", textContent: `Cannot be shown: ${error.message}` });
    tile.replaceChildren(why);
    tile.setAttribute("aria-checked", "false");
    tile.setAttribute("aria-disabled", "true");
    tile.setAttribute("aria-label", `${task.name}, cannot be shown and is not labelled`);
  }
  if (!signal.aborted) count();
}

const tiles = () => [...at("tiles").children];
const ticked = () => tiles().filter((tile) => tile.getAttribute("aria-checked") === "true");
const undrawn = () => ticked().filter((tile) => !tile.dataset.drawn);
const idOf = (tile) => Number(tile.dataset.task);

function toggle(tile) {
  if (state.busy || tile.getAttribute("aria-disabled") === "true") return;
  tile.setAttribute("aria-checked", String(tile.getAttribute("aria-checked") !== "true"));
  count();
}

function rove(tile) {
  for (const other of tiles()) other.tabIndex = other === tile ? 0 : -1;
}

function count() {
  const found = ticked().length;
  const button = at("label");
  const waiting = undrawn().length;
  const what = found ? `Label ${found} as ${state.label}` : "Label none, show the next";
  button.textContent = waiting ? `${many(waiting, "image")} still loading …` : `${what} ⏎`;
  button.title = what;
  button.disabled = state.busy;
}

// -- what is done -----------------------------------------------------------------------------------------------------

async function alone(what) {
  if (state.busy) return;
  state.busy = true;
  document.body.classList.add("busy");
  at("work").setAttribute("aria-busy", "true");
  try {
    await what();
  } catch (error) {
    complain(error);
  } finally {
    state.busy = false;
    document.body.classList.remove("busy");
    at("work").removeAttribute("aria-busy");
    if (token()) count();
  }
}

async function load(label) {
  const page = await post("grid/page", { label });
  Object.assign(state, page, { since: performance.now() });
  at("person").textContent = `as ${page.person}`;
  at("sign-in").hidden = true;
  at("work").hidden = at("actions").hidden = at("keys").hidden = false;
  showClasses();
  showTiles();
}

const open = (label) => alone(async () => {
  await load(label);
  tell("");
});

function report(done, unticked) {
  const rest = [];
  if (unticked) rest.push(`${unticked} left to be labelled one by one`);
  if (done.answered) rest.push(`${done.answered} had an answer already, which stays`);
  if (done.gone) rest.push(`${done.gone} deleted meanwhile`);
  if (done.blind) rest.push(`${done.blind} kept for measuring, and not labelled`);
  const all = state.made ? ` You labelled ${state.made.toLocaleString("en")} in this tab.` : "";
  tell(`${rest.length ? `${rest.join(", ")}.` : ""}${all}`, `${done.written} labelled as ${done.label}${rest.length ? "," : "."}`);
}

const labelPage = () => alone(async () => {
  if (!state.tasks.length) return load(state.label); // the page before was written, and this one did not come
  if (undrawn().length) throw new Error("Some images are still loading: wait until you see them all, or untick them.");
  const chosen = ticked();
  const below = chosen.filter((tile) => !tile.dataset.seen);
  if (below.length) {
    below[0].scrollIntoView({ block: "start" });
    below[0].focus({ preventScroll: true });
    throw new Error(`${many(below.length, "image was", "images were")} not in sight yet: look at them, then press Enter again.`);
  }
  const rest = tiles().filter((tile) => !chosen.includes(tile));
  const said = {
    label: state.label,
    tasks: chosen.map(idOf),
    unticked: rest.map(idOf),
    seconds: Math.min((performance.now() - state.since) / 1000, 3600),
  };
  const done = await post("grid/labels", said);
  state.made += done.written;
  report(done, rest.length);
  state.tasks = [];
  await load(state.label);
});

const undo = () => alone(async () => {
  const done = await post("grid/undo", {});
  state.made = Math.max(0, state.made - done.deleted);
  const kept = done.kept ? ` ${done.kept} changed by somebody since, and kept.` : "";
  await load(done.label);
  tell(`taken back.${kept}`, `${done.deleted} labels as ${done.label}`);
});

function beside(step) {
  const names = state.classes.map((known) => known.name);
  const place = names.indexOf(state.label) + step;
  if (names.length) open(names[(place + names.length) % names.length]);
}

// -- keys -------------------------------------------------------------------------------------------------------------

function columns(all) {
  const first = all[0].offsetTop;
  const next = all.findIndex((tile) => tile.offsetTop > first);
  return next < 0 ? all.length : next;
}

function move(step) {
  const all = tiles();
  if (!all.length) return;
  const here = all.indexOf(document.activeElement);
  const from = here < 0 ? all.findIndex((tile) => tile.tabIndex === 0) : here;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(all), ArrowDown: columns(all) }[step];
  const place = step === "Home" ? 0 : step === "End" ? all.length - 1 : here < 0 ? from : from + by;
  all[place]?.focus();
  all[place]?.scrollIntoView({ block: "nearest" });
}

/* Tiles as large as they can be with a whole page in sight, times what the person chose. */
function fit() {
  const box = at("tiles").getBoundingClientRect();
  const edges = document.querySelector("header").offsetHeight + document.querySelector("footer").offsetHeight;
  const height = window.innerHeight - edges - at("question").offsetHeight - 45;
  let side = SMALLEST;
  for (let across = 1; across <= PAGE; across += 1) {
    const wide = (box.width - GAP * (across - 1)) / across;
    side = Math.max(side, Math.min(wide, height / Math.ceil(PAGE / across) - GAP));
  }
  side = Math.min(side, LARGEST) * state.zoom;
  document.documentElement.style.setProperty("--side", `${Math.floor(side)}px`);
}

function resize(by) {
  state.zoom = Math.min(4, Math.max(0.5, state.zoom * by));
  fit();
}

function tickAll() {
  const able = tiles().filter((tile) => tile.getAttribute("aria-disabled") !== "true");
  const all = able.every((tile) => tile.getAttribute("aria-checked") === "true");
  if (state.busy) return;
  for (const tile of able) tile.setAttribute("aria-checked", String(!all));
  count();
}

const KEYS = {
  u: undo, U: undo, a: tickAll, A: tickAll, "[": () => beside(-1), "]": () => beside(1), "?": () => at("help").showModal(),
  "+": () => resize(1.25), "=": () => resize(1.25), "-": () => resize(0.8),
};
const MOVES = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (at("help").open) {
    if (event.key === "?") { event.preventDefault(); at("help").close(); }
    return;
  }
  if (at("work").hidden) return;
  const other = document.activeElement?.closest?.("button:not(.tile), a, input");
  if (event.key === "Enter") {
    if (other && other.id !== "label" && !other.closest("#classes")) return;
    if (other?.closest("#classes") && other.getAttribute("aria-current") !== "true") return;
    event.preventDefault();
    if (!event.repeat) labelPage();
  } else if (MOVES.includes(event.key)) {
    event.preventDefault();
    move(event.key);
  } else if (/^[0-9]$/.test(event.key)) {
    const known = state.classes.find((one) => one.key === event.key);
    if (known && !event.repeat) open(known.name);
  } else if (Object.hasOwn(KEYS, event.key) && !event.repeat) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

// -- begin ------------------------------------------------------------------------------------------------------------

document.addEventListener("keydown", pressed);
window.addEventListener("resize", fit);
at("label").addEventListener("click", labelPage);
at("undo").addEventListener("click", undo);
at("help-button").addEventListener("click", () => at("help").showModal());
at("help-close").addEventListener("click", () => at("help").close());
at("forget").addEventListener("click", () => { at("help").close(); askForToken(); });
at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEPT, at("token").value.trim());
  at("wrong").textContent = "";
  open(null);
});
if (token()) open(null); else askForToken();
