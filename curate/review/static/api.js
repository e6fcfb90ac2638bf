// What the page asks the server for.
async function answered(promise) {
  const answer = await promise;
  const found = await answer.json().catch(() => ({error: `the server answered ${answer.status}`}));
  if (!answer.ok) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found;
}

export function ask(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return answered(fetch(`/api/${path}${query ? `?${query}` : ""}`, {credentials: "same-origin"}));
}

export function send(path, value) {
  const body = value instanceof Blob ? value : JSON.stringify(value);
  return answered(fetch(`/api/${path}`, {method: "POST", body, credentials: "same-origin", headers: {"Content-Type": value instanceof Blob ? "application/octet-stream" : "application/json"}}));
}
