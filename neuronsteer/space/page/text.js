// The generated text: spans under their language, marks where it changes, detected languages, controls.

import { chip, directionOf, englishName, look, make, short } from "./labels.js";

/** Writes the steered output into `place`. */
export function writeSteered(place, seen, running) {
  const { outputs, prompt, switches, interventions } = seen;
  const { text, spans } = outputs[0];
  // The server counts characters as Python does: an emoji is one, of which JavaScript makes two.
  const letters = Array.from(text);
  const yours = new Set(switches.map((each) => each.token));
  const pulled = new Set(interventions.filter((each) => each.kind === "pulled back").map((each) => each.token));
  const alone = spans.length === 1 && directionOf(spans[0].label) === "rtl";
  place.classList.remove("empty");
  place.dir = alone ? "rtl" : "auto";
  const parts = [make("bdi", { class: "prompt", dir: "auto" }, prompt)];
  for (const span of spans) {
    const at = span.token_start;
    parts.push(mark(span, yours.has(at), pulled.has(at) ? "pulled back" : yours.has(at) ? "you switched" : "switched"));
    parts.push(make("span", {
      class: `span ${look(span.label)}`, lang: span.label ?? undefined, dir: directionOf(span.label),
      "data-label": span.label ?? "-", "data-start": span.token_start,
    }, ...cut(span, letters, interventions)));
  }
  if (running) parts.push(make("span", { class: `caret ${look(spans.at(-1)?.label)}`, "aria-hidden": "true" }));
  place.replaceChildren(...parts);
  // While it runs the place keeps its size, and its end is what matters.
  if (running) place.scrollTop = place.scrollHeight;
}

/** The text of a span, with marks under the tokens at which something was done to keep its language. */
function cut(span, letters, interventions) {
  const own = interventions.filter((each) => each.start < span.end && each.end > span.start);
  const inside = own.flatMap(({ start, end }) => [start, end]).filter((at) => at > span.start && at < span.end);
  const edges = [...new Set([span.start, ...inside, span.end])].sort((one, other) => one - other);
  return edges.slice(1).map((end, i) => {
    const piece = letters.slice(edges[i], end).join("");
    const here = own.filter((each) => each.start <= edges[i] && each.end >= end);
    if (!here.length) return piece;
    const kind = here.some((each) => each.kind === "refused") ? "refused" : "pulled";
    return make("span", { class: `kept ${kind}`, title: here.map(said).join("\n") }, piece);
  });
}

// Some tokens are a part of a letter, and have no text of their own.
const quoted = (text) => (text ? `“${text.trim()}”` : "part of a letter");

function said({ kind, token, text, probability, instead, left }) {
  if (kind === "refused") return `token ${token}: ${quoted(text)} refused (${(100 * probability).toPrecision(2)} %), ${quoted(instead)} instead`;
  return `pulled back from token ${token} on${left ? `, from ${englishName(left)}` : ""}`;
}

/** Says what the marks under the tokens mean, if there are any. */
export function writeKept(place, { interventions }, language) {
  const count = (kind) => interventions.filter((each) => each.kind === kind).length;
  const [refused, pulled] = [count("refused"), count("pulled back")];
  place.hidden = !refused && !pulled;
  const parts = [
    refused ? [make("span", { class: "kept refused" }, "Dots"), ` under a token: another one was refused (${refused}). `] : [],
    pulled ? [make("span", { class: "kept pulled" }, "Waves"), ` under a part: it was pulled back to ${englishName(language)} (${pulled}).`] : [],
  ];
  place.replaceChildren(...parts.flat());
}

/** Reserves space for a text of about so many tokens, so that nothing moves while it is written. */
export function reserve(place, prompt, tokens) {
  const style = getComputedStyle(place);
  const perLine = place.clientWidth / (0.5 * parseFloat(style.fontSize));
  const lines = Math.max(3, Math.ceil((prompt.length + 3 * tokens) / perLine));
  place.style.setProperty("--text-height", `${lines * parseFloat(style.lineHeight)}px`);
}

function mark(span, yours, what) {
  const title = span.token_start === 0 ? `starts in ${englishName(span.label)}` : `${what} to ${englishName(span.label)} at token ${span.token_start}`;
  return make("span", { class: `mark ${look(span.label)} ${yours ? "yours" : ""}`, title, dir: "ltr" },
    make("span", { "aria-hidden": "true" }, short(span.label)),
    make("span", { class: "at", "aria-hidden": "true" }, String(span.token_start)),
    make("span", { class: "sr" }, ` (${title}) `));
}

/** Lists the requested and the detected language of every span. */
export function writeVerdicts(place, seen, identifier) {
  if (!identifier) {
    place.replaceChildren(make("li", {}, "No language identifier is installed here: pip install 'neuronsteer[langid]'"));
    return;
  }
  place.replaceChildren(...seen.outputs[0].spans.map((span) => make("li", {},
    chip(span.label), span.label === null ? "not steered, detected" : "detected", span.detected ? chip(span.detected) : "…", verdict(span))));
}

function verdict({ label, detected }) {
  if (label === null || detected === null) return null;
  const right = label === detected;
  return make("span", { class: right ? "ok" : "no" }, right ? "✓" : "✗", make("span", { class: "sr" }, right ? " as requested" : " not as requested"));
}

/** Writes the output of a control. */
export function writeControl(place, seen, name) {
  const output = seen.outputs.find((each) => each.name === name);
  if (!output) {
    place.replaceChildren(make("i", {}, "Not generated (see Tuning)."));
    return;
  }
  const detected = output.spans[0]?.detected;
  place.replaceChildren(make("bdi", { class: "prompt", dir: "auto" }, seen.prompt),
    make("bdi", { dir: "auto", lang: detected ?? undefined }, output.text.slice(seen.prompt.length)),
    ...(detected ? [make("span", { class: "sr" }, " detected: "), chip(detected)] : []));
}

const NAMES = { steered: "Language neurons", unsteered: "No steering", random: "Random neurons" };

/** Draws how much of every output is in the requested language. */
export function writeBars(place, seen) {
  place.replaceChildren(...Object.entries(seen.scores).map(([name, { right, of }]) => {
    const share = of ? right / of : 0;
    return make("div", { class: "bar" }, make("b", {}, NAMES[name]),
      make("div", { class: "track", "aria-hidden": "true" }, make("span", { class: `fill ${name === "steered" ? "" : "weak"}`, vars: { width: `${100 * share}%` } })),
      make("span", {}, of ? `${right} of ${of} passages as requested` : "no language detected"));
  }));
}
