// What is on the page, in the address: prompt, timeline, strength, seed, and the rest if it is not
// the default.

const KEYS = { prompt: "prompt", schedule: "schedule", strength: "strength", seed: "seed", operation: "operation",
  max_new_tokens: "tokens", temperature: "temperature", controls: "controls", full_length: "full", model: "model", set: "set" };
const ALWAYS = new Set(["prompt", "schedule", "strength", "seed"]);

export function read() {
  const query = new URLSearchParams(location.search);
  const found = {};
  for (const [key, short] of Object.entries(KEYS)) if (query.has(short)) found[key] = query.get(short);
  for (const key of ["strength", "seed", "max_new_tokens", "temperature"]) {
    if (key in found) {
      const number = Number(found[key]);
      if (Number.isFinite(number) && found[key].trim()) found[key] = number; else delete found[key];
    }
  }
  for (const key of ["controls", "full_length"]) if (key in found) found[key] = found[key] !== "0";
  return found;
}

export function link(state, defaults) {
  const query = new URLSearchParams();
  for (const [key, short] of Object.entries(KEYS)) {
    const value = state[key];
    if (value === undefined || value === null || value === "") continue;
    if (!ALWAYS.has(key) && value === defaults[key]) continue;
    query.set(short, typeof value === "boolean" ? (value ? "1" : "0") : String(value));
  }
  return new URL(`?${query}`, location.href.split(/[?#]/)[0]);
}

export function write(url) {
  history.replaceState(null, "", url);
  // On Spaces this page is in a frame, and the address that people copy is the outer one.
  if (window.parent !== window) window.parent.postMessage({ queryString: url.search.slice(1), hash: "" }, "https://huggingface.co");
}
