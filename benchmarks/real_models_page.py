"""docs/real_models.md from docs/real_models.json: what was aimed at beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

TITLES = {
    "gemma": ("google/gemma-3-270m", "base model, beginnings of texts, 32 new tokens"),
    "qwen": ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "chat model, questions, 48 new tokens"),
}
#: Aims: of sparse sets, of dense directions.
SUCCESS = {"gemma": {"sparse": (0.97, 0.90), "dense": (0.98, 0.95)},
           "qwen": {"sparse": (0.95, 0.85), "dense": (0.97, 0.90)}}  # fmt: skip
_HEAD = """# Real models: what steering does out of the box

Rendered from [real_models.json](real_models.json) by `python benchmarks/real_models.py --render`;
the same command with `--full` measures it again. Nothing was tuned on these prompts. The models
are quantised copies of those named (`make real`), steered with the ready-made sets of
`model_cards/`; what is left is read off the prompt by the set.
[Evaluation](evaluation.md#how-strongly-to-steer) says how fluency and relevance are computed.
Languages are identified by lingua, which chooses among the twelve labels, their neighbours (uk, be,
bg, pt, ca, gl and others) and the languages of the built-in sentences. ✗ marks an aim that was not
reached.
"""


def render(results: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [_HEAD]
    for name, found in results.items():
        model, how = TITLES[name]
        parts.append(f"\n## {model} ({how})\n")
        parts += [_size(each) for each in list(found.get("steering", {}).values())[:1]]
        parts.append(_aims(name, found))
        if "steering" in found:
            parts += [_labels(found["steering"]), _pairs(found["steering"])]
        if "keep" in found:
            parts.append(_keep(found["keep"]))
        if "beginnings" in found:
            parts.append(_beginnings(found["beginnings"]))
        if "methods" in found:
            parts.append(_methods(found["methods"]))
    return "\n".join(parts)


def _size(steering: Mapping[str, Any]) -> str:
    """Return how much was measured."""
    seeds = steering["seeds"]
    return (
        f"{steering['texts']} steered texts per set with {seeds} seed{'s' * (seeds > 1)}; "
        "relevance is told from eight of them per label. Random neurons: three drawings.\n"
    )


def _aims(name: str, found: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = []
    for kind in ("sparse", "dense"):
        steering = found.get("steering", {}).get(kind)
        if steering is None:
            continue
        mean, lowest = SUCCESS[name][kind]
        whole = steering["success"]
        cells = steering["labels"].values()
        share = {pair: hits / n for pair, (hits, n) in steering["pairs"].items()}
        least = min(share, key=lambda pair: share[pair])
        rows += [
            _row(kind, "success, all pairs", whole["mean"], mean, whole),
            _row(kind, f"success, lowest pair ({least})", share[least], lowest),
            _row(kind, "success, from English", steering["from English"]["mean"], mean,
                 steering["from English"]),
            _row(kind, "distinct n-grams ÷ unsteered text of the language",
                 statistics.fmean(cell["distinct"] for cell in cells), 0.95),
            _row(kind, "texts like unsteered ones in likelihood and repetition",
                 statistics.fmean(cell["natural"] for cell in cells), 0.8),
            _row(kind, "relevance ÷ unsteered",
                 statistics.fmean(cell["relevance"] for cell in cells), 0.8),
        ]  # fmt: skip
        if (random := found.get("random", {}).get(kind)) is not None:
            rows.append(_row(kind, "random neurons: success", random["success"]["mean"], -0.03,
                             random["success"]))  # fmt: skip
        if (switch := found.get("switch", {}).get(kind)) is not None:
            rows.append(_row(kind, "switch: right from the 8th token on", switch["right"]["mean"],
                             0.95, switch["right"]))  # fmt: skip
        if (ratios := found.get("perplexity", {}).get(kind)) is not None:
            worst = max(ratios, key=lambda label: ratios[label])
            rows.append(_row(kind, f"perplexity of text in the target ÷ plain, highest ({worst})",
                             ratios[worst], -1.15))  # fmt: skip
    head = ("neurons", "what", "measured", "95 %", "aim", "")
    return _table(head, rows)


def _row(kind: str, what: str, value: float, aim: float, whole: Any = None) -> tuple[str, ...]:
    """Return a row; a negative aim is not to be exceeded."""
    reached = value >= aim if aim > 0 else value <= -aim
    bounds = (
        "" if not whole or not whole["interval"] else "{:.3f}–{:.3f}".format(*whole["interval"])
    )
    sign = "≥" if aim > 0 else "≤"
    return kind, what, f"{value:.3f}", bounds, f"{sign} {abs(aim):g}", "" if reached else "✗"


def _labels(steering: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = []
    for kind, found in steering.items():
        for label, cell in found["labels"].items():
            numbers = (cell[key] for key in ("success", "distinct", "natural", "relevance"))
            shown = ("–" if number is None else f"{number:.2f}" for number in numbers)
            neurons = str(found["neurons"].get(label, 0))
            strength = f"{found['strengths'].get(label, 1):g}"
            example = cell["examples"][0].replace("\n", " ").replace("|", "\\|")[:90]
            rows.append((kind, label, neurons, strength, *shown, example))
    head = ("neurons", "to", "how many", "strength", "success", "distinct", "natural", "relevance",
            "the first text")  # fmt: skip
    return "### By target\n\n" + _table(head, rows)


def _pairs(steering: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for kind, found in steering.items():
        pairs = {tuple(pair.split(" → ")): hits / n for pair, (hits, n) in found["pairs"].items()}
        labels = sorted({label for pair in pairs for label in pair})
        rows = [
            (left, *(f"{pairs[left, to]:.2f}" if left != to else "" for to in labels))
            for left in labels
        ]
        parts.append(f"### Success by pair, {kind}: from (rows) to (columns)\n\n"
                     + _table(("", *labels), rows))  # fmt: skip
    return "\n".join(parts)


def _keep(kept: Mapping[str, Any]) -> str:
    names = {"alone": "nothing is done", "keep": "`steer.keep`", "to": "`steer.to`"}
    rows = [
        (
            kind,
            name,
            f"{each[way]['right']['mean']:.3f}",
            "{:.3f}–{:.3f}".format(*each[way]["right"]["interval"]),
            f"{each[way]['distinct']:.3f}",
        )
        for kind, each in kept.items()
        for way, name in names.items()
    ]
    head = ("neurons", "what is done", "back from the 8th token on", "95 %", "distinct n-grams")
    text = "### Texts that ten tokens of another language were added to\n\n"
    text += _table(head, rows) + "\n"
    return text + "\n".join(
        f"Of {kind} neurons, `steer.keep` changed "
        f"{each['right texts that were changed']['mean']:.1%} of texts that nothing was added to.\n"
        for kind, each in kept.items()
    )


def _beginnings(beginnings: Mapping[str, Any]) -> str:
    rows = [
        (
            kind,
            f"× {each['strength']:g} for {each['tokens']} tokens",
            f"{each['right']['mean']:.3f}",
            "{:.3f}–{:.3f}".format(*each["right"]["interval"]),
            f"{each['distinct']:.3f}",
        )
        for kind, tried in beginnings.items()
        for each in tried
    ]
    head = ("neurons", "switches begin", "right from the 8th token on", "95 %", "distinct n-grams")
    text = "### How a switch begins (development prompts)\n\n"
    text += "What a set's header says under `switch` was chosen here.\n\n"
    return text + _table(head, rows)


def _methods(methods: Mapping[str, Any]) -> str:
    targets = sorted({label for found in methods.values() for label in found.get("labels", {})})
    rows: list[tuple[str, ...]] = []
    left_out: list[str] = []
    for method, found in methods.items():
        if "left out" in found:
            left_out.append(f"- `{method}`: {found['left out']}")
            continue
        shown = [_brief(found["labels"].get(label)) for label in targets]
        rows.append((method, str(max(found["neurons"].values(), default=0)), *shown))
    text = "### English to four languages: every method at its own best strength\n\n"
    text += "Success / distinct / natural. Strengths were chosen on development prompts.\n\n"
    text += _table(("method", "neurons", *targets), rows)
    return text + ("\nLeft out:\n\n" + "\n".join(left_out) + "\n" if left_out else "")


def _brief(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    numbers = " / ".join(f"{cell[key]:.2f}" for key in ("success", "distinct", "natural"))
    return f"{numbers} (× {cell['strength']:g})"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
