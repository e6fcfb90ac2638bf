// All that is known of one sample: in the column beside the grid, and beside the large view.
import {ask} from "./api.js";
import {copyButton, make, number, percent, said} from "./dom.js";
import {NAMES, decisionsOf, inWords, reasonInWords} from "./grid.js";
import {address} from "./state.js";

const known = new Map();
const MOST_KNOWN = 200;

function remembered(key, get) {
  if (!known.has(key)) {
    if (known.size > MOST_KNOWN) known.delete(known.keys().next().value);
    known.set(key, get().catch((error) => { known.delete(key); throw error; }));
  }
  return known.get(key);
}

const fact = (name, ...value) => [make("dt", {}, name), make("dd", {}, ...value)];

function decided(row) {
  const all = decisionsOf(row);
  if (!all.length) return null;
  return make("p", {class: "decided-by"}, all.map((one) => [make("strong", {}, NAMES[one.what], one.to ? ": " : ""), one.to ? said(one.to) : "", ` by `, said(one.by), make("br")]));
}

function head(row) {
  const state = row.outcome !== "ok" ? "unusable" : row.keep ? "kept" : "dropped";
  return [
    make("p", {class: `verdict ${state}`}, reasonInWords(row.reason)),
    decided(row),
    row.caption ? make("p", {class: "full"}, said(row.caption)) : null,
    make("dl", {class: "facts"},
      row.label ? fact("label", said(row.label), row.pred_label && row.pred_label !== row.label ? [" → ", said(row.pred_label)] : "") : null,
      row.chance != null ? fact("wrong label", `${percent(row.chance)} likely`) : null,
      row.fault ? fact("fault", said(row.fault)) : null,
      row.concept !== null ? fact("concept", make("a", {href: address("samples", {concept: row.concept})}, row.concept_name ? [`${row.concept}: `, said(row.concept_name)] : String(row.concept))) : null,
      row.width ? fact("size", `${row.width} × ${row.height}`) : null,
      fact("file", said(row.shard), `, row ${number(row.row)}`),
      row.key ? fact("name", said(row.key)) : null,
      fact("uid", said(row.uid, "code"))),
    make("p", {class: "buttons"}, copyButton(row.uid, "Copy uid"), copyButton(row.key || `${row.shard}:${row.row}`, "Copy file"),
      make("a", {class: "button quiet", href: address("search", {like: row.uid})}, "More like it")),
  ];
}

function scoreTable(scores) {
  if (!scores.length) return make("p", {class: "kind"}, "It has no scores.");
  return make("table", {class: "scores"}, make("caption", {class: "hidden"}, "Scores with percentiles"),
    make("thead", {}, make("tr", {}, ["score", "value", "percentile", "higher is"].map((name) => make("th", {scope: "col"}, name)))),
    make("tbody", {}, scores.map((one) => {
      const bar = make("i"), trough = make("span", {class: "trough", "aria-hidden": "true"}, bar);
      bar.style.width = `${one.percentile}%`;
      return make("tr", {}, make("th", {scope: "row", title: one.name}, one.name), make("td", {class: "n"}, number(one.value)),
        make("td", {class: "n"}, trough, make("span", {class: "rank"}, `${Math.round(one.percentile)}`)), make("td", {class: "kind"}, one.higher_is ?? ""));
    })));
}

// Fills a box with what is known of a row; what takes longer comes in when it is there, if the box is still about it.
export async function showInfo(box, row) {
  if (!row) { box.replaceChildren(make("p", {class: "kind"}, "Nothing is in focus.")); box.dataset.n = ""; return; }
  const same = box.dataset.n === String(row.n);
  const why = same ? box.querySelector(".why") : make("ul", {class: "why", "aria-label": "Why it was kept or dropped"}, make("li", {class: "kind"}, "…"));
  const scores = same ? box.querySelector(".scored") : make("div", {class: "scored"});
  box.dataset.n = row.n;
  box.replaceChildren(...head(row).flat().filter(Boolean), make("h3", {}, "Why, and what would change it"), why, make("h3", {}, "Scores"), scores);
  if (same) return;
  await new Promise((done) => setTimeout(done, 120));  // who runs through the grid asks for nothing
  if (box.dataset.n !== String(row.n)) return;
  remembered(`row ${row.n}`, () => ask(`row/${row.n}`)).then((found) => scores.replaceChildren(scoreTable(found.scores)), (error) => scores.replaceChildren(make("p", {class: "kind"}, error.message)));
  remembered(`why ${row.n}`, () => ask(`why/${row.n}`)).then(
    (lines) => why.replaceChildren(...(lines.length ? lines : [inWords(row)]).map((line) => make("li", {}, said(line)))),
    (error) => why.replaceChildren(make("li", {class: "kind"}, error.message)));
}
