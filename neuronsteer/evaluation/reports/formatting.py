"""How numbers, treatments and values are written, the same in every format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What readers call the treatments, in the order in which they are shown.
TREATMENTS = {
    "neurons": "this set",
    "none": "no steering",
    "random": "random neurons",
    "diffmean": "difference of means",
    "prompted": "asked for in English",
    "prompted_natively": "asked for in the language",
}
#: Of these, what shows how well something else works, and nothing about the neurons.
BASELINES = ("prompted", "prompted_natively")
_SHORT = {"kl": "KL", "lss": "LSS", "nll": "NLL", "ngrams": "n-grams"}
NO_CONTROLS = (
    "This report has no controls. Its numbers do not show that these neurons matter: as many "
    "random ones, or none at all, may do the same."
)


def treatment(name: str, entry: Mapping[str, Any] | None = None) -> str:
    """Return a treatment's name for people; with its entry, the number of seeds, too."""
    seeds = (entry or {}).get("seeds", 1)
    return TREATMENTS.get(name, name) + (f" (mean of {seeds})" if seeds > 1 else "")


def number(value: float | None, unit: str = "") -> str:
    """Return a number as it is shown: shares as percentages, three digits otherwise."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:+.3f}" if unit.startswith("change") else f"{value:.3g}"


def interval(found: Mapping[str, Any], unit: str = "") -> str:
    """Return an interval, or nothing."""
    bounds = found.get("interval")
    if not bounds:
        return ""
    return f"{number(bounds[0], unit)} to {number(bounds[1], unit)}"


def title(name: str) -> str:
    """Return a value's name in words."""
    words = name.replace("_", " ").split(" ")
    return " ".join(_SHORT.get(word, word) for word in words)


def unit_of(task: Mapping[str, Any], value: str) -> str:
    """Return what a value of a task is counted in."""
    return str(task.get("units", {}).get(value, "share"))


def beaten(task: Mapping[str, Any]) -> str:
    """Return whether the headline is better than that of random sets, in a sentence, or nothing."""
    ours = (
        task["treatments"]
        .get("neurons", {})
        .get("values", {})
        .get(task["primary"], {})
        .get("value")
    )
    random = task["treatments"].get("random")
    theirs = (random or {}).get("values", {}).get(task["primary"])
    if ours is None or random is None or theirs is None:
        return ""
    better = task["higher_is_better"]
    if theirs.get("value") is None:
        return ""
    best = theirs.get("high" if better else "low", theirs["value"])
    unit = str(task.get("unit", ""))
    seeds = random["seeds"]
    name = "the random set" if seeds == 1 else f"every one of {seeds} random sets"
    if (ours > best) if better else (ours < best):
        return f"Better than {name} (the best has {number(best, unit)})."
    worse = "the random set does" if seeds == 1 else f"the best of {seeds} random sets does"
    return f"Not better than random: {worse} as well or better ({number(best, unit)})."
