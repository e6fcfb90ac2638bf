// Tables that sort by a click on a heading, and the filters of the table of concepts.
function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    const button = document.createElement("button"), numeric = head.dataset.type === "number";
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const up = now ? now === "descending" : !numeric;
      const compare = (a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stands last both ways
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      document.getElementById("sorted").textContent = `Sorted by ${button.textContent}, ${up ? "ascending" : "descending"}`;
    });
  });
}

// Put the thumbnail of the medoid into each row, and a button that opens the concept's samples.
function furnish(table, open) {
  for (const row of table.tBodies[0].rows) {
    const concept = Number(row.dataset.concept), typical = data.typical[concept] ?? [];
    const cell = row.cells[0], button = make("button", {type: "button", class: "link", "aria-label": `Samples of concept ${concept}`}, String(concept));
    cell.dataset.value = concept;
    cell.replaceChildren(button);
    button.addEventListener("click", () => open(concept));
    const medoid = row.querySelector(".medoid");
    if (typical.length && data.pictures) medoid.prepend(opener(typical[0], true));
    if (typical.length && !medoid.textContent.trim()) medoid.append(make("bdi", {class: "kind"}, inWords(typical[0])));
  }
}

function filterable(table) {
  const text = document.getElementById("concept-text"), rows = document.getElementById("concept-rows");
  const limit = document.getElementById("concept-limit"), pictured = document.getElementById("concept-pictured");
  const known = new Set(data.galleries.map((gallery) => gallery.concept)), said = document.getElementById("concept-count");
  const words = (row) => [row.querySelector(".name")?.textContent ?? "", ...(data.typical[row.dataset.concept] ?? []).map(inWords)].join(" ").toLowerCase();
  const filter = () => {
    const wanted = text.value.trim().toLowerCase(), least = Number(rows.value) || 0;
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const fits = (!wanted || row.dataset.concept === wanted || words(row).includes(wanted))
        && Number(row.dataset.rows) >= least && (!limit.value || row.dataset.limit === limit.value)
        && (!pictured.checked || known.has(Number(row.dataset.concept)));
      row.hidden = !fits;
      shown += fits;
    }
    said.textContent = shown === table.tBodies[0].rows.length ? "" : `${count.format(shown)} of ${count.format(table.tBodies[0].rows.length)}`;
  };
  for (const control of [text, rows, limit, pictured]) control.addEventListener("input", filter);
}
