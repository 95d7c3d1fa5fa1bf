// Calls of the server's named endpoints. Generations come as server-sent events, the rest as JSON.

const base = new URL("gradio_api/", document.baseURI);

const ARGUMENTS = ["prompt", "schedule", "operation", "strength", "max_new_tokens", "temperature",
  "top_p", "seed", "controls", "full_length", "pace", "model", "session", "keep"];

// Milliseconds for an answer, and between two signs of life of a stream: the server sends one every
// 15 seconds at least.
const ANSWER = 30_000;
const SILENCE = 60_000;

export class RequestError extends Error {}

async function reach(url, options = {}) {
  try {
    return await fetch(url, { signal: AbortSignal.timeout(ANSWER), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server does not answer. Is it still running?");
  }
}

async function post(path, data, signal) {
  const answer = await reach(new URL(path, base), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ data }),
    ...(signal && { signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER)]) }),
  });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 503) throw new RequestError("Too many visitors are waiting. Try again in a moment.");
  if (answer.status === 413) throw new RequestError("The request is too long.");
  if (!answer.ok) throw new RequestError(message(body) || `The server refused the request (${answer.status}).`);
  return body;
}

const message = (body) => (typeof body === "string" ? body : body?.error || body?.detail || "");

async function call(name, ...data) {
  return (await post(`run/${name}`, data)).data[0];
}

export const neurons = async (model) => {
  let last;
  for await (const each of stream("neurons", [model])) last = each;
  return last;
};
export const switchTo = (label, session) => call("switch", label ?? "-", session);
export const stop = (session) => call("stop", session);
export const load = (model, set) => stream("load", [model, set]);
export const generate = (request, signal) => stream("generate", ARGUMENTS.map((key) => request[key]), signal);
export async function welcome() {
  const answer = await reach(new URL("welcome", document.baseURI));
  if (!answer.ok) throw new RequestError(`The server refused the request (${answer.status}).`);
  return answer.json();
}

/** Yields what an endpoint yields. Aborting the signal closes the connection, which ends the work. */
async function* stream(name, data, signal) {
  const { event_id } = await post(`call/${name}`, data, signal);
  try {
    const answer = await fetch(new URL(`call/${name}/${event_id}`, base), { signal });
    if (!answer.ok) throw new RequestError(`The server refused the request (${answer.status}).`);
    for await (const [event, text] of events(answer.body)) {
      const value = text === undefined ? null : JSON.parse(text);
      if (event === "error") throw new RequestError(message(value) || "Something went wrong on the server.");
      if (event === "generating" || event === "complete") {
        if (value?.[0]) yield value[0];
        if (event === "complete") return;
      }
    }
    // A server that is shut down ends its answers as if they were complete.
    throw new RequestError("The server ended the connection before the text was complete.");
  } catch (error) {
    if (error instanceof RequestError || error.name === "AbortError") throw error;
    throw new RequestError("The connection to the server broke.");
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await within(SILENCE, reader.read());
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
  } catch (error) {
    // Not after the end: the server is about to close the connection itself.
    reader.cancel().catch(() => {});
    throw error;
  }
}

/** Waits for a promise, but not for ever: a connection may be lost without anybody being told. */
async function within(milliseconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new RequestError("The connection to the server broke: nothing comes any more.")), milliseconds);
  });
  try { return await Promise.race([promise, late]); } finally { clearTimeout(timer); }
}
