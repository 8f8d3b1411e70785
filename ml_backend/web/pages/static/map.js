"use strict";
/* The map; service.js, found.js and plot.js stand before it. */

const COLOURS = [
  "#3b6fd4", "#e07b1a", "#2f9e57", "#c93d4b", "#8a5fc7", "#9c6b4a", "#d666ad", "#6f7a1e", "#1aa3b8", "#b8960c",
  "#5d8f8a", "#f0908a", "#4f52b8", "#7fb83a", "#a8326e", "#c2a27a", "#3f8fd0", "#d05a2a", "#66b39a", "#9a86d8",
];
const UNKNOWN = "#8d93a1";
const LATER_MS = 1000;

const map = { state: null, plot: null, colours: new Map(), off: new Set(), loading: 0 };

const canvasColour = (hex) => {
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
};

/* From sure to doubtful. */
function shade(share) {
  const mix = (from, to) => Math.round(from + (to - from) * share).toString(16).padStart(2, "0");
  return `#${mix(0x2b, 0xf0)}${mix(0x62, 0x8c)}${mix(0xc4, 0x1e)}`;
}

const hexOf = (colour, value) => {
  if (value === null) return UNKNOWN;
  return colour.name === "doubt" ? shade(value / 100) : COLOURS[value % COLOURS.length];
};

function palette(colour) {
  const size = colour.name === "doubt" ? 101 : colour.names.length;
  const made = new Uint32Array(size + 1);
  for (let value = 0; value < size; value++) made[value] = map.off.has(value) ? 0 : canvasColour(hexOf(colour, value));
  made[size] = map.off.has(null) ? 0 : canvasColour(UNKNOWN);
  return made;
}

// -- loading ----------------------------------------------------------------------------------------------------------

async function numbers(path) {
  return (await call(path)).arrayBuffer();
}

/* Load and paint: a sample first, the rest part by part. */
async function load() {
  const mine = ++map.loading;
  const state = await (await call("map/state")).json();
  if (mine !== map.loading) return;
  showState(state);
  if (!state.key) {
    at("waiting").textContent = "The images are being put in order. This takes some seconds, or a while where there are very many.";
    setTimeout(() => { if (mine === map.loading) load().catch(complain); }, LATER_MS);
    return;
  }
  map.plot.expect(state.points);
  map.colours.clear();
  const chosen = current();
  for (let part = 0; part < state.parts.length; part++) {
    const [places] = await Promise.all([numbers(`map/points/${state.key}/${part}`), values(chosen, part)]);
    if (mine !== map.loading) return;
    const size = state.parts[part], both = new Uint16Array(places);
    map.plot.add(both.subarray(0, size), both.subarray(size));
    if (!part) {
      paint();
      at("waiting").textContent = "";
    }
  }
  if (current() !== chosen) await recolour();
  if (state.coming) setTimeout(() => follow(mine).catch(complain), LATER_MS);
}

/* Load the map that is being made once it is there, unless images are chosen on this one. */
async function follow(mine) {
  if (mine !== map.loading) return;
  const state = await (await call("map/state")).json().catch(() => map.state);
  if (mine !== map.loading) return;
  if (state.key !== map.state.key && !chosen.ids.length) load().catch(complain);
  else if (state.coming || chosen.ids.length) setTimeout(() => follow(mine).catch(complain), LATER_MS);
}

const current = () => map.state.colours.find((one) => one.name === at("colour").value) || map.state.colours[0];

/* One number a point, of which those of a part come in. */
async function values(colour, part) {
  const { state } = map, Kind = colour.width === 1 ? Uint8Array : Uint16Array;
  const known = map.colours.get(colour.name) || { values: new Kind(state.points).fill(NONE_OF[colour.width]), parts: new Set() };
  map.colours.set(colour.name, known);
  if (known.parts.has(part)) return;
  const start = state.parts.slice(0, part).reduce((sum, size) => sum + size, 0);
  known.values.set(new Kind(await numbers(`map/colours/${state.key}/${colour.name}/${part}`)), start);
  known.parts.add(part);
  if (current() === colour) map.plot.draw();
}

async function recolour() {
  const chosen = current();
  map.off.clear();
  showLegend();
  await values(chosen, 0);
  if (current() === chosen) paint();
  for (let part = 1; part < map.state.parts.length; part++) await values(chosen, part);
}

function paint() {
  const chosen = current();
  map.plot.colour(map.colours.get(chosen.name).values, palette(chosen));
}

/* What was made anew meanwhile is loaded anew. */
async function renewing(what) {
  try {
    await what();
  } catch (error) {
    if (error.status !== 409) return complain(error);
    try { await load(); } catch (again) { complain(again); }
  }
  return undefined;
}

// -- the page ---------------------------------------------------------------------------------------------------------

function showState(state) {
  const before = at("colour").value || "guess";
  map.state = state;
  showKnown(state);
  at("colour").replaceChildren(...state.colours.map((one) => Object.assign(document.createElement("option"), { value: one.name, textContent: one.title })));
  if (state.colours.some((one) => one.name === before)) at("colour").value = before;
  const without = state.missing ? ` ${many(state.missing, "image")} not read yet, or unreadable, ${state.missing === 1 ? "is" : "are"} not on it.` : "";
  at("method").textContent = state.key ? `${many(state.points, "image")}${state.coming ? " so far" : ""}. ${state.method}${without}` : "";
  at("hidden").textContent = state.hidden;
  at("points").setAttribute("aria-label", `Map of ${many(state.points, "image")}`);
  if (state.key) showLegend();
}

function showLegend() {
  const colour = current(), rows = [];
  const counted = colour.counts.reduce((sum, count) => sum + count, 0);
  if (colour.name === "doubt") {
    for (const value of [0, 25, 50, 75, 100]) rows.push(legendRow(colour, value, `${value} %`, null, false));
  } else {
    colour.names.forEach((name, value) => { if (colour.counts[value]) rows.push(legendRow(colour, value, name, colour.counts[value], true)); });
  }
  const left = colour.name === "doubt" ? null : map.state.points - counted;
  if (left !== 0) rows.push(legendRow(colour, null, colour.name === "doubt" ? "no guess" : `no ${colour.title}`, left, true));
  at("values").replaceChildren(...rows);
}

function legendRow(colour, value, name, count, switched) {
  const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
  const spot = Object.assign(document.createElement("span"), { className: "spot" });
  spot.style.backgroundColor = hexOf(colour, value);
  const label = document.createElement(switched ? "label" : "span");
  if (switched) {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !map.off.has(value) });
    box.addEventListener("change", () => { if (box.checked) map.off.delete(value); else map.off.add(value); paint(); });
    label.append(box);
  }
  label.append(spot, name);
  head.scope = "row";
  head.append(label);
  cell.textContent = count === null ? "" : count.toLocaleString("en");
  row.append(head, cell);
  return row;
}

function dragging(lasso) {
  map.plot.lasso = lasso;
  at("lasso").setAttribute("aria-pressed", String(lasso));
  at("move").setAttribute("aria-pressed", String(!lasso));
}

map.plot = new Plot(at("points"), at("drawn"), (places) => {
  map.plot.mark(places);
  if (!places.length) return chooseNothing();
  return renewing(() => find({ key: map.state.key, places: places.slice(0, LARGEST_LASSO) }, places.length));
});
at("colour").addEventListener("change", () => renewing(recolour));
at("lasso").addEventListener("click", () => dragging(true));
at("move").addEventListener("click", () => dragging(false));
at("closer").addEventListener("click", () => map.plot.zoomAt(1.5));
at("further").addEventListener("click", () => map.plot.zoomAt(1 / 1.5));
at("whole").addEventListener("click", () => map.plot.whole());
at("find").addEventListener("submit", () => map.plot.mark([]));
at("clear").addEventListener("click", () => map.plot.mark([]));
signIn(() => { showSignedIn(true); load().catch(complain); });
