"""docs/reproductions.md from the JSON of the papers: every claim beside what was measured.

python benchmarks/papers/page.py

Nothing is measured here, and no number stands here: what has no JSON is listed as not measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "reproductions"
PAGE = ROOT / "docs" / "reproductions.md"
#: What is to be measured, in this order; a name is that of a script here and of its JSON.
PAPERS: dict[str, tuple[str, str]] = {
    "lape": ("Tang et al. 2024, LAPE", "where the neurons are; what is lost without them"),
    "kojima": (
        "Kojima et al. 2024",
        "little overlap; fewer than 1 % of the units set to their median change the language and "
        "the quality of translations",
    ),
    "language_arithmetic": (
        "Gurgurov et al. 2025, Language Arithmetics",
        "addition against replacement; fallback languages",
    ),
    "ternary": (
        "Zhang et al. 2025, alignment",
        "specific, related and general neurons by layer; before and after alignment",
    ),
    "culture": (
        "Namazifard and Galke Poech 2025, culture neurons",
        "neurons of a genre apart from those of its language",
    ),
    "aya": (
        "Trinley et al. 2025, Aya-23",
        "language of the decoded tokens by layer; overlap by layer and relatedness",
    ),
    "plnd": (
        "Zhao et al. 2024, PLND",
        "layers of understanding, reasoning and generation; enhancement with few documents",
    ),
    "amplification": (
        "Rahmanisa et al. 2025, amplification",
        "LSS by factor; tasks in their own and in another language",
    ),
    "sae_lape": (
        "Andrylie et al. 2025, SAE-LAPE",
        "features of one language; steering and identification with them",
    ),
    "code_languages": (
        "Kargaran et al. 2025, programming languages",
        "layers; ablation of one programming language against the others and English",
    ),
    "crane": ("Le and Li 2026, CRANE", "relevance beyond chance"),
    "relations": (
        "Liu et al. 2025, relations",
        "accuracy within and across relations without a relation's neurons",
    ),
    "directions": (
        "CLaS-Bench, sparse dimensions, ReCoVeR, CNA",
        "the table of real models, read as claims",
    ),
    "text_amount": (
        "All of them",
        "how much text is enough: neurons found again, and steering with little text",
    ),
}
_HEAD = """# The papers, on a real model

Rendered from the files in `docs/reproductions/` by `make papers`, which measures what is missing.
Every claim has a rule that was written into its script in `benchmarks/papers/` before the run;
the rule, not the reader, says whether it holds. "Here" is a small model: a claim that does not hold
here may hold on the paper's. Models are quantised copies of those named (`make real`).

*Random* are neurons of the same number per label and layer, over five seeds, lowest and highest of
them, unless the claim says otherwise. Intervals are 95 % bootstrap intervals.
"""


def render(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        results: The contents of the JSON files by name.
    """
    parts = [_HEAD, _overview(results)]
    parts += [_paper(results[name]) for name in PAPERS if name in results]
    return "\n".join(parts)


def _overview(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = []
    for name, (paper, what) in PAPERS.items():
        if name not in results:
            script = (Path(__file__).parent / f"{name}.py").is_file()
            state = "not measured yet" + ("" if script else "; there is no script yet")
            rows.append((paper, what, state))
            continue
        result = results[name]
        for key, claim in result["claims"].items():
            verdicts = [
                f"{model['found'].get(key, {}).get('verdict', 'not measured yet')} ({short})"
                for short, model in result["models"].items()
            ]
            rows.append((paper, claim["says"], "; ".join(verdicts)))
    return _table(("paper", "claim", "verdict"), rows)


def _paper(result: Mapping[str, Any]) -> str:
    lines = [f"\n## {result['title']}\n", f"{result['reference']}.", *result["notes"]]
    text = "\n\n".join(lines).replace("\n\n\n", "\n\n")
    for model in result["models"].values():
        text += f"\n\n### On {model['model']} ({model['minutes']:g} minutes)\n\n"
        rows: list[tuple[str, ...]] = []
        for key, claim in result["claims"].items():
            found = model["found"].get(key)
            what = f"{claim['says']} *Measured:* {claim['measured']}."
            if found is None or found["value"] is None:
                why = (found or {}).get("details", {}).get("why")
                state = f"not measured: {why}" if why else "not measured yet"
                rows.append((what, "–", "–", "–", claim["rule"], state))
                continue
            rows.append(
                (
                    what,
                    _number(found["value"]) + _bounds(found["interval"]),
                    _range(found["random"]),
                    str(found["n"]),
                    claim["rule"],
                    f"**{found['verdict']}**",
                )
            )
        text += _table(("claim", "found", "random", "n", "rule", "verdict"), rows)
        for file, caption in model["figures"].items():
            text += f"\n![{caption}](images/reproductions/{file})\n"
    return text


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _bounds(interval: Any) -> str:
    return f" ({_number(interval[0])} to {_number(interval[1])})" if interval else ""


def _range(random: Any) -> str:
    return f"{_number(min(random))} to {_number(max(random))}" if random else "–"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Write the page."""
    results = {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name in PAPERS
        for file in [RESULTS / f"{name}.json"]
        if file.is_file()
    }
    PAGE.write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    main()
