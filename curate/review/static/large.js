// One sample large: zoom, drag, the next and the one before, and all that is known of it.
import {count, find, make, said} from "./dom.js";
import {inWords, moveTo, picture} from "./grid.js";
import {showInfo} from "./info.js";
import {focused, state} from "./state.js";

const dialog = find("#large");
const view = {scale: 1, x: 0, y: 0};
let last = 0, stage = null, info = null, bar = null, title = null;

function build() {
  title = make("h2", {id: "large-title"});
  stage = make("div", {class: "stage", tabindex: "0", role: "img", "aria-label": "Picture"});
  info = make("div", {class: "info"});
  bar = make("div", {class: "large-actions", role: "toolbar", "aria-label": "Decide"});
  const button = (name, label, act) => make("button", {type: "button", "aria-label": label, title: label, onclick: act}, name);
  dialog.replaceChildren(
    make("div", {class: "large-head"}, title,
      make("span", {class: "buttons"}, button("−", "Smaller", () => zoom(1 / 1.5)), button("1:1", "Fit or zoom (Z)", toggleZoom), button("+", "Larger", () => zoom(1.5)),
        button("←", "The one before", () => step(-1)), button("→", "The next", () => step(1)), button("×", "Close (Escape)", () => dialog.close()))),
    stage, info, bar);
  stage.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2); }, {passive: false});
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("dblclick", toggleZoom);
}

function apply() {
  const shown = find("img", stage);
  if (shown) shown.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  stage.classList.toggle("zoomed", view.scale > 1);
}

export function zoom(factor) {
  view.scale = Math.max(1, Math.min(16, view.scale * factor));
  if (view.scale === 1) view.x = view.y = 0;
  apply();
}

export const toggleZoom = () => zoom(view.scale > 1 ? 1 / view.scale : 3);

function drag(event) {
  if (view.scale === 1) return;
  event.preventDefault();
  stage.setPointerCapture(event.pointerId);
  const [left, top] = [event.clientX - view.x, event.clientY - view.y];
  const move = (moved) => { view.x = moved.clientX - left; view.y = moved.clientY - top; apply(); };
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", move), {once: true});
}

function show(row) {
  last = state.focus;
  Object.assign(view, {scale: 1, x: 0, y: 0});
  title.replaceChildren(said(inWords(row)), make("span", {class: "kind"}, ` ${count.format(state.focus + 1)} of ${count.format(state.rows.length)} shown`));
  stage.replaceChildren(picture(row, "large"));
  stage.setAttribute("aria-label", `Picture: ${inWords(row)}`);
  apply();
  showInfo(info, row);
}

export const isLarge = () => dialog.open;

export function openLarge(actions) {
  const row = focused();
  if (!row) return;
  if (!stage) build();
  bar.replaceChildren(...actions());
  show(row);
  if (!dialog.open) dialog.showModal();
  stage.focus();
}

export function refreshLarge() {
  if (dialog.open && focused()) showInfo(info, focused());
}

export function step(by) {
  moveTo(state.focus + by, {grab: false});
  if (dialog.open && focused() && Number(info.dataset.n) !== focused().n) show(focused());
}

// The browser gives focus back to the tile that opened it; it belongs to the one that is shown last.
dialog.addEventListener("close", () => moveTo(last));
