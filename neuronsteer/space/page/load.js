// The Load page: another model and its set, with progress, errors in the page, and what is ready.

import * as api from "./api.js";
import { make } from "./labels.js";

const $ = (id) => document.getElementById(id);

/** `use(pair)` when a loaded pair is chosen. */
export function setUpLoad(rules, use) {
  $("load-rules").textContent = rules.public
    ? `Here: ${[...new Set([rules.model, rules.neurons, ...rules.allow])].join(", ")}`
    : "Any causal language model of the Hub or of this machine, with a neuron set made for it.";
  $("loader").addEventListener("submit", async (event) => {
    event.preventDefault();
    await loadPair($("model-id").value.trim(), $("set-id").value.trim(), use);
  });
}

/** Proposes a pair, as a link does. */
export function offer(model, set) {
  [$("model-id").value, $("set-id").value] = [model, set];
  $("load-doing").textContent = "This link is about another model. Press Load if you trust it.";
  $("load-state").hidden = false;
  $("load-bar").hidden = true;
}

/** Loads a pair and uses it; trouble is told on the page. Returns whether it worked. */
async function loadPair(model, set, use) {
  const [button, state, trouble] = [$("load-go"), $("load-state"), $("load-trouble")];
  [$("model-id").value, $("set-id").value] = [model, set];
  trouble.hidden = true;
  [state.hidden, $("load-bar").hidden] = [false, false];
  button.disabled = true;
  try {
    for await (const step of api.load(model, set)) {
      $("load-bar").value = step.done;
      $("load-doing").textContent = step.doing;
      if (step.pair) {
        await showPairs(step.pair, use);
        await use(step.pair);
      }
    }
    return true;
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
    state.hidden = true;
    return false;
  } finally {
    button.disabled = false;
  }
}

/** Lists what is loaded. */
export async function showPairs(current, use) {
  const { pairs } = await api.welcome();
  $("pairs").replaceChildren(...pairs.map((pair) => make("li", {}, make("span", {}, pair), pair === current
    ? make("b", {}, "in use")
    : make("button", { class: "quiet", type: "button", onclick: async () => { await use(pair); await showPairs(pair, use); } }, "Use"))));
}
