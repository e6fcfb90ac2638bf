// The samples of one concept: what of it was kept, dropped, is typical, is there twice.
function showGallery(gallery, place) {
  place.replaceChildren();
  const twins = {name: "duplicates", title: "Near-duplicates that went", nothing: "None was dropped as a near-duplicate."};
  for (const {name, title, nothing, shown} of [...gallery.lists, twins]) {
    const shots = name === "duplicates" ? gallery.duplicates.map(pairShot) : shown.map(([sample, note]) => shot(sample, note, outcome(sample)));
    place.append(make("h3", {}, title), shots.length
      ? make("div", {class: name === "duplicates" ? "shots pairs" : "shots", "data-list": name, role: "group", "aria-label": title, tabindex: 0}, ...shots)
      : make("p", {class: "note"}, nothing));
  }
}

// One line for a concept: its id, its name or else a typical caption, why it is telling.
function titled(gallery) {
  const first = gallery.lists.findLast(({shown}) => shown.length)?.shown[0];  // the most typical stand last
  const words = (gallery.name ?? (first ? inWords(first[0]) : "")).slice(0, 60);
  return `${gallery.concept}: ${words}${gallery.why.length ? ` (${gallery.why.join(", ")})` : ""}`;
}

function setUpGalleries() {
  const choice = document.getElementById("gallery-choice");
  if (!choice) return () => false;
  const place = document.getElementById("gallery"), galleries = data.galleries;
  galleries.forEach((gallery, index) => choice.append(make("option", {value: index}, titled(gallery))));
  const show = (index) => {
    const at = (index + galleries.length) % galleries.length;
    choice.value = at;
    showGallery(galleries[at], place);
  };
  choice.addEventListener("change", () => show(Number(choice.value)));
  document.getElementById("gallery-back").addEventListener("click", () => show(Number(choice.value) - 1));
  document.getElementById("gallery-next").addEventListener("click", () => show(Number(choice.value) + 1));
  show(0);
  // Show the gallery of a concept; without one, say how to get it.
  return (concept) => {
    const index = galleries.findIndex((gallery) => gallery.concept === concept);
    if (index >= 0) show(index);
    else {
      choice.value = "";
      const typical = (data.typical[concept] ?? []).map((sample) => shot(sample, null));
      place.replaceChildren(make("h3", {}, `Most typical of concept ${nameOf(concept)}`), make("div", {class: "shots"}, ...typical),
        make("p", {class: "note"}, "More of it: ", make("code", {}, `curate report ${data.run} --concept ${concept}`)));
    }
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.getElementById("galleries").scrollIntoView({behavior: calm ? "auto" : "smooth"});
    choice.focus({preventScroll: true});
    return true;
  };
}
