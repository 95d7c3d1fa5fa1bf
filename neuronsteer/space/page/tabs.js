// Pages as tabs, and the colour theme.

import { $ } from "./labels.js";

const tabs = () => [...document.querySelectorAll('[role="tab"]')];

export function show(name) {
  for (const tab of tabs()) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !on;
  }
}

export function setUpTabs() {
  for (const tab of tabs()) {
    tab.addEventListener("click", () => show(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const all = tabs();
      const at = all.indexOf(tab);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = all[(to + all.length) % all.length];
      show(next.id.slice(4));
      next.focus();
    });
  }
}

const THEMES = ["auto", "light", "dark"];

export function setUpTheme() {
  let kept = "auto";
  try { kept = localStorage.getItem("theme") ?? "auto"; } catch { /* no storage in this frame */ }
  // As Gradio's own pages, and as Spaces ask for it; not kept, because it is not the visitor's choice.
  const asked = { light: "light", dark: "dark", system: "auto" }[new URLSearchParams(location.search).get("__theme")];
  const apply = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    $("theme-name").textContent = name[0].toUpperCase() + name.slice(1);
    $("theme").setAttribute("aria-label", `Colours: ${name}`);
    kept = name;
  };
  apply(asked ?? (THEMES.includes(kept) ? kept : "auto"));
  $("theme").addEventListener("click", () => {
    apply(THEMES[(THEMES.indexOf(kept) + 1) % THEMES.length]);
    try { localStorage.setItem("theme", kept); } catch { /* as above */ }
    const url = new URL(location.href);
    url.searchParams.delete("__theme");
    history.replaceState(null, "", url);
  });
}
