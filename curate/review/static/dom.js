// Making elements. Captions, labels and names are untrusted: they become text, never markup.
export const count = new Intl.NumberFormat("en-US");
export const find = (selector, within = document) => within.querySelector(selector);

export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const said = (text, tag = "bdi", attributes = {}) => make(tag, attributes, text === null || text === undefined ? "" : String(text));

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e12) return count.format(value);
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

// A share in percent; what is not quite none or all never looks so.
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const rounded = Math.round(100 * share);
  if (rounded === 0 && share > 0) return "<1 %";
  return rounded === 100 && share < 1 ? ">99 %" : `${rounded} %`;
}

// A similarity; what is not quite the same never looks so.
export const alike = (value) => value < 1 && value >= .99995 ? ">0.9999" : number(value);

export function option(value, text, chosen) {
  return make("option", {value, selected: String(value) === String(chosen ?? "")}, text);
}

let gone;
export function tell(text, wrong = false) {
  const status = find("#status");
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
  status.classList.add("shown");
  clearTimeout(gone);
  gone = setTimeout(() => status.classList.remove("shown"), wrong ? 9000 : 3500);
}

export function copyButton(text, name) {
  return make("button", {type: "button", class: "quiet", onclick: async () => {
    try { await navigator.clipboard.writeText(text); tell(`Copied: ${text}`); } catch { tell(`To copy: ${text}`); }  // there is none without https
  }}, name);
}

// Opens a dialog for a question or a list; what closes it gives focus back to where it was.
export function openDialog(title, ...children) {
  const dialog = find("#dialog"), before = document.activeElement;
  dialog.replaceChildren(
    make("div", {class: "dialog-head"}, make("h2", {id: "dialog-title"}, title), make("button", {type: "button", onclick: () => dialog.close(), "aria-label": "Close"}, "×")),
    ...children);
  dialog.addEventListener("close", () => before?.isConnected && before.focus(), {once: true});
  if (!dialog.open) dialog.showModal();
  return dialog;
}
