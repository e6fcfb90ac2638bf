"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const count = new Intl.NumberFormat("en-US");
const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";

// Captions and names are untrusted: they go onto the page through textContent and attributes, never as HTML.
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// What stands for a sample in words: its caption, else its label, else its uid.
function inWords(place) {
  const {caption, label, uid} = data.samples;
  return caption[place] || (label[place] ? `label ${label[place]}` : uid[place]);
}

// A thumbnail; in its place words, where there is none.
function picture(place, small = false) {
  const uri = data.samples.image[place], words = inWords(place);
  if (uri) return make("img", {src: uri, alt: words, loading: "lazy", decoding: "async", class: small ? "small" : null});
  const said = (data.samples.caption[place] || data.samples.uid[place]).slice(0, 120);  // the label stands below
  return make("span", {class: small ? "blank small" : "blank"}, small ? "" : said);
}

// A picture that opens large (dialog.js).
function opener(place, small = false) {
  return make("button", {type: "button", class: "open", "data-place": place, "aria-label": `Open ${inWords(place).slice(0, 120)}`}, picture(place, small));
}

const outcome = (place) => finals[data.samples.reason[place]] ?? data.samples.reason[place] ?? "";

const nameOf = (concept) => data.names?.[concept] ? `${concept}: ${data.names[concept].slice(0, 60)}` : String(concept);

function where(place) {
  const {shard, row, uid} = data.samples;
  return `${shard[place]}, row ${count.format(row[place])}, uid ${uid[place]}`;
}

function shot(place, note, tag = null) {
  const {caption, label, image} = data.samples;
  const lines = [tag && make("span", {class: "tag"}, tag), image[place] && caption[place] ? make("bdi", {class: "said"}, caption[place]) : null,
    label[place] ? make("span", {class: "label"}, make("span", {class: "kind"}, "label "), make("bdi", {}, label[place])) : null,
    note ? make("span", {class: "kind"}, note) : null];
  return make("figure", {class: "shot", title: where(place)}, opener(place), make("figcaption", {}, ...lines));
}

const finals = {kept: "kept", pinned: "kept (pinned)", spared: "kept (spared)", "kept:override": "kept (by people)", "dropped:override": "dropped (by people)", over_budget: "over budget",
  near_duplicate: "near-duplicate", exact_duplicate: "a copy"};

// The one that stays beside the one that goes, each with what became of it in the end.
function pairShot([kept, dropped, note]) {
  if (kept === dropped) return make("div", {class: "twins"}, shot(kept, null, `stays · ${outcome(kept)}`), make("p", {class: "kind"}, note));
  const first = kept === null ? make("span", {class: "blank"}, "not found") : shot(kept, null, `stays · ${outcome(kept)}`);
  return make("div", {class: "twins"}, make("div", {class: "two"}, first, shot(dropped, null, `goes · ${outcome(dropped)}`)), make("p", {class: "kind"}, note));
}
