// The page: its state, generating, and which keys do what.

import * as api from "./api.js";
import { $, englishName, labels, make, setLabels } from "./labels.js";
import { offer, setUpLoad, showModels } from "./load.js";
import { showNeurons, usedAs } from "./neurons.js";
import { parse, write as writeSchedule } from "./schedule.js";
import { linkTo, readAddress, setUpCode, showClient, showLink, showSnippet, writeAddress } from "./share.js";
import { setUpTabs, setUpTheme, show as showTab } from "./tabs.js";
import { setUpPoints, showPoints, Timeline } from "./timeline.js";
import { reserve, writeBars, writeControl, writeKept, writeSteered, writeVerdicts } from "./text.js";

const EXAMPLES = ["The old man looked out of the window, and", "Once upon a time there was a king who", "In the morning the ship left the harbour and", "My dear friend, I have to tell you that"];

const state = { prompt: EXAMPLES[0] };
let defaults = {};
let facts = null;
let texts = {};
let job = null;
let seen = null;

const timeline = new Timeline($("timeline"), $("languages"), { change: edited, press: pressed });

const announce = (text) => { $("news").textContent = text; };

function showError(text) {
  $("error").textContent = text ?? "";
  $("error").hidden = !text;
}

/** Changes the state; the address and everything that shows it follow. */
function set(change) {
  Object.assign(state, change);
  if (!facts) return;
  const url = linkTo(state, defaults);
  writeAddress(url);
  showLink(url);
  showClient(state);
  draw();
}

function draw() {
  const points = parse(state.schedule, labels());
  timeline.plan(points, job?.tokens ?? state.max_new_tokens);
  showPoints(points, state, labels());
  for (const button of $("presets").children) button.setAttribute("aria-pressed", String(button.dataset.schedule === state.schedule));
  const used = usedAs(facts, state);
  $("hint").textContent = job ? ""
    : points ? `Choose a language, or draw: click a row where it should take over.${used ? ` (${used})` : ""}`
      : "This timeline waits for text: it is drawn as it happens.";
  for (const key of ["tokens", "temperature"]) $(`${key}-out`).textContent = $(key).value;
  $("pace-out").textContent = pace() || "as fast as it goes";
  showNeurons(facts, texts, state, { speak, off, use });
}

function edited(points) {
  if (job) return;
  forget();
  set({ schedule: writeSchedule(points) });
}

/** A language was pressed: the next token follows, or the next text starts in it. */
async function pressed(label) {
  if (!job) {
    edited([{ at: 0, label }]);
    return;
  }
  const mine = job;
  timeline.markPending(label);
  announce(`Switching to ${englishName(label)}`);
  try {
    const answer = await api.switchTo(label, mine.session);
    // It may also have ended just now, which is seen anyway.
    if (job === mine && state.keep && answer.why) { timeline.clearPending(); showError(answer.why); }
  } catch (error) {
    if (job === mine) timeline.clearPending();
    showError(error.message);
  }
}

/** The fastest pace is none at all. */
const pace = () => ($("pace").value === $("pace").max ? 0 : Number($("pace").value));

/** Forgets the generated text, which belongs to an earlier request. */
function forget() {
  seen = null;
  timeline.show(null, false);
}

const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function generate() {
  if (job || !ready()) return;
  if (!state.prompt.trim()) { showError("The prompt is empty; write at least one word."); $("prompt").focus(); return; }
  const length = [...state.prompt].length;
  if (length > defaults.longest) { showError(`The prompt has ${length} characters; here it may have ${defaults.longest}.`); $("prompt").focus(); return; }
  showError();
  job = { session: random(), abort: new AbortController(), tokens: state.max_new_tokens };
  const mine = job;
  const waiting = setTimeout(() => { $("steered").textContent = "Waiting for the server …"; }, 2500);
  forget();
  busy(true);
  const request = { ...defaults, ...state, pace: pace(), model: facts.name, session: mine.session };
  $("steered").textContent = "…";
  reserve($("steered"), state.prompt, state.max_new_tokens);
  draw();
  // The text and the languages to press have to be in view together.
  const below = innerHeight - $("dock").offsetHeight;
  const box = $("text").getBoundingClientRect();
  if (box.bottom > below || box.top < 0) $("text").scrollIntoView({ block: "start" });
  try {
    for await (const each of api.generate(request, mine.abort.signal)) {
      if (job !== mine) return;
      clearTimeout(waiting);
      seen = each;
      render(each);
    }
    if (seen) {
      announce(`${seen.state === "stopped" ? "Stopped" : "Done"} after ${seen.tokens} tokens: ${seen.schedule}${seen.note ? `. ${seen.note}` : ""}`);
      showSnippet(seen.code);
    }
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
    // It may have begun after the page gave up; nobody reads it.
    api.stop(mine.session).catch(() => {});
  } finally {
    clearTimeout(waiting);
    job = null;
    busy(false);
    timeline.clearPending();
    if (seen) {
      // The connection may have ended before the text did.
      if (seen.state === "running") seen = { ...seen, state: "stopped" };
      // What was switched by hand is now part of the timeline, and of the link.
      set({ schedule: seen.schedule });
      render(seen);
      $("hint").textContent = seen.note;
    } else { placeholder(); draw(); }
  }
}

function render(each) {
  const running = each.state === "running";
  if (running && each.switches.length) {
    // What was planned after a switch by hand does not happen any more.
    timeline.points = parse(each.schedule, labels());
  }
  timeline.show({ tokens: each.tokens, spans: each.outputs[0].spans, passages: each.outputs[0].passages }, running);
  if (each.tokens) writeSteered($("steered"), each, running);
  writeKept($("kept"), each, state.keep);
  writeVerdicts($("verdicts"), each, facts.identifier);
  writeControl($("unsteered"), each, "unsteered");
  writeControl($("random"), each, "random");
  writeBars($("bars"), each);
}

/** While it writes, what was asked for cannot be changed: text, link and program belong together. */
const FIXED = ["request-fields", "drawing", "knobs", "model"];

function busy(on) {
  document.body.classList.toggle("writing", on);
  const left = FIXED.some((id) => $(id).contains(document.activeElement));
  for (const id of FIXED) $(id).disabled = on;
  // Whoever started it with the keyboard can go on with the keys of the languages.
  if (on && left) $("text").focus({ preventScroll: true });
  if (on) $("steered").tabIndex = 0; else $("steered").removeAttribute("tabindex");
  $("go").classList.toggle("busy", on);
  showGo();
}

/** Whether a text can be generated: a model is there, and not being changed. */
const ready = () => facts !== null && !$("playing").disabled;

function showGo(text) {
  $("go-label").textContent = text ?? (job ? "Stop" : "Generate");
  const key = $("go").querySelector("kbd");
  key.hidden = !ready();
  key.textContent = job ? "Esc" : "Ctrl ↵";
}

/** Lets the visitor wait: `text` says for what; without it, the page can be used. */
function wait(text) {
  $("playing").disabled = Boolean(text);
  $("model").disabled = Boolean(text);
  showGo(text);
}

async function stop() {
  if (!job) return;
  const mine = job;
  // A second time: whatever the server does, the page does not wait for it.
  if (mine.stopping) { mine.abort.abort(); return; }
  mine.stopping = true;
  showGo("Stopping…");
  const answer = await api.stop(mine.session).catch(() => null);
  // Still in the queue: there is nothing to stop but the waiting.
  if (!answer?.stopped) mine.abort.abort();
}

function placeholder() {
  $("steered").classList.add("empty");
  $("steered").textContent = "Press Generate. While it writes, press another language.";
  $("verdicts").replaceChildren();
  $("kept").hidden = true;
}

const size = (number) => (number < 1e9 ? `${(number / 1e6).toFixed(1)} million` : `${(number / 1e9).toFixed(1)} billion`);

/** What to expect of the text, said beside it. */
function nature({ kind, parameters }) {
  if (kind === "demo") return `Demo of ${size(parameters)} parameters: its text makes little sense; watch its language.`;
  if (kind === "chat model") return "Chat model: here it goes on with the prompt as it is, without its chat template.";
  return "Base model: it goes on with the prompt, and answers no question.";
}

function speak(label) { forget(); set({ schedule: writeSchedule([{ at: 0, label }]), operation: "", strength: 1 }); showTab("play"); $("go").focus(); }
function off(label) { forget(); set({ schedule: writeSchedule([{ at: 0, label }]), operation: "zero", strength: 1 }); showTab("play"); announce(`${englishName(label)} will be turned off`); $("go").focus(); }
function use(change, keep) { set(change); if (!keep) $(`op-${state.operation || facts.operation.name}`)?.focus(); }

/** Uses a loaded model; empty for the first one. */
async function useModel(name) {
  facts = await api.neurons(name);
  showModel();
}

/** Makes the page show the model in use. */
function showModel() {
  setLabels(facts.labels);
  $("model").value = facts.name;
  timeline.build();
  const known = (text) => parse(text, labels()) !== null || /sentence|text=|repeat=|~|\*/.test(text);
  const schedule = state.schedule && known(state.schedule) ? state.schedule : facts.schedule;
  $("nature").textContent = nature(facts);
  $("facts").textContent = `${facts.kind === "demo" ? "Embedded demo model" : facts.model} · ${size(facts.parameters)} parameters · ${facts.labels.length} languages · ${facts.neurons} neurons`;
  $("presets").replaceChildren(...facts.presets.map((each) => make("button", {
    type: "button", "data-schedule": each.schedule, "aria-pressed": "false", onclick: () => { if (!job) { forget(); set({ schedule: each.schedule }); } } }, each.name)));
  $("keep").replaceChildren(make("option", { value: "" }, "no language"), ...facts.languages.map((each) => make("option", { value: each }, englishName(each))));
  const keep = facts.languages.includes(state.keep) ? state.keep : "";
  $("keep").value = keep;
  const first = facts.model === defaults.model && facts.set === defaults.set;
  set({ schedule, keep, model: first ? undefined : facts.model, set: first ? undefined : facts.set });
  wait();
  if (!seen) placeholder();
}

/** Offers the models that need no download, if there is more than one. */
function showChoices(choices) {
  const place = $("model");
  place.replaceChildren(...choices.map(({ model, set: neurons }) => make("option", { value: `${model} + ${neurons}` }, model === neurons ? model : `${model} with ${neurons}`)));
  $("choice").hidden = choices.length < 2;
  place.addEventListener("change", () => change(choices[place.selectedIndex]));
}

async function change({ model, set: neurons }) {
  showError();
  wait("Loading model…");
  try {
    forget();
    for await (const step of api.load(model, neurons)) {
      $("facts").textContent = step.doing;
      if (step.name) {
        await useModel(step.name);
        await showModels(step.name, useModel);
      }
    }
  } catch (error) {
    showModel();
    showError(error.message);
  }
}

function bind(id, key, read, event = "input") {
  $(id).addEventListener(event, () => { if (!job) forget(); set({ [key]: read($(id)) }); });
}

function fill() {
  $("prompt").value = state.prompt;
  $("tokens").value = state.max_new_tokens;
  $("temperature").value = state.temperature;
  $("seed").value = state.seed;
  $("pace").value = 14;
  $("with-controls").checked = state.controls;
  $("full-length").checked = state.full_length;
}

function setUp(settings) {
  $("tokens").max = Math.min(240, settings.max_new_tokens);
  bind("prompt", "prompt", (input) => input.value);
  bind("tokens", "max_new_tokens", (input) => Number(input.value));
  bind("temperature", "temperature", (input) => Number(input.value));
  bind("seed", "seed", (input) => Math.max(0, Math.trunc(Number(input.value)) || 0));
  bind("keep", "keep", (input) => input.value, "change");
  bind("with-controls", "controls", (input) => input.checked, "change");
  bind("full-length", "full_length", (input) => input.checked, "change");
  $("pace").addEventListener("input", draw);
  $("dice").addEventListener("click", () => { $("seed").value = Math.floor(Math.random() * 1e6); $("seed").dispatchEvent(new Event("input")); });
  $("examples").replaceChildren(...EXAMPLES.map((text) => make("button", { type: "button", onclick: () => { $("prompt").value = text; $("prompt").dispatchEvent(new Event("input")); } }, text)));
  $("request").addEventListener("submit", (event) => { event.preventDefault(); if (job) stop(); else generate(); });
  setUpPoints({ change: edited, write: (text) => { if (!job) { forget(); set({ schedule: text || "-" }); } }, state: () => state });
  setUpLoad(settings, useModel);
  addEventListener("keydown", keys);
  // A tab that is closed stops its generation; the server would notice by itself a little later.
  addEventListener("pagehide", () => job?.abort.abort());
}

function keys(event) {
  if (event.key === "Escape" && job) { stop(); return; }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); generate(); return; }
  const typing = event.target.closest?.("input:not([type=range]), textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("play").hidden || !ready() || !/^[0-9]$/.test(event.key)) return;
  const label = event.key === "0" ? null : labels()[Number(event.key) - 1];
  if (label !== undefined) pressed(label);
}

/** A link to another model: shown if it is loaded; a link alone never starts a download. */
async function openOther(models, model, neurons) {
  const name = `${model} + ${neurons}`;
  if (models.includes(name)) { await useModel(name); await showModels(name, useModel); return; }
  offer(model, neurons);
  showTab("load");
}

/** Asks until the first model is loaded; a server that is being started does not answer at first. */
async function welcome() {
  for (;;) {
    let found = null;
    try {
      found = await api.welcome();
      showError();
    } catch (error) { showError(error.message); }
    if (found?.ready) return found;
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
  }
}

async function start() {
  setUpTheme();
  setUpTabs();
  setUpCode();
  try {
    const hello = await welcome();
    texts = hello.operations;
    defaults = { ...hello.defaults, model: hello.settings.model, set: hello.settings.neurons, longest: hello.settings.prompt_characters };
    // Without one in the address, the timeline is the one that the set proposes.
    Object.assign(state, hello.defaults, { schedule: "" }, readAddress());
    const [model, neurons] = [state.model ?? defaults.model, state.set ?? defaults.set];
    const other = model !== defaults.model || neurons !== defaults.set ? [model, neurons] : null;
    setUp(hello.settings);
    fill();
    showChoices(hello.choices);
    $("links").replaceChildren(...Object.entries(hello.links).flatMap(([name, url]) => [make("a", { href: url, target: "_blank", rel: "noopener" }, name), " "]));
    await useModel("");
    await showModels(facts.name, useModel);
    document.body.dataset.ready = "yes";
    if (other) await openOther(hello.models, ...other);
  } catch (error) {
    $("facts").textContent = "";
    $("go-label").textContent = "No model";
    showError(error.message || "The page could not be set up.");
  }
}

start();
