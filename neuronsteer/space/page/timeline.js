// The timeline, drawn and as a list: a row per language, tokens from left to right; what is requested,
// planned and detected.

import { $, chip, englishName, labels, look, make, nameOf, short } from "./labels.js";
import { inserted, moved, relabelled, runs, without } from "./schedule.js";

const percent = (part, whole) => `${(100 * part) / whole}%`;

export class Timeline {
  /** `edits.change(points)` when the visitor edits, `edits.press(label)` when one of the languages, which are put into `chips`, is pressed. */
  constructor(place, chips, edits) {
    this.place = place;
    this.chips = chips;
    this.edits = edits;
    this.points = [];
    this.tokens = 90;
    this.running = false;
    this.seen = null;
    this.dragged = null;
  }

  /** Builds the rows, once the labels are known. */
  build() {
    this.labels = [...labels(), null];
    this.rows = this.labels.map((label, row) => make("div", {
      class: `row ${row === this.labels.length - 1 ? "last" : ""}`,
      onclick: (event) => this.click(event, label),
    }));
    this.buttons = this.labels.map((label, row) => this.button(label, row));
    this.chips.replaceChildren(...this.buttons);
    const heads = this.labels.map((label) => make("div", { class: `head ${look(label)}` }, chip(label), make("span", { class: "name", lang: label ?? undefined }, nameOf(label))));
    this.axis = make("div", { class: "axis", "aria-hidden": "true" });
    this.playhead = make("div", { class: "playhead", hidden: true });
    this.place.replaceChildren(
      ...this.labels.flatMap((_, row) => [heads[row], this.rows[row]]),
      make("div", { class: "axis-name", "aria-hidden": "true" }, "token"), this.axis, this.playhead,
    );
  }

  button(label, row) {
    const key = label === null ? "0" : row < 9 ? String(row + 1) : null;
    return make("button", {
      class: `language ${look(label)}`, type: "button", "aria-pressed": "false",
      "aria-label": label === null ? "No steering" : `${englishName(label)}, ${short(label)}`,
      "aria-keyshortcuts": key, "data-label": label ?? "-",
      onclick: () => this.edits.press(label),
    }, chip(label), make("span", { class: "name", lang: label ?? undefined }, nameOf(label)), key && make("kbd", { "aria-hidden": "true" }, key));
  }

  /** Shows a timeline; `points` null means that it cannot be drawn before it happens. */
  plan(points, tokens) {
    this.points = points;
    this.tokens = tokens;
    this.draw();
  }

  /** Shows how far a generation is: its spans, passages and length. */
  show(seen, running) {
    this.seen = seen;
    this.running = running;
    this.draw();
  }

  draw() {
    if (!this.labels) return;
    const total = this.tokens;
    const done = this.seen?.tokens ?? 0;
    this.place.dataset.tokens = done;
    this.place.classList.toggle("running", this.running);
    const focused = document.activeElement?.dataset?.point;
    for (const row of this.rows) row.replaceChildren();
    this.lines();
    const made = (this.seen?.spans ?? []).map((span) => ({ start: span.token_start, end: span.token_end, label: span.label }));
    for (const run of made) this.band(run, "", total);
    if (this.points) {
      for (const run of runs(this.points, total)) {
        const start = Math.max(run.start, this.seen ? done : 0);
        if (start < run.end && (!this.seen || this.running)) this.band({ ...run, start }, "planned", total);
      }
    }
    this.links(made.length && !this.running ? made : [...made, ...(this.points ? runs(this.points, total).filter((run) => run.end > done) : [])], total);
    for (const passage of this.seen?.passages ?? []) this.detected(passage, total);
    if (this.points && !this.running) this.handles(focused);
    this.press(this.running ? made.at(-1)?.label : undefined);
    this.head(done, total);
  }

  lines() {
    const every = this.tokens > 160 ? 40 : this.tokens > 60 ? 20 : 10;
    const marks = [];
    for (let at = 0; at <= this.tokens; at += every) marks.push(make("span", { vars: { left: percent(at, this.tokens) } }, String(at)));
    this.axis.replaceChildren(...marks);
  }

  band({ start, end, label }, kind, total) {
    const row = this.labels.indexOf(label ?? null);
    if (row < 0 || end <= start) return;
    const wide = (end - start) / total > 0.05;
    this.rows[row].append(make("div", {
      class: `band ${kind} ${start > 0 ? "after" : ""} ${look(label)}`, vars: { left: percent(start, total), width: percent(end - start, total) },
    }, wide ? short(label) : ""));
  }

  links(parts, total) {
    for (let i = 1; i < parts.length; i += 1) {
      const [from, to] = [this.labels.indexOf(parts[i - 1].label ?? null), this.labels.indexOf(parts[i].label ?? null)];
      if (from < 0 || to < 0 || from === to) continue;
      const [high, low] = [Math.min(from, to), Math.max(from, to)];
      this.rows[high].append(make("div", {
        class: `link ${look(parts[i].label)}`,
        vars: { left: percent(parts[i].start, total), top: "calc(var(--row) / 2)", height: `calc(var(--row) * ${low - high} - 4px)` },
      }));
    }
  }

  detected({ start, end, detected, requested }, total) {
    const row = detected === null ? -1 : this.labels.indexOf(detected);
    if (row < 0) return;
    this.rows[row].append(make("div", {
      class: `detected ${requested && requested !== detected ? "off" : ""}`, vars: { left: percent(start + 0.4, total), width: percent(end - start - 0.8, total) },
    }));
  }

  handles(focused) {
    this.points.forEach((point, i) => {
      if (i === 0) return;
      const row = this.labels.indexOf(point.label);
      if (row < 0) return;
      const handle = make("button", {
        class: `handle ${look(point.label)}`, type: "button", role: "slider", "data-point": i,
        "aria-label": `Switch to ${englishName(point.label)}: arrows move it, up and down choose the language, Delete removes it`,
        "aria-valuemin": (this.points[i - 1]?.at ?? 0) + 1, "aria-valuemax": (this.points[i + 1]?.at ?? this.tokens) - 1,
        "aria-valuenow": point.at, "aria-valuetext": `at token ${point.at}`,
        onkeydown: (event) => this.key(event, i), onpointerdown: (event) => this.grab(event, i), onclick: (event) => event.stopPropagation(),
        vars: { left: percent(point.at, this.tokens) },
      });
      this.rows[row].append(handle);
      if (String(i) === focused) handle.focus();
    });
  }

  key(event, i) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -8, PageUp: 8 }[event.key];
    const turn = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) this.edits.change(moved(this.points, i, this.points[i].at + step * (event.shiftKey ? 8 : 1), this.tokens));
    else if (turn) {
      const row = (this.labels.indexOf(this.points[i].label) + turn + this.labels.length) % this.labels.length;
      this.edits.change(relabelled(this.points, i, this.labels[row]));
    } else if (event.key === "Delete" || event.key === "Backspace") this.edits.change(without(this.points, i));
    else return;
    event.preventDefault();
  }

  grab(event, i) {
    event.preventDefault();
    event.target.focus();
    const start = this.points;
    const move = (now) => {
      const { at, label } = this.where(now);
      const points = moved(start, i, at, this.tokens);
      points[i] = { ...points[i], label };
      this.edits.change(points);
    };
    const drop = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", drop);
      removeEventListener("pointercancel", drop);
      this.dropped = performance.now();
      this.edits.change(relabelled(this.points, i, this.points[i]?.label ?? null));
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", drop);
    addEventListener("pointercancel", drop);
  }

  where(event) {
    const box = this.rows[0].getBoundingClientRect();
    const at = Math.round(((event.clientX - box.left) / box.width) * this.tokens);
    const row = Math.floor((event.clientY - box.top) / box.height);
    return { at: Math.max(0, Math.min(this.tokens - 1, at)), label: this.labels[Math.max(0, Math.min(this.labels.length - 1, row))] };
  }

  click(event, label) {
    // The click that ends a drag is not one.
    if (this.running || performance.now() - (this.dropped ?? -1e3) < 250) return;
    this.edits.change(inserted(this.points ?? [{ at: 0, label }], this.where(event).at, label));
  }

  /** Marks the active language; before a generation, the first one. */
  press(label = this.points?.[0]?.label) {
    this.buttons.forEach((button, row) => {
      const on = this.labels[row] === label;
      button.setAttribute("aria-pressed", String(on));
      if (on) button.classList.remove("pending");
    });
  }

  /** Forgets a switch that the server did not take. */
  clearPending() {
    for (const button of this.buttons) button.classList.remove("pending");
  }

  markPending(label) {
    this.buttons.forEach((button, row) => button.classList.toggle("pending", this.labels[row] === label));
  }

  head(done, total) {
    this.playhead.hidden = !this.running;
    if (!this.running) return;
    const box = this.rows[0].getBoundingClientRect();
    const left = box.left - this.place.getBoundingClientRect().left + (box.width * Math.min(done, total)) / total;
    this.playhead.style.setProperty("left", `${left}px`);
  }
}

// The same as a list of numbers and languages, and as one line of text.

let edits;
let shown = [];
let known = [];
let tokens = 90;

/** `edits.change(points)`, `edits.write(text)`. */
export function setUpPoints(given) {
  edits = given;
  $("add").addEventListener("click", () => {
    const last = shown.at(-1) ?? { at: 0, label: null };
    const at = Math.min(last.at + Math.max(1, Math.round((tokens - last.at) / 2)), tokens - 1);
    const next = known[(known.indexOf(last.label) + 1) % known.length];
    edits.change(inserted(shown, at, next));
    $("points").lastElementChild?.querySelector("input, select")?.focus();
  });
  $("written").addEventListener("change", () => edits.write($("written").value.trim()));
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
    onchange: (event) => edits.change(moved(shown, i, Math.trunc(Number(event.target.value)) || 0, tokens)) });
  const select = make("select", { id: `to-${i}`, "aria-label": i ? `Switch ${i}: language` : "First language",
    onchange: (event) => edits.change(relabelled(shown, i, event.target.value === "-" ? null : event.target.value)) },
  ...[...known, null].map((label) => make("option", { value: label ?? "-", selected: label === point.label }, label === null ? "No steering" : `${label} · ${nameOf(label)}`)));
  return make("div", { class: "point" },
    ...(i ? [make("span", {}, "at token"), number, make("span", { "aria-hidden": "true" }, "→")] : [make("span", {}, "start with")]), select,
    i ? make("button", { type: "button", class: "quiet", "aria-label": `Remove switch ${i}`, onclick: () => { edits.change(without(shown, i)); $("add").focus(); } }, "Remove") : null);
}

