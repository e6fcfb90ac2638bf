// The samples as tiles in one list box: mouse, keyboard and screen reader move, select and open.
import {alike, find, make, number, percent, said} from "./dom.js";
import {addRows, focused, setRows, state} from "./state.js";

const MARKS = {keep: "✓", drop: "✕", not_duplicate: "≠", right_label: "✓ label", wrong_label: "✎"};
export const NAMES = {keep: "keep", drop: "drop", not_duplicate: "not a duplicate", right_label: "right label", wrong_label: "wrong label", reset: "nothing decided"};
const listeners = {focus: () => {}, open: () => {}};
let list = null;

export const onFocus = (listener) => { listeners.focus = listener; };
export const onOpen = (listener) => { listeners.open = listener; };

export function decisionsOf(row) {
  return Object.values(row.decided ?? {});
}

export function inWords(row) {
  return row.caption || (row.label ? `label ${row.label}` : row.key || row.uid);
}

const REASONS = {kept: "kept", over_budget: "over budget", near_duplicate: "near-duplicate", exact_duplicate: "exact copy", pinned: "kept (pinned)", spared: "kept (spared)", "kept:override": "kept, decided by eye", "dropped:override": "dropped, decided by eye"};
export const reasonInWords = (reason) => REASONS[reason] ?? (reason.startsWith("unusable:") ? reason.replace(":", ": ").replaceAll("_", " ") : reason.replace(":", ": "));

function name(row) {
  const decided = decisionsOf(row).map((one) => NAMES[one.what] + (one.to ? ` ${one.to}` : "")).join(", ");
  return [inWords(row), row.caption && row.label ? `label ${row.label}` : null, reasonInWords(row.reason), decided ? `decided: ${decided}` : null].filter(Boolean).join("; ");
}

// Where a sample stands by the cut of its concept, counted from the cut.
const fromCut = (n, side, name) => n === 1 ? `the ${name}` : `${number(n - 1)} ${side} the ${name}`;

// What stands below a tile, besides its caption.
export function note(row) {
  const {view, parameters} = state.route;
  if (view === "labels") return [said(row.label), " → ", said(row.pred_label), row.chance !== undefined && row.chance !== null ? ` ${percent(row.chance)}` : ""];
  if (row.similarity !== undefined && row.similarity !== null) return [row.relevance != null ? `fits ${percent(row.relevance)}` : `similarity ${alike(row.similarity)}`];
  if (view === "cut" && row.margin !== null) return [row.keep ? fromCut(1 - row.margin, "before", "last kept") : fromCut(row.margin, "after", "first dropped")];
  if (view === "unusable") return [said(row.fault || row.outcome)];
  const column = parameters.order || parameters.score || (view === "pairs" ? state.about.queues.pairs?.column : null);
  if (column && row.value !== undefined) return [`${column} ${number(row.value)}`];
  if (row.label && row.caption) return [said(row.label)];
  return [reasonInWords(row.reason)];
}

function marks(row) {
  return decisionsOf(row).map((one) => make("span", {class: `mark ${one.what}`, title: `${NAMES[one.what]}, by ${one.by}`}, MARKS[one.what], one.to ? said(` ${one.to}`) : null));
}

function kindOf(row) {
  if (row.outcome !== "ok") return "unusable";
  return row.keep ? "kept" : "dropped";
}

export function picture(row, size = "small") {
  if (!state.about.pictures || !(row.outcome === "ok" || row.outcome === "no_caption")) return make("span", {class: "blank"}, state.about.pictures ? row.outcome.replaceAll("_", " ") : said(inWords(row)));
  const shown = make("img", {src: `/picture/${size}/${row.n}`, alt: "", loading: "lazy", decoding: "async", draggable: "false"});
  if (size === "large") {  // the small one is there at once
    shown.style.backgroundImage = `url(/picture/small/${row.n})`;
    shown.addEventListener("load", () => { shown.style.backgroundImage = ""; }, {once: true});
  }
  shown.addEventListener("error", () => shown.replaceWith(make("span", {class: "blank"}, said(inWords(row)))), {once: true});
  return shown;
}

function tile(row) {
  const made = make("div", {class: "tile", role: "option", id: `t${row.n}`, tabindex: "-1", "aria-selected": "false", "data-n": row.n},
    make("div", {class: "shot"}, picture(row), make("span", {class: "marks"})),
    make("span", {class: "tick", "aria-hidden": "true"}),
    make("div", {class: "under", "aria-hidden": "true"}, said(row.caption || row.label || row.key || row.uid, "bdi", {class: "caption"}), make("span", {class: "note"}, note(row))));
  refreshTile(made, row);
  return made;
}

function refreshTile(made, row) {
  made.className = `tile ${kindOf(row)}${decisionsOf(row).length ? " decided" : ""}`;
  made.setAttribute("aria-label", name(row));
  find(".marks", made).replaceChildren(...marks(row));
}

// Draws sections of rows, each with its heading; one section without one is a plain grid.
export function drawSections(sections, {kind = "", label = "Samples"} = {}) {
  setRows(sections.flatMap((section) => section.rows));
  list = make("div", {class: `tiles ${kind}`, role: "listbox", "aria-multiselectable": "true", "aria-label": label, id: "tiles"},
    sections.map(drawSection));
  find("#content").replaceChildren(list);
  settle();
}

function drawSection(section, place) {
  if (!section.title) return make("div", {class: "grid", role: "presentation"}, section.rows.map(tile));
  return make("div", {class: "section", role: "group", "aria-labelledby": `s${state.rows.length}-${place}`},
    make("h3", {id: `s${state.rows.length}-${place}`}, section.title, section.note ? make("span", {class: "kind"}, section.note) : null),
    make("div", {class: "grid", role: "presentation"}, section.rows.map(tile)));
}

export function addTiles(rows) {
  const grids = list.querySelectorAll(".grid");
  grids[grids.length - 1].append(...addRows(rows).map(tile));
  settle();
}

export function addSections(sections) {
  for (const section of sections) addRows(section.rows);
  list.append(...sections.map(drawSection));
  settle();
}

// Sets what is selected and in focus onto the tiles.
export function settle({grab = false, scroll = false} = {}) {
  const now = focused();
  for (const one of list?.querySelectorAll(".tile") ?? []) {
    const n = Number(one.dataset.n);
    one.setAttribute("aria-selected", String(state.selected.has(n)));
    one.tabIndex = now && now.n === n ? 0 : -1;
    one.classList.toggle("current", Boolean(now && now.n === n));
  }
  const here = now && document.getElementById(`t${now.n}`);
  if (here && grab) here.focus({preventScroll: true});
  if (here && scroll) here.scrollIntoView({block: "nearest"});
  listeners.focus(now);
}

export function refresh(changed) {
  for (const row of state.rows) {
    if (!Object.hasOwn(changed, row.uid)) continue;  // a uid may be called as anything
    row.decided = changed[row.uid];
    const made = document.getElementById(`t${row.n}`);
    if (made) refreshTile(made, row);
  }
  listeners.focus(focused());
}

export function moveTo(place, {extend = false, grab = true} = {}) {
  if (!state.rows.length) return;
  const to = Math.max(0, Math.min(state.rows.length - 1, place));
  if (extend) {
    const [low, high] = [Math.min(state.anchor, to), Math.max(state.anchor, to)];
    state.selected = new Set(state.rows.slice(low, high + 1).map((row) => row.n));
  } else state.anchor = to;
  state.focus = to;
  settle({grab, scroll: true});
}

// The place in the row of tiles above or below.
function vertical(step) {
  const tiles = [...list.querySelectorAll(".tile")], from = tiles[state.focus]?.getBoundingClientRect();
  if (!from) return state.focus;
  let best = state.focus, least = Infinity;
  tiles.forEach((one, place) => {
    const box = one.getBoundingClientRect(), down = (box.top - from.top) * step;
    if (down < from.height * .5) return;
    const far = down * 1000 + Math.abs(box.left - from.left);
    if (far < least) [least, best] = [far, place];
  });
  return best;
}

export function toggle(place = state.focus) {
  const row = state.rows[place];
  if (!row) return;
  if (!state.selected.delete(row.n)) state.selected.add(row.n);
  state.focus = state.anchor = place;
  settle({grab: true});
}

export function gridKey(event) {
  const steps = {ArrowRight: 1, ArrowLeft: -1};
  const extend = event.shiftKey;
  if (event.key in steps) moveTo(state.focus + steps[event.key], {extend});
  else if (event.key === "ArrowDown") moveTo(vertical(1), {extend});
  else if (event.key === "ArrowUp") moveTo(vertical(-1), {extend});
  else if (event.key === "Home") moveTo(0, {extend});
  else if (event.key === "End") moveTo(state.rows.length - 1, {extend});
  else if (event.key === " ") toggle();
  else if (event.key === "a" && (event.ctrlKey || event.metaKey)) { state.selected = new Set(state.rows.map((row) => row.n)); settle(); }
  else return false;
  event.preventDefault();
  return true;
}

const placeOf = (target) => {
  const made = target.closest?.(".tile");
  return made ? state.rows.findIndex((row) => row.n === Number(made.dataset.n)) : -1;
};

find("#content").addEventListener("click", (event) => {
  const place = placeOf(event.target);
  if (place < 0) return;
  if (event.target.closest(".tick") || event.ctrlKey || event.metaKey) return toggle(place);
  if (event.shiftKey) return moveTo(place, {extend: true});
  state.selected.clear();
  moveTo(place);
  if (matchMedia("(max-width: 1099px)").matches) listeners.open();
});
find("#content").addEventListener("dblclick", (event) => placeOf(event.target) >= 0 && listeners.open());
find("#content").addEventListener("focusin", (event) => {
  const place = placeOf(event.target);
  if (place >= 0 && place !== state.focus) { state.focus = state.anchor = place; settle(); }
});
