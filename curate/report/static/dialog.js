// A picture opened large: all that is known of it, and a list of picked samples to take along. Texts go in as text.
const picked = new Set(), large = {dialog: document.getElementById("large"), among: [], at: 0};

function part(id) { return document.getElementById(id); }

function fact(name, ...values) {
  return values.some((value) => value !== null && value !== undefined && value !== "") ? [make("dt", {}, name), make("dd", {}, ...values)] : [];
}

function showLarge() {
  const place = large.among[large.at], {uid, shard, row, caption, label, reason, concept, scores, image} = data.samples;
  const why = data.reasons[reason[place]], values = Object.entries(scores[place]);
  part("large-title").textContent = `${large.at + 1} of ${large.among.length}`;
  part("large-picture").replaceChildren(image[place] ? make("img", {src: image[place], alt: inWords(place)}) : make("p", {class: "note"}, "There is no picture to show."));
  part("large-facts").replaceChildren(
    ...fact("caption", make("bdi", {}, caption[place] ?? "none")),
    ...(label[place] === null ? [] : fact("label", make("bdi", {}, label[place]))),
    ...fact("decision", make("strong", {}, outcome(place)), why ? `: ${why}` : ""),
    ...(concept[place] === null ? [] : fact("concept", make("bdi", {}, nameOf(concept[place])))),
    ...fact("uid", make("code", {id: "large-uid"}, uid[place])),
    ...fact("row", make("bdi", {}, `${shard[place]}:${row[place]}`)),
    ...values.flatMap(([name, value]) => fact(name, String(value))),
  );
  part("large-said").textContent = "";
  for (const id of ["large-back", "large-next"]) part(id).disabled = large.among.length < 2;
  showPicked();
}

function turn(by) {
  large.at = (large.at + by + large.among.length) % large.among.length;
  showLarge();
}

function openLarge(button) {
  const group = button.closest(".shots") ?? button.closest("tbody") ?? button.parentElement;
  const buttons = [...group.querySelectorAll("button.open")].filter((one) => one.offsetParent);
  large.among = buttons.map((one) => Number(one.dataset.place));
  large.at = buttons.indexOf(button);
  showLarge();
  large.dialog.showModal();
}

async function copyUid() {
  const place = large.among[large.at];
  try {
    await navigator.clipboard.writeText(data.samples.uid[place]);
    part("large-said").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(part("large-uid"));
    part("large-said").textContent = document.execCommand("copy") ? "copied" : "selected: copy it with the keyboard";
  }
}

function pick() {
  const place = large.among[large.at];
  if (!picked.delete(place)) picked.add(place);
  showPicked();
}

function showPicked() {
  const button = part("large-pick"), on = picked.has(large.among[large.at]);
  button.setAttribute("aria-pressed", String(on));
  button.textContent = on ? "Picked: take back" : "Pick";
  part("picked").hidden = picked.size === 0;
  part("picked-count").textContent = `${count.format(picked.size)} picked`;
  for (const one of document.querySelectorAll("button.open")) one.classList.toggle("is-picked", picked.has(Number(one.dataset.place)));
}

function savePicked() {
  const lines = [...picked].map((place) => data.samples.uid[place]).sort();
  const link = make("a", {href: URL.createObjectURL(new Blob([lines.map((line) => `${line}\n`).join("")], {type: "text/plain"})), download: "picked.txt"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.open");
  if (button) openLarge(button);
});
large.dialog.addEventListener("keydown", (event) => {
  const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (by === undefined) return;
  event.preventDefault();
  turn(by);
});
large.dialog.addEventListener("click", (event) => { if (event.target === large.dialog) large.dialog.close(); });
part("large-back").addEventListener("click", () => turn(-1));
part("large-next").addEventListener("click", () => turn(1));
part("large-close").addEventListener("click", () => large.dialog.close());
part("large-copy").addEventListener("click", copyUid);
part("large-pick").addEventListener("click", pick);
part("picked-save").addEventListener("click", savePicked);
part("picked-clear").addEventListener("click", () => { picked.clear(); showPicked(); });
