// A picture opened large: all that is known of it, and a list of picked samples to take along. Texts go in as text.
const picked = new Set(), large = {dialog: document.getElementById("large"), among: [], at: 0};

function part(id) { return document.getElementById(id); }

function fact(name, ...values) {
  return values.some((value) => value !== null && value !== undefined && value !== "") ? [make("dt", {}, name), make("dd", {}, ...values)] : [];
}

// What a button opens: a sample of the page by its place, or an object in an image, which the page may know no more of.
const placeOf = ({dataset: {place, uid}}) => uid === undefined ? Number(place) : data.samples.uid.indexOf(uid);
const uidOf = (button) => button.dataset.uid ?? data.samples.uid[placeOf(button)];

function factsOf(place) {
  const {shard, row, caption, label, reason, concept, scores} = data.samples, why = data.reasons[reason[place]];
  return [
    ...fact("caption", make("bdi", {}, caption[place] ?? "none")),
    ...(label[place] === null ? [] : fact("label", make("bdi", {}, label[place]))),
    ...fact("decision", make("strong", {}, outcome(place)), why ? `: ${why}` : ""),
    ...(concept[place] === null ? [] : fact("concept", make("bdi", {}, nameOf(concept[place])))),
    ...fact("row", make("bdi", {}, `${shard[place]}:${row[place]}`)),
    ...Object.entries(scores[place]).flatMap(([name, value]) => fact(name, String(value))),
  ];
}

function showLarge() {
  const button = large.among[large.at], place = placeOf(button), {object, covered} = button.dataset;
  const shown = button.querySelector("img");
  const image = object === undefined ? data.samples.image[place] : shown?.src;
  part("large-title").textContent = `${large.at + 1} of ${large.among.length}`;
  part("large-picture").replaceChildren(image ? make("img", {src: image, alt: object === undefined ? inWords(place) : shown.alt}) : make("p", {class: "note"}, "There is no picture to show."));
  part("large-facts").replaceChildren(
    ...(object === undefined ? [] : [...fact("object", make("bdi", {}, object)), ...fact("its group is", covered)]),
    ...fact("uid", make("code", {id: "large-uid"}, uidOf(button))),
    ...(place >= 0 ? factsOf(place) : []),
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
  large.among = buttons;
  large.at = buttons.indexOf(button);
  showLarge();
  large.dialog.showModal();
}

async function copyUid() {
  try {
    await navigator.clipboard.writeText(uidOf(large.among[large.at]));
    part("large-said").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(part("large-uid"));
    part("large-said").textContent = document.execCommand("copy") ? "copied" : "selected: copy it with the keyboard";
  }
}

function pick() {
  const uid = uidOf(large.among[large.at]);
  if (!picked.delete(uid)) picked.add(uid);
  showPicked();
}

function showPicked() {
  const button = part("large-pick"), on = large.among.length > 0 && picked.has(uidOf(large.among[large.at]));
  button.setAttribute("aria-pressed", String(on));
  button.textContent = on ? "Picked: take back" : "Pick";
  part("picked").hidden = picked.size === 0;
  part("picked-count").textContent = `${count.format(picked.size)} picked`;
  for (const one of document.querySelectorAll("button.open")) one.classList.toggle("is-picked", picked.has(uidOf(one)));
}

function savePicked() {
  const lines = [...picked].sort();
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
