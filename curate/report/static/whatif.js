// Budgets at other settings, looked up: Python computed them for every share and temperature of the sliders.
function unpacked(text, kind) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new kind(bytes.buffer);
}

const counts = (packed) => Array.from(unpacked(packed.data, {1: Uint8Array, 2: Uint16Array, 4: Uint32Array}[packed.bytes]));

// What would be kept at a place of either slider; `kept` has one number per concept.
function planned(share, temperature) {
  const given = planned.given ??= {
    ...data.whatif, concept: counts(data.whatif.concept), size: counts(data.whatif.size), now: counts(data.whatif.now),
    complexity: unpacked(data.whatif.complexity, Float64Array), budgets: counts(data.whatif.budgets),
  };
  const cell = given.temperatures.length * share + temperature, k = given.concept.length;
  const kept = given.budgets.slice(cell * k, (cell + 1) * k), [asked, atCap, atFloor] = given.cells[cell];
  return {given, asked, kept, rows: kept.reduce((all, value) => all + value, 0), atCap, atFloor};
}
