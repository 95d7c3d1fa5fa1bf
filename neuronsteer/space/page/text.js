// The generated text: spans under their language, marks where it changes, verdicts, controls.

import { chip, directionOf, englishName, look, make, short } from "./labels.js";

/** Writes the steered lane into `place`. */
export function writeSteered(place, seen, running) {
  const { lanes, prompt, switches } = seen;
  const { text, spans } = lanes[0];
  const yours = new Set(switches.map((each) => each.token));
  const alone = spans.length === 1 && directionOf(spans[0].label) === "rtl";
  place.classList.remove("empty");
  place.dir = alone ? "rtl" : "auto";
  const parts = [make("bdi", { class: "prompt", dir: "auto" }, prompt)];
  for (const span of spans) {
    parts.push(mark(span, yours.has(span.token_start)));
    parts.push(make("span", {
      class: `span ${look(span.label)}`, lang: span.label ?? undefined, dir: directionOf(span.label),
      "data-label": span.label ?? "-", "data-start": span.token_start,
    }, text.slice(span.start, span.end)));
  }
  if (running) parts.push(make("span", { class: `caret ${look(spans.at(-1)?.label)}`, "aria-hidden": "true" }));
  place.replaceChildren(...parts);
  // While it runs the place keeps its size, and its end is what matters.
  if (running) place.scrollTop = place.scrollHeight;
}

/** Makes room for a text of about so many tokens, so that nothing moves under the visitor's hand. */
export function reserve(place, prompt, tokens) {
  const style = getComputedStyle(place);
  const perLine = place.clientWidth / (0.5 * parseFloat(style.fontSize));
  const lines = Math.max(3, Math.ceil((prompt.length + 3 * tokens) / perLine));
  place.style.setProperty("--room", `${lines * parseFloat(style.lineHeight)}px`);
}

function mark(span, yours) {
  const who = yours ? "you switched" : "switched";
  const told = span.token_start === 0 ? `starts in ${englishName(span.label)}` : `${who} to ${englishName(span.label)} at token ${span.token_start}`;
  return make("span", { class: `mark ${look(span.label)} ${yours ? "yours" : ""}`, title: told, dir: "ltr" },
    make("span", { "aria-hidden": "true" }, short(span.label)),
    make("span", { class: "at", "aria-hidden": "true" }, String(span.token_start)),
    make("span", { class: "sr" }, ` (${told}) `));
}

/** Lists per span what was asked and what the identifier hears. */
export function writeVerdicts(place, seen, identifier) {
  if (!identifier) {
    place.replaceChildren(make("li", {}, "No language identifier is installed here: pip install 'neuronsteer[langid]'"));
    return;
  }
  place.replaceChildren(...seen.lanes[0].spans.map((span) => make("li", {},
    chip(span.label), span.label === null ? "not steered, heard" : "heard", span.heard ? chip(span.heard) : "…", verdict(span))));
}

function verdict({ label, heard }) {
  if (label === null || heard === null) return null;
  const right = label === heard;
  return make("span", { class: right ? "ok" : "no" }, right ? "✓" : "✗", make("span", { class: "sr" }, right ? " as asked" : " not as asked"));
}

/** Writes a control lane. */
export function writeControl(place, seen, name) {
  const lane = seen.lanes.find((each) => each.name === name);
  if (!lane) {
    place.replaceChildren(make("i", {}, "Not generated (see Tuning)."));
    return;
  }
  const heard = lane.spans[0]?.heard;
  place.replaceChildren(make("bdi", { class: "prompt", dir: "auto" }, seen.prompt),
    make("bdi", { dir: "auto", lang: heard ?? undefined }, lane.text.slice(seen.prompt.length)),
    ...(heard ? [make("span", { class: "sr" }, " heard: "), chip(heard)] : []));
}

const NAMES = { steered: "Language neurons", unsteered: "No steering", random: "Random neurons" };

/** Draws how much of every lane is in the language asked for. */
export function writeBars(place, seen) {
  place.replaceChildren(...Object.entries(seen.scores).map(([name, { right, of }]) => {
    const share = of ? right / of : 0;
    return make("div", { class: "bar" }, make("b", {}, NAMES[name]),
      make("div", { class: "track", "aria-hidden": "true" }, make("span", { class: `fill ${name === "steered" ? "" : "weak"}`, vars: { width: `${100 * share}%` } })),
      make("span", {}, of ? `${right} of ${of} passages as asked` : "nothing to judge"));
  }));
}
