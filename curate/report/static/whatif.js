// Density budgets at other settings: the algorithm of curate.select.density and curate.select.budget, number by number.
const TIE = 1e-9;

function unpacked(text, kind) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new kind(bytes.buffer);
}

// The exactly rounded sum of floats, as Python's math.fsum (Shewchuk): partial sums that do not overlap.
function fsum(values) {
  const partials = [];
  for (let x of values) {
    let used = 0;
    for (let y of partials) {
      if (Math.abs(x) < Math.abs(y)) [x, y] = [y, x];
      const high = x + y, low = y - (high - x);
      if (low) partials[used++] = low;
      x = high;
    }
    partials.length = used;
    partials.push(x);
  }
  return partials.reduceRight((sum, part) => sum + part, 0);
}

// Rows to keep of a share in thousandths, halves rounded up; products stay below 2^53.
const rowsOf = (thousandths, base) => Math.floor((2 * thousandths * base + 1000) / 2000);

function softmax(complexity, temperature) {
  let largest = -Infinity;
  for (const value of complexity) largest = Math.max(largest, value);
  const weights = complexity.map((value) => Math.exp((value - largest) / temperature)), total = fsum(weights);
  return weights.map((weight) => weight / total);
}

// The largest floor up to `wanted` that all concepts together can afford.
function affordable(sizes, total, wanted) {
  const sum = (floor) => sizes.reduce((all, size) => all + Math.min(floor, size), 0);
  if (sum(wanted) <= total) return wanted;
  let low = 0, high = wanted;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (sum(middle) <= total) low = middle;
    else high = middle;
  }
  return low;
}

// The number that, added to every target, makes targets within their bounds add up to `total`.
function shift(target, lower, upper, total) {
  const bends = [];
  target.forEach((value, i) => bends.push([lower[i] - value, 1], [upper[i] - value, -1]));
  bends.sort((a, b) => a[0] - b[0]);
  let sum = lower.reduce((all, value) => all + value, 0), slope = 0, place = 0;
  const start = sum;
  let grown = 0;
  for (let i = 1; i < bends.length && sum < total; i++) {
    slope += bends[i - 1][1];
    grown += slope * (bends[i][0] - bends[i - 1][0]);
    sum = start + grown;
    if (sum < total) place = i;
  }
  const at = bends[place][0], inside = [];
  let fixed = 0, free = 0;
  target.forEach((value, i) => {
    if (upper[i] - value <= at) fixed += upper[i];
    else if (lower[i] - value > at) fixed += lower[i];
    else { inside.push(value); free += 1; }
  });
  return free ? (total - fixed - fsum(inside)) / free : at;
}

function remainderOrder(part, complexity, rank) {
  const order = [...part.keys()].sort((a, b) => part[b] - part[a]), group = new Int32Array(part.length);
  for (let i = 1; i < order.length; i++) {
    group[order[i]] = group[order[i - 1]] + (part[order[i - 1]] - part[order[i]] > TIE ? 1 : 0);
  }
  return order.sort((a, b) => group[a] - group[b] || complexity[b] - complexity[a] || rank[a] - rank[b]);
}

// Whole budgets of concepts that have rows: sizes, complexity and rank are plain arrays of one length.
function allocate(sizes, complexity, rank, total, temperature, wanted) {
  const floor = affordable(sizes, total, wanted), lower = sizes.map((size) => Math.min(floor, size));
  const target = softmax(complexity, temperature).map((share) => share * total);
  const lam = shift(target, lower, sizes, total);
  const exact = target.map((value, i) => Math.min(Math.max(value + lam, lower[i]), sizes[i]));
  const budget = exact.map(Math.floor);
  let left = total - budget.reduce((all, value) => all + value, 0);
  if (left > 0) {
    for (const i of remainderOrder(exact.map((value, i) => value - budget[i]), complexity, rank)) {
      if (left > 0 && budget[i] < sizes[i]) { budget[i] += 1; left -= 1; }
    }
  }
  return {budget, lower};
}

// What would be kept at a share (in thousandths) and a temperature; `kept` has one number per concept.
function planned(thousandths, temperature) {
  const given = planned.given ??= {
    ...data.whatif,
    ...Object.fromEntries(["concept", "free", "pinned", "rank", "kept"].map((name) => [name, unpacked(data.whatif[name], Int32Array)])),
    complexity: unpacked(data.whatif.complexity, Float64Array),
  };
  const pinned = given.pinned.reduce((all, value) => all + value, 0);
  const asked = rowsOf(thousandths, given.base), total = Math.min(Math.max(0, asked - pinned), given.eligible - pinned);
  const some = [...given.free.keys()].filter((i) => given.free[i] > 0), pick = (column) => some.map((i) => column[i]);
  const {budget, lower} = allocate(pick(given.free), pick(given.complexity), pick(given.rank), total, temperature, given.floor);
  const kept = Array.from(given.pinned);
  some.forEach((i, place) => { kept[i] += budget[place]; });
  return {
    given, asked, kept, rows: total + pinned, atCap: budget.filter((value, i) => value === given.free[some[i]]).length,
    atFloor: budget.filter((value, i) => value === lower[i]).length,
  };
}
