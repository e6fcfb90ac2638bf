// The card beside a mark of the map: the most typical samples of its concept.
function setUpMap(open) {
  const place = document.querySelector("[data-figure=map]"), card = document.getElementById("card");
  if (!place) return;
  place.on("plotly_hover", ({points: [point], event}) => {
    const at = point.pointNumber, columns = data.map, typical = columns.typical[at];
    const facts = `${count.format(columns.kept[at])} of ${count.format(columns.n_eligible[at])} kept, complexity ${(columns.complexity[at] ?? NaN).toFixed(4)}`;
    card.replaceChildren(make("strong", {}, `Concept ${nameOf(columns.concept[at])}`), make("span", {class: "kind"}, facts),
      make("div", {class: "row"}, ...typical.filter((one) => data.samples.image[one]).map((one) => picture(one))),
      ...[...new Set(typical.map(inWords))].map((words) => make("bdi", {class: "said"}, words)));
    card.hidden = false;
    const {clientX: x = 0, clientY: y = 0} = event ?? {};
    card.style.left = `${Math.max(8, Math.min(x + 16, innerWidth - card.offsetWidth - 8))}px`;
    card.style.top = `${y + 24 + card.offsetHeight > innerHeight ? Math.max(8, y - card.offsetHeight - 16) : y + 24}px`;
  });
  place.on("plotly_unhover", () => { card.hidden = true; });
  place.on("plotly_click", ({points: [point]}) => { card.hidden = true; open(point.customdata); });
  for (const input of document.querySelectorAll("input[name=colour]")) input.addEventListener("change", () => draw("map"));
  addEventListener("keydown", (event) => { if (event.key === "Escape") card.hidden = true; });
}

function setUpScores() {
  const choice = document.getElementById("score-choice"), note = document.getElementById("score-note");
  if (!choice) return;
  const show = () => {
    const {means, cuts} = data.scores[choice.value];
    const at = cuts.map(([value, rule]) => `${rule} at ${Number(value.toPrecision(4))}`);
    note.textContent = [means ? `Higher is ${means}.` : "", at.length ? `Cut: ${at.join("; ")}.` : "No rule cuts this score."].join(" ");
  };
  choice.addEventListener("change", () => { show(); draw("histogram"); });
  show();
}

function setUpWhatIf() {
  if (!data.whatif) return;
  const keep = document.getElementById("keep"), heat = document.getElementById("temperature"), {shares, temperatures, own} = data.whatif;
  const say = (id, text) => { document.getElementById(id).textContent = text; };
  keep.max = shares.length - 1;
  heat.max = temperatures.length - 1;
  const compute = () => {
    const share = shares[Number(keep.value)], temperature = temperatures[Number(heat.value)];
    const plan = drawn.plan = planned(Number(keep.value), Number(heat.value)), {size} = plan.given;
    const shown = plan.kept.map((kept, i) => kept / size[i]).filter(Number.isFinite);
    let least = 1, most = 0, entropy = 0;
    for (const value of shown) { least = Math.min(least, value); most = Math.max(most, value); }
    for (const kept of plan.kept) if (kept) entropy -= kept / plan.rows * Math.log(kept / plan.rows);
    say("keep-said", `${Number((100 * share).toPrecision(6))}\u00a0% of ${plan.given.of} rows`);
    say("temperature-said", String(temperature));
    say("what-rows", count.format(plan.rows));
    say("what-limits", `${count.format(plan.atCap)} · ${count.format(plan.atFloor)}`);
    say("what-shares", `${percent(least)} to ${percent(most)}`);
    say("what-effective", plan.rows ? Math.exp(entropy).toFixed(1) : "0");
    say("what-note", plan.asked > plan.given.eligible
      ? `${count.format(plan.asked)} rows asked for, but only ${count.format(plan.given.eligible)} are eligible: select would refuse this, or keep all of them with --at-most.` : "");
    say("what-command", `${plan.given.command} --keep ${share} --set select.temperature=${temperature}`);
    draw("whatif");
  };
  let waiting = 0;
  const soon = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(compute); };
  const reset = () => {
    [keep.value, heat.value] = own;
    compute();
  };
  keep.addEventListener("input", soon);
  heat.addEventListener("input", soon);
  document.getElementById("what-reset").addEventListener("click", reset);
  reset();
}

const open = setUpGalleries(), table = document.getElementById("concept-table");
if (table) {
  furnish(table, open);
  sortable(table);
  filterable(table);
}
document.getElementById("duplicate-pairs")?.append(...data.duplicates.map(pairShot));
document.getElementById("copy-pairs")?.append(...data.copies.map(pairShot));
document.getElementById("unusable-shots")?.append(...data.unusable.map(([sample, note]) => shot(sample, note)));
document.getElementById("lowest-shots")?.append(...data.lowest.shown.map(([sample, note]) => shot(sample, note, outcome(sample))));
document.getElementById("mislabelled-shots")?.append(...data.mislabelled.map(([sample, note]) => shot(sample, note)));
for (const [name, rows] of Object.entries(data.quadrants))
  document.getElementById(`quadrant-${name}`)?.append(...rows.map(([sample, note]) => shot(sample, note)));
setUpWhatIf();
setUpScores();
draw();
setUpMap(open);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
