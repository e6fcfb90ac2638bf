// Starts the page: reads what the run has, follows the address, and hands keys to what is open.
import {ask} from "./api.js";
import {actionButtons, counted, decideKey, follow, keysOfRun, onDecided, open, showHistory, showSelection, turn} from "./decide.js";
import {count, find, make, openDialog, tell} from "./dom.js";
import {gridKey, onFocus, onOpen} from "./grid.js";
import {showInfo} from "./info.js";
import {isLarge, step, toggleZoom, zoom} from "./large.js";
import {address, onRows, readRoute, state} from "./state.js";
import {refreshUseful} from "./useful.js";
import {queueOf, searchPicture, show, viewList} from "./views.js";

const HELP = [["← ↑ → ↓", "move; with Shift select"], ["Space", "select or not"], ["Ctrl A", "select all that is shown"], ["Enter", "large view"], ["Z, + −", "zoom in the large view"], ["U, Ctrl Z", "undo; with Shift redo"], ["M", "the next most useful ones"], ["H", "history"], ["/", "search"], ["Escape", "close, or select nothing"]];
const MEANS = {wrong_label: "wrong label, and which is right", reset: "clear what was decided"};
const inspector = find("#inspector");

function showKeys() {
  const deciding = keysOfRun().map(([key, what, name]) => [key.toUpperCase(), MEANS[what] ?? name.toLowerCase()]);
  openDialog("Keys", make("dl", {class: "keys"}, [...HELP.slice(0, 5), ...deciding, ...HELP.slice(5)].map(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)])));
}

function drawViews() {
  find("#views").replaceChildren(make("ul", {}, viewList().map(([view, name, n]) => make("li", {}, make("a", {href: address(view), "data-view": view}, make("span", {}, name), n === null ? null : make("span", {class: "count"}, count.format(n)))))));
}

function keys(event) {
  const at = event.target;
  if (find("#dialog").open) return;
  if (at.matches("input, select, textarea") && !(at.type === "range" || at.type === "checkbox")) {
    if (event.key === "Escape") at.blur();
    return;
  }
  if (isLarge()) {
    if (event.key === "ArrowRight" || event.key === "ArrowDown") step(1);
    else if (event.key === "ArrowLeft" || event.key === "ArrowUp") step(-1);
    else if (event.key === "z" && !event.ctrlKey && !event.metaKey) toggleZoom();
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else { decideKey(event); return; }
    event.preventDefault();
    return;
  }
  const onTile = at.closest(".tiles") || at === document.body || at.closest("#title");
  if (onTile && gridKey(event)) return;
  if (event.key === "Enter" && at.closest(".tiles")) { open(); event.preventDefault(); }
  else if (event.key === "/") { find("#search").focus(); event.preventDefault(); }
  else if (event.key === "?") showKeys();
  else if (event.key === "m" && !event.ctrlKey && !event.metaKey) find("#next-useful")?.click();
  else if (event.key === "Escape") { state.selected.clear(); onFocusChanged(); document.querySelectorAll(".tile[aria-selected=true]").forEach((one) => one.setAttribute("aria-selected", "false")); }
  else decideKey(event);
}

let last = null;
function onFocusChanged(row = state.rows[state.focus] ?? null) {
  showSelection();
  const decided = JSON.stringify(row?.decided ?? null);
  if (last === `${row?.n} ${decided}`) return;
  last = `${row?.n} ${decided}`;
  if (matchMedia("(min-width: 1100px)").matches) showInfo(inspector, row);
}

// With nothing on the page there is nothing to decide about.
function onRowsChanged() {
  document.body.classList.toggle("empty", !state.rows.length);
  if (!state.rows.length) onFocusChanged();
}

function dropping() {
  const over = find("#drop");
  const has = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => { if (has(event)) { event.preventDefault(); over.classList.add("shown"); } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) over.classList.remove("shown"); });
  addEventListener("drop", (event) => {
    over.classList.remove("shown");
    const [file] = event.dataTransfer?.files ?? [];
    if (!file) return;
    event.preventDefault();
    searchPicture(file);
  });
  find("#search-file").addEventListener("change", (event) => event.target.files[0] && searchPicture(event.target.files[0]));
}

function remember(input, name, apply = () => {}) {
  try { input.value = localStorage.getItem(name) || input.value; } catch { /* nothing is remembered */ }
  apply();
  input.addEventListener("input", () => { apply(); try { localStorage.setItem(name, input.value); } catch { /* nothing is remembered */ } });
}

async function loading() {
  const content = find("#content"), timer = setInterval(async () => {
    const {loaded} = await ask("loading").catch(() => ({loaded: 0}));
    content.replaceChildren(make("p", {class: "empty"}, `Reading the tables of the run: ${Math.round(100 * loaded)} %`));
  }, 500);
  try { return await ask("about"); } finally { clearInterval(timer); }
}

async function start() {
  if (location.search) history.replaceState(null, "", `/${location.hash}`);
  try {
    state.about = await loading();
  } catch (error) {
    find("#content").replaceChildren(make("p", {class: "note warn", role: "alert"}, error.message));
    return;
  }
  const {about} = state;
  state.seen = about.seen;
  find("#run").textContent = about.run;
  find("#run").title = about.run;
  counted(about.decided);
  document.body.classList.toggle("read-only", about.read_only);
  find("#search-form").hidden = !about.searchable;
  find("#who").value = about.user;
  remember(find("#who"), "curate-review-name");
  const tile = find("#tile");
  tile.value = matchMedia("(max-width: 700px)").matches ? 104 : 152;
  remember(tile, matchMedia("(max-width: 700px)").matches ? "curate-review-tile-small" : "curate-review-tile", () => document.documentElement.style.setProperty("--tile", `${tile.value}px`));
  find("#actions").replaceChildren(make("span", {id: "selected", "aria-live": "polite"}), ...actionButtons());
  if (about.read_only) find("#actions").replaceChildren(make("span", {id: "selected"}, ""), make("span", {class: "kind"}, "Read-only: nothing can be decided."));
  drawViews();
  onFocus(onFocusChanged);
  onRows(onRowsChanged);
  onOpen(open);
  onDecided(() => { const queue = queueOf(); if (queue && !find("#useful").hidden) refreshUseful(queue, {...state.route.parameters, cut: state.route.parameters.cut}); });
  find("#undo").addEventListener("click", () => turn("undo"));
  find("#redo").addEventListener("click", () => turn("redo"));
  for (const id of ["#undo", "#redo"]) find(id).disabled = about.read_only;
  find("#open-history").addEventListener("click", () => showHistory());
  find("#open-keys").addEventListener("click", showKeys);
  find("#search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = find("#search").value.trim();
    if (text) location.hash = address("search", {text}); else tell("Say what to search for", true);
  });
  addEventListener("keydown", keys);
  addEventListener("hashchange", () => { state.route = readRoute(); last = null; show(); });
  dropping();
  setInterval(() => document.visibilityState === "visible" && follow(), 4000);
  state.route = readRoute();
  await show();
  document.body.dataset.ready = "1";
}

start();
