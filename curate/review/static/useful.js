// What was looked at of what a score flags, how right it is, and the cut that follows.
import {ask} from "./api.js";
import {copyButton, count, find, make, number, percent, tell} from "./dom.js";
import {address, state} from "./state.js";

const box = find("#useful");

// A share with its interval, drawn: a line from low to high and a dot.
function interval(sample) {
  const band = make("i"), dot = make("b"), drawn = make("span", {class: "interval", "aria-hidden": "true"}, band, dot);
  band.style.left = `${100 * sample.low}%`;
  band.style.width = `${100 * (sample.high - sample.low)}%`;
  dot.style.left = `${100 * sample.precision}%`;
  return drawn;
}

function measured(found) {
  const {sample} = found;
  if (!sample.n) return ["None of the random sample is decided yet, so how often the flag is right is not known."];
  return [`Of ${count.format(sample.n)} drawn at random ${count.format(sample.wrong)} ${sample.wrong === 1 ? "is" : "are"} right to be flagged: precision `, make("strong", {}, percent(sample.precision)), ` (95 %: ${percent(sample.low)} to ${percent(sample.high)}) `, interval(sample)];
}

const inSigns = (found, cut) => found.queue === "near" ? `epsilon ${number(1 - cut)}` : `${found.column} ${found.high_is_bad ? "≥" : "≤"} ${number(cut)}`;

function proposed(found) {
  const cut = found.proposal;
  if (!cut) return make("p", {class: "kind"}, `A cut is proposed once ten or more samples were decided and some of them are wrong.`);
  const shown = found.queue === "near" ? {view: "near", parameters: {epsilon: (1 - cut.cut).toFixed(6)}} : {view: state.route.view, parameters: {...state.route.parameters, cut: cut.cut, list: "flagged"}};
  return make("p", {id: "proposal"}, "Proposed cut: ", make("strong", {}, inSigns(found, cut.cut)), `, ${count.format(cut.beyond)} samples beyond it; of ${count.format(cut.looked)} looked at there ${count.format(cut.wrong)} were wrong (${percent(cut.low)} to ${percent(cut.high)})`,
    cut.open ? ". All the way to the last one looked at it was worth it: look further." : ". ", " ",
    make("a", {href: address(shown.view, shown.parameters)}, "Show them"), " ", copyButton(cut.command, "Copy command"), " ", make("code", {}, cut.command));
}

export function hideUseful() {
  box.hidden = true;
  box.replaceChildren();
}

export async function loadUseful(queue, parameters) {
  const asked = location.hash;
  const found = await ask("useful", {queue, cut: parameters.cut, target: parameters.target});
  if (location.hash === asked) draw(found);  // whoever has gone on to another view is told nothing about this one
  return found;
}

function draw(found) {
  box.hidden = false;
  const {parameters, view} = state.route;
  const choose = make("select", {id: "target", onchange: (event) => { location.hash = address(view, {...parameters, target: event.target.value}); }},
    [["0.2", "1 of 5"], ["0.5", "half"], ["0.8", "4 of 5"]].map(([value, name]) => make("option", {value, selected: Number(value) === found.target}, name)));
  const cut = make("input", {type: "number", step: "any", id: "cut", value: found.cut === null ? "" : Number((found.queue === "near" ? 1 - found.cut : found.cut).toPrecision(5)), onchange: (event) => {
    if (event.target.value === "") return;
    const value = Number(event.target.value);
    location.hash = found.queue === "near" ? address(view, {...parameters, epsilon: value, cut: 1 - value}) : address(view, {...parameters, cut: value});
  }});
  box.replaceChildren(
    make("p", {}, make("strong", {id: "looked"}, `${count.format(found.looked)} of ${count.format(found.flagged)}`), " flagged samples looked at. ", ...measured(found)),
    proposed(found),
    make("p", {class: "controls"}, make("label", {for: "cut"}, found.queue === "near" ? "Flagged within epsilon " : `Flagged at ${found.column} ${found.high_is_bad ? "≥" : "≤"} `), cut, " ",
      make("label", {for: "target"}, "A cut is worth it where at least this many are wrong: "), choose));
}

export async function refreshUseful(queue, parameters) {
  await loadUseful(queue, parameters).catch((error) => tell(error.message, true));
}
