"use strict";
/* Images that were found, or chosen on the map: the form, the thumbnails, and what is done with them. What comes from the service is put into
   the page as text, never as markup. */

const SHOWN = 60, LARGEST_LASSO = 100_000;

const chosen = { ids: [], total: 0, shown: 0, images: [], looking: 0, mayAct: false };

// -- the form ---------------------------------------------------------------------------------------------------------

const option = (value, name) => Object.assign(document.createElement("option"), { value: String(value), textContent: name });

/* What the service told of the project: who calls, what there is to choose from. */
function showKnown(state) {
  at("person").textContent = `as ${state.person}`;
  at("title").textContent = state.title;
  chosen.address = state.in_label_studio;
  chosen.mayAct = state.may_act;
  for (const id of ["label", "guess"]) {
    const before = at(id).value;
    at(id).replaceChildren(at(id).options[0], ...state.labels.map((name) => option(name, name)));
    at(id).value = before;
  }
  const kind = at("kind").value;
  at("kind").replaceChildren(at("kind").options[0], ...state.kinds.map((name, value) => option(value, name)));
  at("kind").value = kind;
  at("as").replaceChildren(...state.labels.map((name) => option(name, name)));
  at("labelling").hidden = !state.labels_here;
  at("by-words").hidden = !state.words;
  at("no-words").hidden = state.words;
}

function asked() {
  const text = (id) => at(id).value.trim(), number = (id) => at(id).value === "" ? null : Number(at(id).value);
  return {
    name: text("name"), label: at("label").value || null, guess: at("guess").value || null,
    least: number("least"), most: number("most"), kind: number("kind"), words: text("words"),
  };
}

// -- what was found ---------------------------------------------------------------------------------------------------

/* Have images found, and show them. total: how many were asked for, where that is known. */
async function find(body, total = null) {
  const mine = ++chosen.looking;
  at("count").textContent = "Looking…";
  try {
    const found = await post("search/find", body);
    if (mine !== chosen.looking) return;
    Object.assign(chosen, { ids: found.ids, total: total ?? found.total, shown: 0 });
    forgetImages();
    at("tiles").replaceChildren();
    showTiles(found.tasks);
    showCount();
    tell(at("count").textContent);
  } catch (error) {
    if (mine === chosen.looking) showCount();
    throw error;
  }
}

function chooseNothing() {
  chosen.looking++;
  Object.assign(chosen, { ids: [], total: 0, shown: 0 });
  forgetImages();
  at("tiles").replaceChildren();
  showCount();
}

function showCount() {
  const { ids, total } = chosen;
  if (!ids.length) at("count").textContent = total === 0 && !at("tiles").dataset.asked ? "No image is chosen" : "No image was found";
  else if (total === null || total > ids.length) at("count").textContent = `${total === null ? "More than " : ""}${many(total ?? ids.length, "image")}: the first ${ids.length.toLocaleString("en")}`;
  else at("count").textContent = `${many(ids.length, "image")} chosen`;
  at("more").hidden = chosen.shown >= ids.length;
  at("acts").hidden = !ids.length || !chosen.mayAct;
  chosen.since = Date.now();
}

async function showMore() {
  const next = chosen.ids.slice(chosen.shown, chosen.shown + SHOWN);
  const found = await post("search/find", { ids: next });
  chosen.shown += next.length - found.tasks.length; // those that have gone meanwhile
  showTiles(found.tasks);
  at("more").hidden = chosen.shown >= chosen.ids.length;
}

function showTiles(tasks) {
  at("tiles").append(...tasks.map(tileOf));
  chosen.shown += tasks.length;
}

function tileOf(task) {
  const tile = document.createElement("li"), link = document.createElement("a"), said = document.createElement("p");
  link.href = `${chosen.address}/data?task=${task.id}`;
  link.target = "_blank";
  link.rel = "noreferrer";
  link.title = `${task.name}: open in Label Studio`;
  link.append(Object.assign(document.createElement("span"), { className: "name", textContent: task.name }));
  const guess = task.guess === null ? "" : `the model: ${task.guess}, ${task.confidence} %`;
  said.textContent = [task.label === null ? task.kind : `label: ${task.label}`, guess].filter(Boolean).join("; ");
  const like = Object.assign(document.createElement("button"), { type: "button", textContent: "Similar" });
  like.setAttribute("aria-label", `Images similar to ${task.name}`);
  like.addEventListener("click", () => find({ like: task.id }).then(() => at("count").focus()).catch(complain));
  tile.append(link, said, like);
  drawInto(link, task);
  return tile;
}

const inSight = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    target.draw();
  }
}, { rootMargin: "200px" });

function drawInto(link, task) {
  link.draw = async () => {
    try {
      const address = URL.createObjectURL(await (await call(`tasks/${task.id}/thumbnail`)).blob());
      chosen.images.push(address);
      link.prepend(Object.assign(new Image(), { src: address, alt: "" }));
    } catch (error) {
      if (error.status === 403) return complain(error);
      link.prepend(Object.assign(document.createElement("span"), { className: "why", textContent: "cannot be shown" }));
    }
    return undefined;
  };
  inSight.observe(link);
}

function forgetImages() {
  inSight.disconnect();
  for (const address of chosen.images.splice(0)) URL.revokeObjectURL(address);
}

// -- what is done with them: each is asked for once, with what it would come to ---------------------------------------

const DOING = "It is being done. Where a turn of the model runs, that is waited for …";
const pageAct = (act) => ask({ would: "would", path: "acts", body: { act, given: { tasks: chosen.ids } }, doing: DOING });
for (const act of ["ask-next", "show-chosen", "set-aside", "take-back"]) at(act).addEventListener("click", () => pageAct(act));
at("label-chosen").addEventListener("click", () => {
  const body = { label: at("as").value, tasks: chosen.ids.slice(0, 1_000), seconds: Math.min((Date.now() - chosen.since) / 1000, 86_400) };
  ask({ would: "search/would-label", path: "search/label", body, doing: DOING });
});

// -- the form's events ------------------------------------------------------------------------------------------------

at("find").addEventListener("submit", (event) => {
  event.preventDefault();
  at("tiles").dataset.asked = "yes";
  find(asked()).then(() => at("count").focus()).catch(complain);
});
at("clear").addEventListener("click", () => { delete at("tiles").dataset.asked; at("find").reset(); chooseNothing(); });
at("more").addEventListener("click", () => showMore().catch(complain));
at("forget").addEventListener("click", () => { chooseNothing(); askForToken(); });
