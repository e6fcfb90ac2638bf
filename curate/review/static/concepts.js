// Concepts: a map to click, and a list that says the same in words.
import {count, drawn, find, make, percent, said} from "./dom.js";
import {address, state} from "./state.js";

const SIZE = 1000, EDGE = 60;

function colour(share) {
  return share === null ? "var(--unusable)" : `color-mix(in srgb, var(--kept) ${Math.round(100 * share)}%, var(--mild))`;
}

const named = (one) => one.name || `Concept ${one.concept}`;
const strip = (one, n = 4) => state.about.pictures ? make("span", {class: "strip", "aria-hidden": "true"}, one.rows.slice(0, n).map((row) => make("img", {src: `/picture/small/${row}`, alt: "", loading: "lazy", decoding: "async"}))) : null;
const sizes = (one) => `${count.format(one.n_assigned ?? one.n_eligible ?? 0)} samples, ${percent(one.share)} kept`;

function map(concepts) {
  const placed = concepts.filter((one) => one.x !== null && one.y !== null);
  if (placed.length < 2) return null;
  const span = (key) => { const all = placed.map((one) => one[key]); return [Math.min(...all), Math.max(...all)]; };
  const [[left, right], [low, high]] = [span("x"), span("y")];
  const largest = Math.max(...placed.map((one) => one.n_assigned ?? 1), 1);
  const height = 400;
  const at = (value, from, to, length) => EDGE + (length - 2 * EDGE) * (to > from ? (value - from) / (to - from) : .5);
  const card = make("div", {class: "card", hidden: true});
  const marks = [...placed].sort((a, b) => (b.n_assigned ?? 0) - (a.n_assigned ?? 0)).map((one) => {
    const mark = drawn("circle", {cx: at(one.x, left, right, SIZE), cy: height - at(one.y, low, high, height), r: 5 + 22 * Math.sqrt((one.n_assigned ?? 1) / largest), class: "concept-mark", "data-concept": one.concept});
    mark.style.fill = colour(one.share);
    mark.addEventListener("click", () => { location.hash = address("samples", {concept: one.concept}); });
    mark.addEventListener("pointerenter", () => {
      card.replaceChildren(make("strong", {}, said(named(one))), make("span", {class: "kind"}, sizes(one)), strip(one, 3) ?? "");
      const box = mark.getBoundingClientRect(), frame = figure.getBoundingClientRect();
      card.hidden = false;
      card.style.left = `${Math.max(0, Math.min(box.right - frame.left + 8, frame.width - 220))}px`;
      card.style.top = `${Math.max(0, box.top - frame.top - 20)}px`;
    });
    mark.addEventListener("pointerleave", () => { card.hidden = true; });
    return mark;
  });
  const legend = make("p", {class: "kind legend"}, "Size: samples. Colour: share kept, from ", make("span", {class: "none"}, "none"), " to ", make("span", {class: "all"}, "all"), ". Near concepts look alike. Click one to see its samples.");
  const figure = make("div", {class: "map"}, drawn("svg", {viewBox: `0 0 ${SIZE} ${height}`, "aria-hidden": "true"}, ...marks), card);
  return make("div", {}, figure, legend);
}

function card(one) {
  const bar = make("i"), trough = make("span", {class: "share", "aria-hidden": "true"}, bar);
  bar.style.width = `${100 * (one.share ?? 0)}%`;
  return make("li", {}, make("a", {href: address("samples", {concept: one.concept}), class: "concept"}, strip(one),
    make("span", {class: "name"}, said(named(one))), make("span", {class: "kind"}, sizes(one)), trough));
}

const ORDERS = {size: ["largest first", (one) => -(one.n_assigned ?? 0)], share: ["least kept first", (one) => one.share ?? 2], complexity: ["most complex first", (one) => -(one.complexity ?? -1)], unevenness: ["most uneven first", (one) => -(one.unevenness ?? -1)], name: ["by name", (one) => named(one).toLowerCase()]};
const SHOWN = 240;

export function showConcepts(concepts) {
  const list = make("ul", {class: "concepts"});
  const order = make("select", {id: "concept-order"}, Object.entries(ORDERS).map(([name, [text]]) => make("option", {value: name}, text)));
  const sought = make("input", {type: "search", id: "concept-name", placeholder: "any", autocomplete: "off"});
  const draw = () => {
    const words = sought.value.trim().toLowerCase(), key = ORDERS[order.value][1];
    const found = concepts.filter((one) => named(one).toLowerCase().includes(words) || String(one.concept) === words);
    found.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.concept - b.concept));
    list.replaceChildren(...found.slice(0, SHOWN).map(card));
    find("#summary").textContent = `${count.format(found.length)} of ${count.format(concepts.length)} concepts`;
  };
  order.addEventListener("change", draw);
  sought.addEventListener("input", draw);
  find("#controls").replaceChildren(make("div", {class: "filters"}, make("label", {}, "Order ", order), make("label", {}, "Name ", sought)));
  find("#content").replaceChildren(map(concepts) ?? "", list);
  draw();
}
