// The Load page: another model and its set, with progress, errors in the page, and what is ready.

import * as api from "./api.js";
import { $, make } from "./labels.js";

/** `use(name)` when a loaded model is chosen. */
export function setUpLoad(settings, use) {
  $("load-settings").textContent = settings.public
    ? `Here: ${[...new Set([settings.model, settings.neurons, ...settings.allow])].join(", ")}`
    : "Any causal language model of the Hub or of this machine, with a neuron set made for it.";
  $("loader").addEventListener("submit", async (event) => {
    event.preventDefault();
    await loadModel($("model-id").value.trim(), $("set-id").value.trim(), use);
  });
}

/** Proposes a model and its set, as a link does. */
export function offer(model, set) {
  [$("model-id").value, $("set-id").value] = [model, set];
  $("load-doing").textContent = "This link is about another model. Press Load if you trust it.";
  $("load-state").hidden = false;
  $("load-bar").hidden = true;
}

/** Loads a model and uses it; errors are shown on the page. */
async function loadModel(model, set, use) {
  const [button, state, failure] = [$("load-go"), $("load-state"), $("load-error")];
  [$("model-id").value, $("set-id").value] = [model, set];
  failure.hidden = true;
  [state.hidden, $("load-bar").hidden] = [false, false];
  button.disabled = true;
  try {
    for await (const step of api.load(model, set)) {
      $("load-bar").value = step.done;
      $("load-doing").textContent = step.doing;
      if (step.name) {
        await use(step.name);
        await showModels(step.name, use);
      }
    }
  } catch (error) {
    failure.textContent = error.message;
    failure.hidden = false;
    state.hidden = true;
  } finally {
    button.disabled = false;
  }
}

/** Lists what is loaded. */
export async function showModels(current, use) {
  const { models } = await api.welcome();
  $("models").replaceChildren(...models.map((name) => make("li", {}, make("span", {}, name), name === current
    ? make("b", {}, "in use")
    : make("button", { class: "quiet", type: "button", onclick: async () => { await use(name); await showModels(name, use); } }, "Use"))));
}
