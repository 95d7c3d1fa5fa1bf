// The timeline as a score: a row per language, tokens from left to right. Asked for, planned, heard.

import { chip, englishName, labels, look, make, nameOf, short } from "./labels.js";
import { inserted, moved, relabelled, runs, without } from "./schedule.js";

const percent = (part, whole) => `${(100 * part) / whole}%`;

export class Score {
  /** `ask.change(points)` when the visitor edits, `ask.press(label)` when a language is pressed. */
  constructor(staff, ask) {
    this.staff = staff;
    this.ask = ask;
    this.points = [];
    this.tokens = 90;
    this.running = false;
    this.seen = null;
    this.dragged = null;
  }

  /** Builds the rows; labels are known from now on. */
  build() {
    this.rows = [...labels(), null];
    this.lanes = this.rows.map((label, row) => make("div", {
      class: `lane ${row === this.rows.length - 1 ? "last" : ""}`,
      onclick: (event) => this.click(event, label),
    }));
    this.voices = this.rows.map((label, row) => this.voice(label, row));
    this.axis = make("div", { class: "axis", "aria-hidden": "true" });
    this.playhead = make("div", { class: "playhead", hidden: true });
    this.staff.replaceChildren(
      ...this.rows.flatMap((_, row) => [this.voices[row], this.lanes[row]]),
      make("div", { class: "axis-name", "aria-hidden": "true" }, "token"), this.axis, this.playhead,
    );
  }

  voice(label, row) {
    const key = label === null ? "0" : row < 9 ? String(row + 1) : null;
    return make("button", {
      class: `voice ${look(label)}`, type: "button", "aria-pressed": "false",
      "aria-label": label === null ? "No steering" : `${englishName(label)}, ${short(label)}`,
      "aria-keyshortcuts": key, "data-label": label ?? "-",
      onclick: () => this.ask.press(label),
    }, chip(label), make("span", { class: "name", lang: label ?? undefined }, nameOf(label)), key && make("kbd", { "aria-hidden": "true" }, key));
  }

  /** Shows a timeline; `points` null means that it cannot be drawn before it happens. */
  plan(points, tokens) {
    this.points = points;
    this.tokens = tokens;
    this.draw();
  }

  /** Shows how far a generation is: its spans, cells and length. */
  show(seen, running) {
    this.seen = seen;
    this.running = running;
    this.draw();
  }

  draw() {
    if (!this.rows) return;
    const total = this.tokens;
    const done = this.seen?.tokens ?? 0;
    this.staff.dataset.tokens = done;
    this.staff.classList.toggle("running", this.running);
    const focused = document.activeElement?.dataset?.point;
    for (const lane of this.lanes) lane.replaceChildren();
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
    for (const cell of this.seen?.cells ?? []) this.heard(cell, total);
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
    const row = this.rows.indexOf(label ?? null);
    if (row < 0 || end <= start) return;
    const wide = (end - start) / total > 0.05;
    this.lanes[row].append(make("div", {
      class: `band ${kind} ${start > 0 ? "after" : ""} ${look(label)}`, vars: { left: percent(start, total), width: percent(end - start, total) },
    }, wide ? short(label) : ""));
  }

  links(parts, total) {
    for (let i = 1; i < parts.length; i += 1) {
      const [from, to] = [this.rows.indexOf(parts[i - 1].label ?? null), this.rows.indexOf(parts[i].label ?? null)];
      if (from < 0 || to < 0 || from === to) continue;
      const [high, low] = [Math.min(from, to), Math.max(from, to)];
      this.lanes[high].append(make("div", {
        class: `link ${look(parts[i].label)}`,
        vars: { left: percent(parts[i].start, total), top: "calc(var(--row) / 2)", height: `calc(var(--row) * ${low - high} - 4px)` },
      }));
    }
  }

  heard({ start, end, heard, asked }, total) {
    const row = heard === null ? -1 : this.rows.indexOf(heard);
    if (row < 0) return;
    this.lanes[row].append(make("div", {
      class: `heard ${asked && asked !== heard ? "off" : ""}`, vars: { left: percent(start + 0.4, total), width: percent(end - start - 0.8, total) },
    }));
  }

  handles(focused) {
    this.points.forEach((point, i) => {
      if (i === 0) return;
      const row = this.rows.indexOf(point.label);
      if (row < 0) return;
      const handle = make("button", {
        class: `handle ${look(point.label)}`, type: "button", role: "slider", "data-point": i,
        "aria-label": `Switch to ${englishName(point.label)}: arrows move it, up and down choose the language, Delete removes it`,
        "aria-valuemin": (this.points[i - 1]?.at ?? 0) + 1, "aria-valuemax": (this.points[i + 1]?.at ?? this.tokens) - 1,
        "aria-valuenow": point.at, "aria-valuetext": `at token ${point.at}`,
        onkeydown: (event) => this.key(event, i), onpointerdown: (event) => this.grab(event, i), onclick: (event) => event.stopPropagation(),
        vars: { left: percent(point.at, this.tokens) },
      });
      this.lanes[row].append(handle);
      if (String(i) === focused) handle.focus();
    });
  }

  key(event, i) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -8, PageUp: 8 }[event.key];
    const turn = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) this.ask.change(moved(this.points, i, this.points[i].at + step * (event.shiftKey ? 8 : 1), this.tokens));
    else if (turn) {
      const row = (this.rows.indexOf(this.points[i].label) + turn + this.rows.length) % this.rows.length;
      this.ask.change(relabelled(this.points, i, this.rows[row]));
    } else if (event.key === "Delete" || event.key === "Backspace") this.ask.change(without(this.points, i));
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
      this.ask.change(points);
    };
    const drop = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", drop);
      removeEventListener("pointercancel", drop);
      this.dropped = performance.now();
      this.ask.change(relabelled(this.points, i, this.points[i]?.label ?? null));
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", drop);
    addEventListener("pointercancel", drop);
  }

  where(event) {
    const box = this.lanes[0].getBoundingClientRect();
    const at = Math.round(((event.clientX - box.left) / box.width) * this.tokens);
    const row = Math.floor((event.clientY - box.top) / box.height);
    return { at: Math.max(0, Math.min(this.tokens - 1, at)), label: this.rows[Math.max(0, Math.min(this.rows.length - 1, row))] };
  }

  click(event, label) {
    // The click that ends a drag is not one.
    if (this.running || performance.now() - (this.dropped ?? -1e3) < 250) return;
    this.ask.change(inserted(this.points ?? [{ at: 0, label }], this.where(event).at, label));
  }

  /** Marks the language in force; before a generation, the first one. */
  press(label = this.points?.[0]?.label) {
    this.voices.forEach((voice, row) => {
      const on = this.rows[row] === label;
      voice.setAttribute("aria-pressed", String(on));
      if (on) voice.classList.remove("pending");
    });
  }

  pend(label) {
    this.voices.forEach((voice, row) => voice.classList.toggle("pending", this.rows[row] === label));
  }

  head(done, total) {
    this.playhead.hidden = !this.running;
    if (!this.running) return;
    const box = this.lanes[0].getBoundingClientRect();
    const left = box.left - this.staff.getBoundingClientRect().left + (box.width * Math.min(done, total)) / total;
    this.playhead.style.setProperty("left", `${left}px`);
  }
}
