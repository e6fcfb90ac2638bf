// Deciding about the selected samples, or the one in focus; taken back and done again; the history.
import {ask, send} from "./api.js";
import {copyButton, count, find, make, openDialog, said, tell} from "./dom.js";
import {NAMES, moveTo, refresh, settle} from "./grid.js";
import {isLarge, openLarge, refreshLarge, step} from "./large.js";
import {state, targets} from "./state.js";

export const KEYS = [["k", "keep", "Keep"], ["x", "drop", "Drop"], ["n", "not_duplicate", "Not a duplicate"], ["r", "right_label", "Right label"], ["w", "wrong_label", "Wrong label…"], ["c", "reset", "Clear"]];
// Without labels there is nothing to say about them.
export const keysOfRun = () => KEYS.filter(([, what]) => !what.endsWith("_label") || state.about.labels.length);
const who = find("#who");
let afterwards = () => {};

export const onDecided = (listener) => { afterwards = listener; };

function took(found) {
  state.seen = found.seen;
  refresh(found.changed);
  refreshLarge();
  counted(found.counts);
}

export function counted(counts) {
  find("#decided").textContent = count.format(counts.rows);
}

async function sent(value) {
  try {
    const found = await send("decide", {...value, by: who.value});
    took(found);
    afterwards();
    return found;
  } catch (error) {
    tell(error.message, true);
    return null;
  }
}

export async function decide(what, to = null) {
  if (state.about.read_only) return tell("This page is read-only: nothing can be decided", true);
  const rows = targets();
  if (!rows.length) return tell("No sample is selected or in focus", true);
  if (what === "wrong_label" && to === null) return askLabel(rows);
  const uids = [...new Set(rows.map((row) => row.uid))];
  const found = await sent({uids, what, to: to || null});
  if (!found) return;
  const many = uids.length > 1 ? `${count.format(uids.length)} samples: ` : "";
  tell(`${many}${NAMES[what]}${to ? `, ${to}` : ""} (U takes it back)`);
  if (state.selected.size) { state.selected.clear(); settle({grab: !isLarge()}); }
  else if (isLarge()) step(1);
  else moveTo(state.focus + 1);
}

function askLabel(rows) {
  const suggested = rows.length === 1 && rows[0].pred_label && rows[0].pred_label !== rows[0].label ? rows[0].pred_label : "";
  const input = make("input", {id: "new-label", list: "labels", value: suggested, maxlength: 300, autocomplete: "off"});
  const known = rows.every((row) => row.label === rows[0].label) && rows[0].label ? [" It is labelled ", said(rows[0].label), "."] : "";
  const form = make("form", {method: "dialog"}, make("p", {}, `Which label is right${rows.length > 1 ? ` for ${rows.length} samples` : ""}?`, known),
    make("label", {for: "new-label"}, "Right label"), input,
    make("datalist", {id: "labels"}, state.about.labels.map((label) => make("option", {value: label}))),
    make("p", {class: "kind"}, "Leave it empty if you know only that the label is wrong."),
    make("p", {class: "buttons"}, make("button", {type: "submit", class: "main"}, "Wrong label")));
  const dialog = openDialog("Wrong label", form);
  form.addEventListener("submit", (event) => { event.preventDefault(); dialog.close(); decide("wrong_label", input.value.trim()); });
  input.focus();
  input.select();
}

export async function turn(which, action = null) {
  if (state.about.read_only) return tell("This page is read-only", true);
  const found = await sent({turn: which, action});
  if (found) tell(found.action ? `${which === "undo" ? "Taken back" : "Done again"}: ${count.format(Object.keys(found.changed).length)} samples` : `There is nothing to ${which}`);
}

export function actionButtons() {
  return keysOfRun().map(([key, what, name]) => make("button", {type: "button", class: `do ${what}`, onclick: () => decide(what), disabled: state.about.read_only, "aria-keyshortcuts": key.toUpperCase()}, name, make("kbd", {"aria-hidden": "true"}, key.toUpperCase())));
}

export function showSelection() {
  const n = state.selected.size;
  find("#selected").textContent = n ? `${count.format(n)} selected` : "";
}

export function decideKey(event) {
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") turn(event.shiftKey ? "redo" : "undo");
  else if (event.ctrlKey || event.metaKey || event.altKey) return false;
  else if (key === "u") turn(event.shiftKey ? "redo" : "undo");
  else if (key === "h") showHistory();
  else {
    const known = keysOfRun().find(([one]) => one === key);
    if (!known) return false;
    decide(known[1]);
  }
  event.preventDefault();
  return true;
}

export const open = () => openLarge(actionButtons);

// Others decide too: what they did comes in every few seconds.
export async function follow() {
  try {
    const found = await ask("changes", {since: state.seen});
    if (found.seen !== state.seen) took(found);
    const stale = find("#stale");
    stale.hidden = !found.stale;
    if (found.stale && !stale.textContent) stale.textContent = "The run has other decisions by now. What you decide stays; start curate review again to see the new run.";
  } catch {
    find("#stale").hidden = false;
    find("#stale").textContent = "curate review does not answer: it was ended, or the connection is gone.";
  }
}

export async function showHistory({again = false} = {}) {
  const actions = await ask("history");
  if (again && !find("#dialog").open) return;  // closed meanwhile
  const line = (one) => make("li", {class: one.stands ? "" : "undone"},
    make("p", {}, make("strong", {}, one.what.map((what) => NAMES[what]).join(", ")), one.to ? [": ", said(one.to)] : "", ` · ${count.format(one.rows)} ${one.rows === 1 ? "sample" : "samples"} · `, said(one.by), ` · ${new Date(one.when).toLocaleString()} `,
      make("span", {class: "kind"}, said(one.uids[0]), one.rows > 1 ? ", …" : "")),
    make("button", {type: "button", class: "quiet", disabled: state.about.read_only, onclick: async () => { await turn(one.stands ? "undo" : "redo", one.id); showHistory({again: true}); }}, one.stands ? "Take back" : "Do again"));
  const command = state.about.apply;
  const apply = actions.length ? make("p", {class: "note"}, "The run respects these decisions once it selects anew: ", make("code", {}, command), " ", copyButton(command, "Copy")) : "";
  openDialog("History", apply, actions.length ? make("ol", {class: "history"}, actions.map(line)) : make("p", {}, "Nothing was decided yet."));
}
