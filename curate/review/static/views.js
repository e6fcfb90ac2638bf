// The views: what each asks for, its controls, and how its samples are laid out.
import {ask, send} from "./api.js";
import {alike, count, find, make, number, option, said, tell} from "./dom.js";
import {showConcepts} from "./concepts.js";
import {addSections, addTiles, drawSections, reasonInWords} from "./grid.js";
import {address, setRows, state} from "./state.js";
import {hideUseful, loadUseful} from "./useful.js";

const PAGE = 60;
let turn = 0;  // what comes for an earlier view is dropped
let watcher = null;
let shown = null;  // the view that is on the page
export let droppedPicture = null;

const view = () => Object.hasOwn(VIEWS, state.route.view) ? state.route.view : "samples";
const summary = (text) => { find("#summary").textContent = text; };

// Which views this run has, with how many samples each is about.
export function viewList() {
  const {about} = state;
  const near = about.reasons.find((one) => one.reason === "near_duplicate")?.n;
  return [
    ["concepts", "Concepts", null], ["samples", "All samples", about.rows], ["near", "Near-duplicates", near ?? null], ["copies", "Exact copies", about.copies],
    about.queues.labels ? ["labels", "Doubtful labels", about.doubtful] : null, about.queues.pairs ? ["pairs", "Worst pairs", null] : null,
    ["unusable", "Unusable", about.unusable], ["cut", "At the cut", null],
  ].filter(Boolean);
}

export const queueOf = () => ({labels: "labels", near: "near", pairs: state.route.parameters.score ? (state.route.parameters.score === state.about.queues.pairs?.column ? "pairs" : `pairs:${state.route.parameters.score}`) : "pairs"})[view()] ?? null;

// More samples when the end of the page comes near; the button is for whoever does not scroll.
function pages(load, {more, name = "More"}) {
  watcher?.disconnect();
  const box = find("#more");
  box.replaceChildren();
  if (!more) return;
  const now = turn;
  let busy = false;
  const next = async () => {
    if (busy || now !== turn) return;
    busy = true;
    try { pages(load, {more: await load(), name}); } catch (error) { tell(error.message, true); busy = false; }
  };
  const button = make("button", {type: "button", class: "quiet", onclick: next}, name);
  box.replaceChildren(button);
  watcher = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && next(), {rootMargin: "600px"});
  watcher.observe(button);
}

async function list(parameters, {says, nothing = "No sample is like that."} = {}) {
  const now = ++turn;
  const found = await ask("rows", {...parameters, limit: PAGE});
  if (now !== turn) return;
  summary(says ? says(found.total) : `${count.format(found.total)} ${found.total === 1 ? "sample" : "samples"}`);
  drawSections([{rows: found.rows}]);
  if (!found.rows.length) empty(nothing);
  let offset = found.rows.length;
  pages(async () => {
    const next = await ask("rows", {...parameters, limit: PAGE, offset});
    if (now !== turn) return false;
    offset += next.rows.length;
    addTiles(next.rows);
    return next.rows.length > 0 && offset < next.total;
  }, {more: offset < found.total});
}

function empty(text) {
  setRows([]);
  find("#content").replaceChildren(make("p", {class: "empty"}, text));
  find("#more").replaceChildren();
}

// A view that this run has nothing for: an address that was kept, or came from another run, may name it.
function none(text) {
  turn++;
  find("#controls").replaceChildren();
  empty(text);
}

// --- filters -------------------------------------------------------------------------------------------------------

function go(more) {
  const parameters = {...state.route.parameters, ...more};
  location.hash = address(state.route.view, parameters);
}

function filterForm() {
  const {about, route: {parameters}} = state;
  const choice = (name, text, options, none = "any") => make("label", {}, text, " ", make("select", {name}, option("", none, parameters[name] ?? ""), options));
  const field = (name, text, more = {}) => make("label", {}, text, " ", make("input", {name, value: parameters[name] ?? "", autocomplete: "off", ...more}));
  const reasons = [["kept", "all kept"], ["dropped", "all dropped"], ["unusable", "all unusable"]].map(([value, text]) => option(value, text, parameters.reason));
  const scores = about.scores.map((one) => option(one.name, one.name, parameters.score));
  const labels = about.labels.length ? make("label", {}, "Class ", make("input", {name: "label", list: "all-labels", value: parameters.label ?? "", size: 12, autocomplete: "off"}), make("datalist", {id: "all-labels"}, about.labels.map((label) => make("option", {value: label})))) : null;
  const form = make("form", {class: "filters", "aria-label": "Filter"},
    choice("reason", "Reason", [...reasons, ...about.reasons.filter((one) => one.reason !== "kept").map((one) => option(one.reason, `${reasonInWords(one.reason)} (${count.format(one.n)})`, parameters.reason))]),
    labels, field("concept", "Concept", {size: 5, inputmode: "numeric"}),
    about.sources.length > 1 ? choice("source", "Source", about.sources.map((one) => option(one, one, parameters.source))) : null,
    about.splits.length > 1 ? choice("split", "Split", about.splits.map((one) => option(one, one, parameters.split))) : null,
    choice("decided", "Decided", [["any", "yes"], ["none", "not yet"], ["keep", "keep"], ["drop", "drop"], ["not_duplicate", "not a duplicate"], ["right_label", "right label"], ["wrong_label", "wrong label"]].map(([value, text]) => option(value, text, parameters.decided))),
    field("text", "Caption or name has", {size: 14, type: "search"}),
    about.scores.length ? [make("span", {class: "together"}, choice("score", "Score", scores, "none"), field("min", "from", {size: 6, inputmode: "decimal"}), field("max", "to", {size: 6, inputmode: "decimal"})),
      make("span", {class: "together"}, choice("order", "Order by", about.scores.map((one) => option(one.name, one.name, parameters.order)), "file and row"),
        make("label", {class: "check"}, make("input", {type: "checkbox", name: "down", value: "1", checked: Boolean(parameters.down)}), " high first"))] : null,
    field("where", "SQL", {size: 30, class: "sql", placeholder: "clip_score < 0.2 and width > 200", spellcheck: "false"}),
    make("span", {class: "buttons"}, make("button", {type: "submit", class: "quiet"}, "Apply"), make("button", {type: "button", class: "quiet", onclick: () => { location.hash = address(state.route.view, {}); }}, "Clear")));
  const apply = () => { location.hash = address(state.route.view, Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value).trim()]))); };
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  form.addEventListener("change", (event) => event.target.name !== "where" && apply());
  const used = Object.keys(parameters).length;
  return make("details", {class: "filter-box", open: used > 0 || matchMedia("(min-width: 700px)").matches}, make("summary", {}, used ? `Filter (${used})` : "Filter"), form);
}

function listChoice(parameters, also = []) {
  const which = parameters.list ?? "useful";
  const one = (value, text) => make("button", {type: "button", "aria-pressed": String(which === value), onclick: () => go({list: value})}, text);
  return make("div", {class: "filters"}, make("span", {class: "segments", role: "group", "aria-label": "Order"}, one("useful", "Most useful next"), one("flagged", "Worst first")), ...also);
}

// --- views -----------------------------------------------------------------------------------------------------------

async function queue(parameters, column, high, controls) {
  find("#controls").replaceChildren(listChoice(parameters, controls));
  const now = ++turn;
  const found = await loadUseful(queueOf(), parameters);
  if (now !== turn) return;
  const told = view() === "labels" && state.about.doubtful_says ? `${state.about.doubtful_says}; ` : "";
  if ((parameters.list ?? "useful") === "useful") {
    summary(told + (found.next.length ? `the next ${found.next.length}: half at random, half nearest the cut` : "all is looked at"));
    drawSections([{rows: found.next}]);
    if (!found.next.length) return empty("Nothing is left to look at here.");
    find("#more").replaceChildren(make("button", {type: "button", class: "main", id: "next-useful", onclick: () => show()}, "Next ", make("kbd", {"aria-hidden": "true"}, "M")));
    return;
  }
  const bound = found.cut === null ? {} : {score: column, [high ? "min" : "max"]: found.cut};
  const only = view() === "labels" ? {where: "label is not null and pred_label <> label"} : {};
  await list({order: column, down: high ? 1 : "", ...bound, ...only}, {says: (total) => `${told}${count.format(total)} flagged at this cut`, nothing: "No sample is flagged at this cut."});
}

const VIEWS = {
  async concepts() {
    const now = ++turn;
    summary("laying out the map…");
    const found = await ask("concepts");
    if (now !== turn) return;
    setRows([]);
    find("#more").replaceChildren();
    showConcepts(found);
  },
  async samples(parameters) {
    find("#controls").replaceChildren(filterForm());
    await list(parameters);
    const called = parameters.concept && state.route.parameters === parameters && state.rows[0]?.concept_name;
    if (called) find("#title").append(": ", said(called));
  },
  async unusable(parameters) {
    const reasons = state.about.reasons.filter((one) => one.reason.startsWith("unusable"));
    find("#controls").replaceChildren(make("div", {class: "filters"}, make("span", {class: "segments", role: "group", "aria-label": "Reason"},
      [{reason: "", n: state.about.unusable}, ...reasons].map((one) => make("button", {type: "button", "aria-pressed": String((parameters.reason ?? "") === one.reason), onclick: () => go({reason: one.reason})}, `${one.reason ? reasonInWords(one.reason).replace("unusable: ", "") : "all"} ${count.format(one.n)}`)))));
    await list({...parameters, reason: parameters.reason || "unusable"}, {nothing: "Every sample can be used."});
  },
  async labels(parameters) {
    if (!state.about.queues.labels) return none("No score of this run doubts labels (add heads, and noise, to its recipe), so there is nothing to look at.");
    const {column, high_is_bad: high} = state.about.queues.labels;
    await queue(parameters, column, high, []);
  },
  async pairs(parameters) {
    if (!state.about.queues.pairs) return none("No score of this run compares images with captions (such as clip_score), so there is nothing to look at.");
    const there = Object.entries(state.about.queues).filter(([name]) => name.startsWith("pairs"));
    const {column, high_is_bad: high} = state.about.queues[queueOf()] ?? there[0][1];
    const choice = there.length < 2 ? null : make("span", {class: "segments", role: "group", "aria-label": "Score"}, there.map(([, one]) => make("button", {type: "button", "aria-pressed": String(one.column === column), onclick: () => go({score: one.column, cut: ""})}, one.column)));
    await queue(parameters, column, high, [choice]);
  },
  async near(parameters) {
    const {about} = state, epsilon = parameters.epsilon ?? about.epsilon;
    const input = make("input", {type: "number", id: "epsilon", min: 0.0001, max: 0.9, step: 0.001, value: Number(Number(epsilon).toPrecision(4)), onchange: (event) => go({epsilon: event.target.value, cut: event.target.value ? 1 - Number(event.target.value) : ""})});
    const slide = make("input", {type: "range", id: "epsilon-slide", min: -4, max: -0.5, step: 0.05, value: Math.log10(Number(epsilon)), "aria-label": "Epsilon, from 0.0001 to 0.3", onchange: (event) => { const value = Number((10 ** Number(event.target.value)).toPrecision(3)); go({epsilon: value, cut: 1 - value}); }});
    const box = [make("label", {}, "Epsilon ", input), slide, make("span", {class: "kind"}, `the run's: ${number(about.epsilon)}`)];
    if ((parameters.list ?? "groups") !== "groups" && about.queues.near) return nearUseful(parameters, box);
    find("#controls").replaceChildren(nearControls("groups", box));
    const now = ++turn;
    summary("comparing…");
    if (about.queues.near) loadUseful("near", {...parameters, cut: 1 - Number(epsilon)}).catch((error) => tell(error.message, true));
    await groups("near", {epsilon}, now, (found) => `${found.rows === null ? "" : `${count.format(found.rows)} samples have an earlier one within epsilon; `}groups with the most similar first`);
  },
  async copies() {
    find("#controls").replaceChildren();
    await groups("copies", {}, ++turn, () => state.about.copies ? `${count.format(state.about.copies)} exact copies, each beside the one that stands for it` : "");
  },
  async cut() {
    find("#controls").replaceChildren();
    const now = ++turn, shown = {limit: 48, order: "margin"};
    const [inside, outside] = await Promise.all([ask("rows", {...shown, where: "margin <= 0 and keep", down: 1}), ask("rows", {...shown, where: "margin > 0 and not keep"})]);
    if (now !== turn) return;
    summary("the last ones kept and the first ones dropped of each concept");
    drawSections([{title: "Just kept", note: firstOf(inside), rows: inside.rows}, {title: "Just dropped", note: firstOf(outside), rows: outside.rows}], {kind: "halves"});
    if (!inside.rows.length && !outside.rows.length) empty("The selection of this run ranks no samples, so there is no cut to look at.");
  },
  async search(parameters) {
    const now = ++turn;
    find("#controls").replaceChildren();
    const any = parameters.any ? {any: 1} : {};
    summary("searching… (the first search loads the model)");
    const found = parameters.picture ? await send(`search${parameters.any ? "?any=1" : ""}`, droppedPicture) : await ask("search", {text: parameters.text, like: parameters.like, ...any});
    if (now !== turn) return;
    summary(found.more ? `the ${count.format(found.rows.length)} that fit best` : `${count.format(found.rows.length)} found`);
    drawSections([{rows: found.rows}]);
    if (found.rows.length) return;
    empty(found.empty ? `Nothing fits: ${found.empty}` : "Nothing was found.");
    if (parameters.text && !parameters.any) find("#content").append(make("p", {class: "also"}, make("a", {href: address("search", {...parameters, any: 1})}, "Show the best of what there is")));
  },
};

function nearControls(which, box) {
  const one = (value, text) => make("button", {type: "button", "aria-pressed": String(which === value), onclick: () => go({list: value})}, text);
  return make("div", {class: "filters"}, state.about.queues.near ? make("span", {class: "segments", role: "group", "aria-label": "Show"}, one("groups", "Groups"), one("useful", "Most useful next")) : null, ...box);
}

// Each row beside its partner; whoever is on the page already gets the others beside it.
function inPairs(rows) {
  const sections = [], at = new Map();
  for (const row of rows) {
    const both = [row, row.partner].filter(Boolean), there = both.map((one) => at.get(one.n)).find(Boolean);
    const section = there ?? {title: `similarity ${alike(row.near)}`, rows: []};
    if (!there) sections.push(section);
    for (const one of both) if (!at.has(one.n)) { at.set(one.n, section); section.rows.push(one); }
  }
  return sections;
}

// The pairs to look at next: each row beside the ones that it resembles.
async function nearUseful(parameters, box) {
  find("#controls").replaceChildren(nearControls("useful", box));
  const now = ++turn, epsilon = Number(parameters.epsilon ?? state.about.epsilon);
  const found = await loadUseful("near", {...parameters, cut: parameters.cut || 1 - epsilon});
  if (now !== turn) return;
  summary(`the next ${found.next.length} to look at: half at random, half nearest the cut`);
  drawSections(inPairs(found.next), {kind: "groups"});
  if (!found.next.length) return empty("Nothing is left to look at here.");
  find("#more").replaceChildren(make("button", {type: "button", class: "main", id: "next-useful", onclick: () => show()}, "Next ", make("kbd", {"aria-hidden": "true"}, "M")));
}

async function groups(path, parameters, now, says) {
  const sections = (found) => found.groups.map((group) => ({title: `${count.format(group.size)} alike`, note: group.size > group.rows.length ? `the first ${group.rows.length}` : null, rows: group.rows}));
  const found = await ask(path, parameters);
  if (now !== turn) return;
  summary(says(found));
  drawSections(sections(found), {kind: "groups"});
  if (!found.groups.length) return empty(path === "near" ? "No samples are so alike at this epsilon. A larger one takes in less similar ones." : "No sample is an exact copy of another.");
  let offset = found.groups.length;
  pages(async () => {
    const next = await ask(path, {...parameters, offset});
    if (now !== turn) return false;
    offset += next.groups.length;
    addSections(sections(next));
    return next.more;
  }, {more: found.more});
}

const firstOf = ({rows, total}) => rows.length < total ? `the nearest ${rows.length} of ${count.format(total)}` : count.format(total);

const TITLES = {concepts: "Concepts", samples: "Samples", near: "Near-duplicates", copies: "Exact copies", labels: "Doubtful labels", pairs: "Worst pairs", unusable: "Unusable", cut: "At the cut", search: "Search"};

export async function show() {
  const {parameters} = state.route, name = view(), asked = location.hash;
  const other = name !== shown;
  hideUseful();
  summary("");
  if (other) {
    setRows([]);
    for (const box of ["#controls", "#content", "#more"]) find(box).replaceChildren();
    scrollTo(0, 0);
  }
  shown = name;
  find("#content").classList.add("busy");
  find("#search").value = name === "search" ? parameters.text ?? "" : "";
  document.body.classList.toggle("no-rows", name === "concepts");
  find("#title").replaceChildren(name === "samples" && parameters.concept ? `Concept ${parameters.concept}` : TITLES[name], ...(name === "search" && parameters.text ? [": ", said(parameters.text)] : []));
  document.title = `${TITLES[name]} · curate review`;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === name) { link.setAttribute("aria-current", "page"); link.scrollIntoView({block: "nearest", inline: "nearest"}); } else link.removeAttribute("aria-current");
  }
  try {
    await VIEWS[name](parameters);
  } catch (error) {
    summary("");
    empty("");
    find("#content").replaceChildren(make("p", {class: "note warn", role: "alert"}, error.message));
  }
  if (location.hash !== asked) return;
  find("#content").classList.remove("busy");
  document.body.dataset.shown = asked;
}

export function searchPicture(file) {
  droppedPicture = file;
  const to = address("search", {picture: `${Date.now()}`});
  location.hash = to;
}
