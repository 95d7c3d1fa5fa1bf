// What can be taken along: the program that gives this text, a client, and a link. The page's address
// holds prompt, timeline, strength and seed, and the rest if it is not the default.

import { $ } from "./labels.js";

const KEYS = { prompt: "prompt", schedule: "schedule", strength: "strength", seed: "seed", operation: "operation",
  max_new_tokens: "tokens", temperature: "temperature", controls: "controls", full_length: "full", keep: "keep", model: "model", set: "set" };
const ALWAYS = new Set(["prompt", "schedule", "strength", "seed"]);

export function readAddress() {
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

export function linkTo(state, defaults) {
  const query = new URLSearchParams();
  for (const [key, short] of Object.entries(KEYS)) {
    const value = state[key];
    if (value === undefined || value === null || value === "") continue;
    // Nothing is generated from it, and an address cannot have any length.
    if (key === "prompt" && value.length > 2 * defaults.longest) continue;
    if (!ALWAYS.has(key) && value === defaults[key]) continue;
    query.set(short, typeof value === "boolean" ? (value ? "1" : "0") : String(value));
  }
  return new URL(`?${query}`, location.href.split(/[?#]/)[0]);
}

export function writeAddress(link) {
  const url = new URL(link);
  // The colours are those of the frame around the page: they stay in its address, and are no part of a link.
  const theme = new URLSearchParams(location.search).get("__theme");
  if (theme !== null) url.searchParams.set("__theme", theme);
  history.replaceState(null, "", url);
  // On Spaces this page is in a frame, and the address that people copy is the outer one.
  if (window.parent !== window) window.parent.postMessage({ queryString: url.search.slice(1), hash: "" }, "https://huggingface.co");
}

export function setUpCode() {
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const result = await copy($(button.dataset.of).textContent);
      button.textContent = result;
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    // Without permission, or not over https: the old way.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? "Copied" : "Select and copy it";
  }
}

const python = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));

export function showClient(state) {
  const place = location.href.split(/[?#]/)[0];
  $("client").textContent = `from gradio_client import Client

client = Client(${python(place)})
job = client.submit(
    ${python(state.prompt)},
    ${python(state.schedule)},
    seed=${state.seed},
    pace=12,  # tokens per second
    api_name="/generate",
)
for seen in job:  # snapshots, while it writes
    print(seen["tokens"], seen["outputs"][0]["text"][-60:])
    if seen["tokens"] == 30:
        client.predict("-", api_name="/switch")  # no steering, from the next token on
`;
}

export const showSnippet = (code) => { if (code) $("snippet").textContent = code; };
export const showLink = (url) => { $("link").textContent = url.href; };
