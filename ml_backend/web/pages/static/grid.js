"use strict";
/* The grid; service.js stands before it. What comes from the service is put into the page as text, never as markup. */

const PAGE = 60, GAP = 8, SMALLEST = 64, LARGEST = 200; // images of a page; pixels
const TINY = 64; // pixels: an image that small is shown as the squares that it is made of

const state = {
  mode: null, label: null, asked: null, next: "", person: "", classes: [], tasks: [], images: new Map(), since: 0, busy: false, made: 0, ended: null, seen: null, zoom: 1,
};

// -- the page ---------------------------------------------------------------------------------------------------------

function showClasses() {
  const rows = state.classes.map((known) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = known.tasks || asked() ? "" : "none";
    if (!asked()) button.setAttribute("aria-current", String(known.name === state.label));
    button.title = known.name;
    const pressing = known.key;
    if (pressing) button.setAttribute("aria-keyshortcuts", pressing);
    if (pressing && pressing !== known.name) {
      const key = Object.assign(document.createElement("kbd"), { textContent: pressing });
      key.setAttribute("aria-hidden", "true");
      button.append(key);
    }
    const name = Object.assign(document.createElement("span"), { className: "name", textContent: known.name });
    button.append(name);
    if (!asked()) {
      const count = Object.assign(document.createElement("span"), {
        className: "count", textContent: known.tasks.toLocaleString("en"),
      });
      button.append(" ", count);
    }
    button.setAttribute("aria-label", asked() ? known.name : `${known.name}, ${many(known.tasks, "image")} left`);
    button.addEventListener("click", () => asked() ? give(known.name) : open(known.name));
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
    tile.className = asked() ? "tile asked" : "tile";
    tile.tabIndex = place ? -1 : 0;
    tile.dataset.task = String(task.id);
    tile.title = task.name;
    if (asked()) {
      mark(tile, "");
      tile.addEventListener("click", () => tile.focus());
    } else {
      tile.setAttribute("role", "checkbox");
      tile.setAttribute("aria-checked", "true");
      tile.setAttribute("aria-label", task.name);
      tile.addEventListener("click", () => toggle(tile));
    }
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
  const without = at("classes").querySelector('[aria-current="true"]') || at("label"); // Enter looks again
  (made[0] || without).focus({ preventScroll: true });
}

function nothingLeft() {
  if (asked()) return `${state.next} Press Enter to look again.`;
  const others = state.classes.filter((known) => known.tasks > 0 && known.name !== state.label);
  if (!others.length) return "There is no image left that the model has a guess for. What is unticked comes up in Label Studio's queue.";
  return `No image is left that the model takes for ${state.label}. Choose another class above, or press ].`;
}

function showQuestion() {
  const found = at("question");
  if (asked()) {
    const left = Object.assign(document.createElement("span"), { textContent: `${many(state.asked, "image")} to go that the audit asks for` });
    found.replaceChildren(...(state.tasks.length ? ["Which class is each of these? ", left] : ["An audit is on"]));
    document.title = "Audit: grid";
    return;
  }
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
    if (!asked()) tile.setAttribute("aria-checked", "false");
    tile.setAttribute("aria-disabled", "true");
    tile.setAttribute("aria-label", `${task.name}, cannot be shown and is not labelled`);
  }
  if (!signal.aborted) count();
}

const tiles = () => [...at("tiles").children];
const asked = () => state.mode === "audit";
const ticked = () => tiles().filter((tile) => asked() ? tile.dataset.label : tile.getAttribute("aria-checked") === "true");
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
  const none = !asked() ? "Label none, show the next" : state.tasks.length ? "No image has a class yet" : "Look again";
  const what = found ? asked() ? `Write ${many(found, "class", "classes")}` : `Label ${found} as ${state.label}` : none;
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

const load = async (label) => show(await post("grid/page", { label }));

function show(page) {
  const over = state.mode === "audit" && page.mode !== "audit";
  Object.assign(state, page, { since: performance.now() });
  document.body.dataset.mode = state.mode;
  at("person").textContent = `as ${page.person}`;
  showSignedIn(true);
  showClasses();
  showTiles();
  if (over) at("told").append(` ${state.next}`);
}

/* What was answered "not now" because an audit began, or ended, meanwhile: the page is another one by then. */
async function write(path, said) {
  try {
    return await post(path, said);
  } catch (error) {
    const page = error.status === 409 ? await post("grid/page", { label: null }).catch(() => null) : null;
    if (page && page.mode !== state.mode) show(page);
    throw error;
  }
}

const open = (label) => alone(async () => {
  tell("");
  await load(label);
});

function report(done, unticked) {
  const rest = [];
  if (unticked) rest.push(done.label === null ? `${unticked} left without a class` : `${unticked} left to be labelled one by one`);
  if (done.answered) rest.push(`${done.answered} had an answer already, which stays`);
  if (done.gone) rest.push(`${done.gone} deleted meanwhile`);
  if (done.blind) rest.push(`${done.blind} kept for measuring, and not labelled`);
  const all = state.made ? ` You labelled ${state.made.toLocaleString("en")} in this tab.` : "";
  tell(`${rest.length ? `${rest.join(", ")}.` : ""}${all}`, `${done.written} labelled${done.label === null ? "" : ` as ${done.label}`}${rest.length ? "," : "."}`);
}

const labelPage = () => alone(async () => {
  if (!state.tasks.length) return load(state.label); // the page before was written, and this one did not come
  if (undrawn().length) throw new Error("Some images are still loading: wait until you see them all, or untick them.");
  const chosen = ticked();
  if (asked() && !chosen.length) throw new Error("No image has a class yet: press the key of a class, which stands beside its name above.");
  const below = chosen.filter((tile) => !tile.dataset.seen);
  if (below.length) {
    below[0].scrollIntoView({ block: "start" });
    below[0].focus({ preventScroll: true });
    throw new Error(`${many(below.length, "image was", "images were")} not in sight yet: look at them, then press Enter again.`);
  }
  const rest = tiles().filter((tile) => !chosen.includes(tile));
  const seconds = Math.min((performance.now() - state.since) / 1000, 3600);
  const answers = chosen.map((tile) => ({ task: idOf(tile), label: tile.dataset.label }));
  const done = asked()
    ? await write("grid/answers", { answers, passed: rest.map(idOf), seconds })
    : await write("grid/labels", { label: state.label, tasks: chosen.map(idOf), unticked: rest.map(idOf), seconds });
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
  tell(`taken back.${kept}`, `${many(done.deleted, "label")}${done.label === null ? "" : ` as ${done.label}`}`);
});

function beside(step) {
  const names = state.classes.map((known) => known.name);
  if (asked()) {
    const here = names.indexOf(current()?.dataset.label);
    return give(names[here < 0 ? Math.min(step, 0) + (step < 0 ? names.length : 0) : (here + step + names.length) % names.length], 0);
  }
  const place = names.indexOf(state.label) + step;
  if (names.length) open(names[(place + names.length) % names.length]);
}

// -- an audit: each image its own class -------------------------------------------------------------------------------

const current = () => tiles().find((tile) => tile.tabIndex === 0);

function mark(tile, label) {
  if (label) tile.dataset.label = label;
  else delete tile.dataset.label;
  tile.setAttribute("aria-label", `${tile.title}, ${label || "no class yet"}`);
}

/* Give the image in focus a class, or none, and go on to the next one. */
function give(label, step = 1) {
  const tile = current();
  if (state.busy || !tile) return;
  if (!tile.dataset.drawn) {
    const why = tile.getAttribute("aria-disabled") ? "This image cannot be shown: answer it in Label Studio." : "This image is still loading: wait until you see it.";
    return complain(new Error(why));
  }
  if (!tile.dataset.seen) {
    tile.focus();
    tile.scrollIntoView({ block: "nearest" });
    return complain(new Error("This image was not in sight yet: look at it, then press the key again."));
  }
  mark(tile, label);
  tell(`${tile.title}: ${label || "no class"}`);
  const all = tiles();
  const next = all[all.indexOf(tile) + step] || tile;
  next.focus();
  next.scrollIntoView({ block: "nearest" });
  count();
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
  if (state.busy || asked()) return;
  for (const tile of able) tile.setAttribute("aria-checked", String(!all));
  count();
}

const keyed = (key) => state.classes.find((one) => one.key === key.toLowerCase());

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
  } else if (asked() && (event.key === "Backspace" || (event.key === " " && !other))) {
    event.preventDefault();
    if (!event.repeat) give("", 0);
  } else if (/^[0-9]$/.test(event.key) || (asked() && keyed(event.key))) {
    const known = keyed(event.key);
    if (known && !event.repeat) asked() ? give(known.name) : open(known.name);
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
signIn(() => open(null));
