"""Kojima: units of high and low average precision, their overlap, and what pinning them changes.

python benchmarks/papers/kojima.py          # about 35 minutes on two cores; resumable
"""

from __future__ import annotations

from reproduction import CORE, Claim, Paper, Rule, Run, main

import neuronsteer as ns
from neuronsteer.evaluation.bootstrap import interval
from neuronsteer.evaluation.readers import thinned

#: Texts per language that units are ranked by: the paper has 500, against 2,500 others.
TEXTS = 250
#: Units per language: 0.98 % of the 36,864 neurons of gemma.
UNITS = 360
LANGUAGE = "share of Tatoeba translations in the target language, which the prompt does not name"
QUALITY = "chrF of the same translations, minus that without steering"
PAPER = Paper(
    "kojima",
    "Top and bottom units",
    "Kojima et al. 2024, On the Multilingual Ability of the Decoder-based Pre-trained Language "
    "Models",
    {
        "overlap": Claim(
            "Two languages have fewer than 5 % of their units in common.",
            "mean share of a language's units that another language has, too; random: by chance",
            Rule(0.05, partly=0.1, higher=False, beyond_random=False),
        ),
        **{
            f"{which}_language": Claim(
                f"Fewer than 1 % of the units, pinned to their median, change the language ({which}"
                ").",
                LANGUAGE,
                Rule(0.5, partly=0.2),
            )
            for which in ("both", "top", "bottom")
        },
        **{
            f"{which}_chrf": Claim(
                f"Pinning the same units makes translations better ({which}).",
                QUALITY,
                Rule(5, unit="chrF"),
            )
            for which in ("both", "top", "bottom")
        },
    },
    notes=(
        "Units: `average_precision` at the input of the MLP's output projection, 360 per language "
        "(top, bottom, or 180 of each), set to the median of their responses; the paper takes "
        "2,000 of all linear layers' outputs. Prompts show two translations into other languages.",
    ),
)


def measure(run: Run) -> None:
    """Rank units, compare them, and translate with them pinned."""
    count = run.few(TEXTS, 6)

    def texts() -> dict[str, list[str]]:
        return {label: thinned(some, count) for label, some in run.texts(CORE).items()}

    stats = run.statistics("responses", texts, ["responses@mlp.neuron"])
    units = run.few(UNITS, 20)
    sets = {
        which: ns.detect(
            stats,
            "average_precision",
            per_label=units // 2 if which == "both" else units,
            which=which,
        )
        for which in ("both", "top", "bottom")
    }
    overlap = ns.analyze("overlap", sets["both"])
    shares = [row["both"] / units for row in overlap.rows]
    run.found(
        "overlap",
        sum(shares) / len(shares),
        n=len(shares),
        interval=interval(shares),
        details={
            "highest": max(shares),
            "by_chance": sum(row["chance"] for row in overlap.rows) / len(shares),
            "layers": ns.analyze("layers", sets["both"]).facts["labels"],
        },
    )
    run.figure("overlap", "Overlap of the units (Jaccard)", overlap)
    run.figure("layers", "Units by layer", ns.analyze("layers", sets["both"]))
    items = run.few(12)
    for which, neurons in sets.items():
        report = run.evaluate(
            which,
            neurons,
            [{"name": "translation", "items": items, "tokens": run.few(28, 4)}],
            data={"pairs": run.pairs(run.few(200, 12))},
            controls=f"none,random:{run.seeds}",
        )
        entry = report.task("translation")["treatments"]
        without = {name: each["value"] for name, each in entry["none"]["values"].items()}
        own = {name: each["value"] for name, each in entry["neurons"]["values"].items()}
        for value, minus in (("language", 0.0), ("chrf", without["chrf"])):
            run.reported(
                f"{which}_{value}",
                report,
                "translation",
                value,
                minus,
                unsteered=without,
                steered=own,
            )
        shown = next(b for b in entry["neurons"]["blocks"] if b["kind"] == "samples")
        run.rows[f"{which}_language"]["details"]["examples"] = shown["items"][:4]


if __name__ == "__main__":
    main(PAPER, measure)
