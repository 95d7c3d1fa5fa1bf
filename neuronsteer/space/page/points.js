// The timeline as a list of numbers and languages, and as one line of text.

import { make, nameOf } from "./labels.js";
import { inserted, moved, relabelled, without } from "./schedule.js";

const $ = (id) => document.getElementById(id);
let act;
let shown = [];
let known = [];
let tokens = 90;

/** `ask.change(points)`, `ask.write(text)`. */
export function setUpPoints(ask) {
  act = ask;
  $("add").addEventListener("click", () => {
    const last = shown.at(-1) ?? { at: 0, label: null };
    const at = Math.min(last.at + Math.max(1, Math.round((tokens - last.at) / 2)), tokens - 1);
    const next = known[(known.indexOf(last.label) + 1) % known.length];
    act.change(inserted(shown, at, next));
    $("points").lastElementChild?.querySelector("input, select")?.focus();
  });
  $("written").addEventListener("change", () => act.write($("written").value.trim()));
}

export function showPoints(points, state, labels) {
  [shown, known, tokens] = [points ?? [], labels, state.max_new_tokens];
  const field = $("written");
  if (document.activeElement !== field) field.value = state.schedule;
  $("add").disabled = points === null;
  const focused = $("points").contains(document.activeElement) ? document.activeElement.id : null;
  $("points").replaceChildren(...shown.map(row));
  if (focused) $(focused)?.focus();
}

function row(point, i) {
  const number = make("input", { type: "number", id: `at-${i}`, min: 1, max: tokens - 1, step: 1, value: point.at, "aria-label": `Switch ${i}: token`,
    onchange: (event) => act.change(moved(shown, i, Math.trunc(Number(event.target.value)) || 0, tokens)) });
  const select = make("select", { id: `to-${i}`, "aria-label": i ? `Switch ${i}: language` : "First language",
    onchange: (event) => act.change(relabelled(shown, i, event.target.value === "-" ? null : event.target.value)) },
  ...[...known, null].map((label) => make("option", { value: label ?? "-", selected: label === point.label }, label === null ? "No steering" : `${label} · ${nameOf(label)}`)));
  return make("div", { class: "point" },
    ...(i ? [make("span", {}, "at token"), number, make("span", { "aria-hidden": "true" }, "→")] : [make("span", {}, "start with")]), select,
    i ? make("button", { type: "button", class: "quiet", "aria-label": `Remove switch ${i}`, onclick: () => { act.change(without(shown, i)); $("add").focus(); } }, "Remove") : null);
}

