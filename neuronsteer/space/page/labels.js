// What a label looks like: its chip, its name in its own language, its direction; and making elements.

export const $ = (id) => document.getElementById(id);

const RTL = new Set(["ar", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"]);
let order = [];

export function setLabels(labels) { order = labels; }
export const labels = () => order;

export function look(label) {
  const at = order.indexOf(label);
  return at < 0 ? "none" : `l${at % 8}`;
}

export function nameOf(label) {
  if (label === null || label === undefined) return "Unsteered";
  return displayName(label, label) ?? label;
}

/** The name for those who do not read the language. */
export function englishName(label) {
  if (label === null || label === undefined) return "no steering";
  return displayName(label, "en") ?? label;
}

function displayName(label, language) {
  if (!/^[a-z]{2,3}(-\w+)*$/i.test(label)) return undefined;
  try {
    const name = new Intl.DisplayNames([language], { type: "language", fallback: "none" }).of(label);
    return name && name[0].toLocaleUpperCase(language) + name.slice(1);
  } catch { return undefined; }
}

export const directionOf = (label) => (label && RTL.has(label.slice(0, 2)) ? "rtl" : "auto");

export const short = (label) => (label ?? "–").slice(0, 12);

/** Makes an element; text is always text, never markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "vars") for (const [name, each] of Object.entries(value)) element.style.setProperty(name, each);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const chip = (label, more = "") => make("span", { class: `chip ${look(label)} ${more}` }, short(label));
