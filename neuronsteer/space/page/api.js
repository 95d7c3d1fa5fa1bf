// Calls of the server's named endpoints. Generations come as server-sent events, the rest as JSON.

const base = new URL("gradio_api/", document.baseURI);

const ARGUMENTS = ["prompt", "schedule", "operation", "strength", "max_new_tokens", "temperature",
  "top_p", "seed", "controls", "full_length", "pace", "pair", "session"];

export class Trouble extends Error {}

async function post(path, data) {
  let answer;
  try {
    answer = await fetch(new URL(path, base), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ data }),
    });
  } catch {
    throw new Trouble("The server does not answer. Is it still running?");
  }
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 503) throw new Trouble("All places are taken right now. Try again in a moment.");
  if (answer.status === 413) throw new Trouble("That is too long to be sent.");
  if (!answer.ok) throw new Trouble(message(told) || `The server says no (${answer.status}).`);
  return told;
}

const message = (told) => (typeof told === "string" ? told : told?.error || told?.detail || "");

async function ask(name, ...data) {
  return (await post(`run/${name}`, data)).data[0];
}

export const neurons = async (pair) => {
  let last;
  for await (const each of stream("neurons", [pair])) last = each;
  return last;
};
export const switchTo = (label, session) => ask("switch", label ?? "-", session);
export const stop = (session) => ask("stop", session);
export const load = (model, set) => stream("load", [model, set]);
export const generate = (order, signal) => stream("generate", ARGUMENTS.map((key) => order[key]), signal);
export const welcome = async () => (await fetch(new URL("welcome", document.baseURI))).json();

/** Yields what an endpoint yields. Giving up the signal closes the connection, which ends the work. */
async function* stream(name, data, signal) {
  const { event_id } = await post(`call/${name}`, data);
  let answer;
  try {
    answer = await fetch(new URL(`call/${name}/${event_id}`, base), { signal });
    for await (const [event, text] of events(answer.body)) {
      const value = text === undefined ? null : JSON.parse(text);
      if (event === "error") throw new Trouble(message(value) || "Something went wrong on the server.");
      if (event === "generating" || event === "complete") {
        if (value?.[0]) yield value[0];
        if (event === "complete") return;
      }
    }
  } catch (error) {
    if (error instanceof Trouble || error.name === "AbortError") throw error;
    throw new Trouble("The connection to the server broke.");
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => {
        const at = line.indexOf(": ");
        return [line.slice(0, at), line.slice(at + 2)];
      }));
      yield [fields.event, fields.data];
    }
  }
}
