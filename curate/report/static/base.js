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
  const said = data.samples.caption[place] || data.samples.uid[place];  // the label stands below
  return make("span", {class: small ? "blank small" : "blank", "aria-hidden": small ? "true" : null}, small ? "" : said);
}

function where(place) {
  const {shard, row, uid} = data.samples;
  return `${shard[place]}, row ${count.format(row[place])}, uid ${uid[place]}`;
}

function shot(place, note, tag = null) {
  const {caption, label, image} = data.samples;
  const lines = [tag && make("span", {class: "tag"}, tag), image[place] && caption[place] ? make("bdi", {class: "said"}, caption[place]) : null,
    label[place] ? make("span", {class: "label"}, make("span", {class: "kind"}, "label "), make("bdi", {}, label[place])) : null,
    note ? make("span", {class: "kind"}, note) : null];
  return make("figure", {class: "shot", title: where(place)}, picture(place), make("figcaption", {}, ...lines));
}

const reasons = {kept: "kept", pinned: "kept (pinned)", "kept:override": "kept (by people)", "dropped:override": "dropped (by people)", over_budget: "over budget", near_duplicate: "dropped"};

function pairShot([kept, dropped, note]) {
  const reason = kept === null ? null : data.samples.reason[kept];
  const first = kept === null ? make("span", {class: "blank"}, "not found") : shot(kept, null, reasons[reason] ?? reason);
  return make("div", {class: "twins"}, make("div", {class: "two"}, first, shot(dropped, null, "dropped")), make("p", {class: "kind"}, note));
}

if (!data.pictures) document.body.classList.add("plain");
