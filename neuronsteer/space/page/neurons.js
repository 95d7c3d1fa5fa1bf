// The Neurons page: layer × language map, one language in detail, sharing, and how they are used.

import { $, chip, englishName, labels, look, make, nameOf } from "./labels.js";


let chosen = null;

/** `act.speak(label)`, `act.off(label)`, `act.use({operation, strength})`. */
export function showNeurons(facts, texts, state, act) {
  const share = facts.neurons / (facts.num_layers * facts.width);
  $("set-facts").textContent = `${facts.set}: ${facts.neurons} neurons, ${(100 * share).toPrecision(2)} % of the model’s `
    + `${facts.num_layers} × ${facts.width}, at ${facts.site}, found by ${facts.method.name}`;
  chosen = labels().includes(chosen) ? chosen : labels()[0];
  drawMap(facts, act);
  drawOne(facts, act);
  drawSharing(facts);
  drawUse(facts, texts, state, act);
}

function drawMap(facts, act) {
  const most = Math.max(1, ...labels().flatMap((label) => facts.layers[label]));
  const layers = Array.from({ length: facts.num_layers }, (_, layer) => layer);
  const head = make("tr", {}, make("th", { scope: "col" }, make("span", { class: "sr" }, "Language")),
    ...layers.map((layer) => make("th", { scope: "col" }, String(layer))), make("th", { scope: "col" }, "all"));
  const rows = labels().map((label) => make("tr", { class: look(label) },
    make("th", { scope: "row" }, make("button", {
      class: `language ${look(label)}`, type: "button", "aria-pressed": String(label === chosen), "aria-label": `Show ${englishName(label)}`,
      onclick: () => { chosen = label; drawMap(facts, act); drawOne(facts, act); $("map").querySelector(`[aria-pressed="true"]`)?.focus(); },
    }, chip(label), make("span", { class: "name", lang: label }, nameOf(label)))),
    ...facts.layers[label].map((count) => {
      const heat = Math.round((100 * count) / most);
      return make("td", { vars: { "--heat": heat } }, String(count));
    }),
    make("td", { class: "sum" }, String(facts.counts[label]))));
  $("map").replaceChildren(make("table", { class: "map" },
    make("caption", { class: "sr" }, "Rows are languages, columns are layers of the model"), make("thead", {}, head), make("tbody", {}, ...rows)));
}

function drawOne(facts, act) {
  const counts = facts.layers[chosen];
  const most = Math.max(1, ...counts);
  const best = facts.best[chosen].map((each) => make("tr", {}, make("td", {}, String(each.layer)), make("td", {}, String(each.index)), make("td", {}, each.score.toPrecision(3))));
  $("one").className = `card ${look(chosen)}`;
  $("one").replaceChildren(
    make("h2", {}, chip(chosen), make("span", { lang: chosen }, nameOf(chosen))),
    make("p", { class: "hint" }, `${facts.counts[chosen]} neurons, ${facts.exclusive[chosen]} of them in no other language.`),
    make("ol", { class: "layers", "aria-label": "Neurons per layer" }, ...counts.map((count, layer) => make("li", { "aria-label": `layer ${layer}: ${count}` },
      make("span", { "aria-hidden": "true" }, String(count)), make("i", { vars: { height: `${(78 * count) / most}%` } }), make("span", { "aria-hidden": "true" }, `L${layer}`)))),
    make("table", { class: "best" }, make("caption", { class: "sr" }, "The strongest neurons"),
      make("thead", {}, make("tr", {}, ...["layer", "neuron", "score"].map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...best)),
    make("div", { class: "acts" },
      make("button", { class: "quiet", type: "button", onclick: () => act.speak(chosen) }, `Speak ${englishName(chosen)}`),
      make("button", { class: "quiet", type: "button", id: "off", onclick: () => act.off(chosen) }, `Turn ${englishName(chosen)} off`)),
  );
}

function drawSharing(facts) {
  const most = Math.max(1, ...Object.values(facts.sharing));
  $("sharing").replaceChildren(make("div", { class: "share" }, ...Object.entries(facts.sharing).flatMap(([owners, count]) => [
    make("span", {}, owners === "1" ? "in one language" : `in ${owners} languages`),
    make("span", { "aria-hidden": "true" }, make("i", { vars: { width: `${(100 * count) / most}%` } })), make("b", {}, String(count))])),
  make("p", { class: "hint" }, "Neurons by how many languages they belong to."));
}

function drawUse(facts, texts, state, act) {
  const own = facts.operation.name;
  const now = state.operation || own;
  $("operations").replaceChildren(make("legend", {}, "Operation"), ...Object.entries(facts.operations).flatMap(([name, beyond]) => {
    const input = make("input", { type: "radio", name: "operation", id: `op-${name}`, value: name, "aria-describedby": `op-${name}-is`,
      onchange: () => act.use({ operation: name === own ? "" : name, strength: beyond ? state.strength : Math.min(state.strength, 1) }) });
    input.checked = name === now;
    return make("div", { class: "choice" }, input, make("label", { for: `op-${name}` }, name + (name === own ? " (this set’s own)" : "")),
      make("span", { id: `op-${name}-is` }, texts[name]));
  }));
  const slider = $("strength");
  slider.max = facts.operations[now] ? 3 : 1;
  slider.value = state.strength;
  slider.oninput = () => act.use({ strength: Number(slider.value) }, true);
  $("strength-out").textContent = Number(state.strength).toFixed(2);
  $("strength-help").textContent = !facts.operations[now] ? "1 is all of it, 0 leaves the neurons alone" : "1 is what the set was made for; too much breaks the text";
  $("reset").onclick = () => act.use({ operation: "", strength: 1 });
}

export const usedAs = (facts, state) => {
  const parts = [];
  if (state.operation) parts.push(`operation ${state.operation}`);
  if (state.strength !== 1) parts.push(`strength ${Number(state.strength).toFixed(2)}`);
  return parts.join(", ");
};

