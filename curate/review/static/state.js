// What the page knows: the run, the rows that are shown, which are selected, and where the focus is.
export const state = {
  about: null,
  route: {view: "samples", parameters: {}},
  rows: [],          // all rows that are shown, in order
  byNumber: new Map(),
  selected: new Set(),  // numbers of rows
  focus: -1,         // a place in rows
  anchor: -1,
  seen: 0,           // actions of the history that the page knows
};

let told = () => {};
// Who wants to know when rows come or go.
export const onRows = (listener) => { told = listener; };

export const focused = () => state.rows[state.focus] ?? null;

// The rows that a decision is about: those selected, else the one in focus.
export function targets() {
  if (state.selected.size) return state.rows.filter((row) => state.selected.has(row.n));
  return focused() ? [focused()] : [];
}

export function setRows(rows) {
  state.rows = rows;
  state.byNumber = new Map(rows.map((row) => [row.n, row]));
  state.selected.clear();
  state.focus = rows.length ? 0 : -1;
  state.anchor = state.focus;
  told();
}

export function addRows(rows) {
  const fresh = rows.filter((row) => !state.byNumber.has(row.n));
  state.rows.push(...fresh);
  for (const row of fresh) state.byNumber.set(row.n, row);
  if (state.focus < 0 && state.rows.length) state.focus = state.anchor = 0;
  told();
  return fresh;
}

export function address(view, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

export function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return {view: path || "concepts", parameters: Object.fromEntries(new URLSearchParams(query))};
}
