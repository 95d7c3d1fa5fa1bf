"""How much text is enough: what 1, 3 and 10 thousand tokens per language find of what 30 do.

python benchmarks/papers/text_amount.py     # about 20 minutes on two cores; resumable
"""

from __future__ import annotations

from random import Random
from statistics import fmean
from typing import Any

from reproduction import CORE, Claim, Paper, Rule, Run, begun, documents, main

import neuronsteer as ns
from neuronsteer.detectors import detector
from neuronsteer.plots import bars

#: Thousands of tokens per language; each part of a sample is what the one before lacks.
AMOUNTS, PARTS = (1, 3, 10), (1, 2, 7)
SAMPLES = ("a", "b", "c")
METHODS: dict[str, dict[str, Any]] = {
    "lape": {"rate": 0.01},
    "ternary": {"rate": 0.01},
    "effect": {"rate": 0.01},
    "average_precision": {"per_label": 180},
    "plnd": {},
    "crane": {"rule": "top_p", "rate": 0.01},
}
PAPER = Paper(
    "text_amount",
    "How much text is enough",
    "LSS takes a hundred thousand tokens a language, LAPE a hundred million",
    {
        **{
            f"{method}_same": Claim(
                f"10,000 tokens a language find what 30,000 find (`{method}`).",
                "Jaccard index with the neurons of all 30,000, mean over languages and samples",
                Rule(0.7, partly=0.5, beyond_random=False),
            )
            for method in METHODS
        },
        **{
            f"{method}_stable": Claim(
                f"Other 10,000 tokens find the same neurons (`{method}`).",
                "Jaccard index of two samples that share no text; random: by chance",
                Rule(0.6, partly=0.3),
            )
            for method in METHODS
        },
        "steering": Claim(
            "A thousand tokens a language steer as well as 30,000 (`diffmean`).",
            "share of fluent continuations in the target, minus that with the directions of 30,000",
            Rule(-0.05, partly=-0.15, beyond_random=False),
        ),
    },
    notes=("Documents of at least 100 tokens; three samples of each amount but the largest.",),
)


def measure(run: Run) -> None:
    """Collect in parts, add these up, and compare what is found in them."""
    thousand, tokens = run.few(10, 4), run.few(100, 8)  # documents, and their tokens
    count = len(SAMPLES) * sum(PARTS) * thousand

    def every() -> dict[str, list[str]]:
        found = run.texts(CORE, count * (tokens + 60))  # documents end with sentences
        every = {k: documents(some, run.tokenizer, tokens, count) for k, some in found.items()}
        # In disorder, so that every part has texts from all over the corpus.
        return {k: Random(0).sample(some, len(some)) for k, some in every.items()}

    def part(sample: int, k: int) -> ns.Stats:
        start = (sample * sum(PARTS) + sum(PARTS[:k])) * thousand
        place = slice(start, start + PARTS[k] * thousand)
        needs = [detector(name, **given) for name, given in METHODS.items()]

        def texts() -> dict[str, list[str]]:
            return {label: some[place] for label, some in run.once("documents", every).items()}

        return run.statistics(f"amount-{sample}-{k}", texts, [*needs, detector("diffmean")])

    parts = [[part(sample, k) for k in range(len(PARTS))] for sample in range(len(SAMPLES))]
    whole = parts[0][0].merge(*parts[0][1:], *parts[1], *parts[2])
    amounts = [[first.merge(*rest[:k]) for first, *rest in parts] for k in range(len(PARTS))]
    curves: dict[str, dict[str, float]] = {f"{amount},000": {} for amount in AMOUNTS}
    for method, given in METHODS.items():
        largest, details = ns.detect(whole, method, **given), dict[str, Any]()
        values, other = list[list[float]](), list[dict[str, Any]]()
        for amount, several in zip(AMOUNTS, amounts, strict=True):
            sets = {n: ns.detect(e, method, **given) for n, e in zip(SAMPLES, several, strict=True)}
            pairs = [{"part": each, "all": largest} for each in sets.values()]
            same = [row for each in pairs for row in ns.analyze("stability", each).rows]
            other = ns.analyze("stability", sets).rows
            values = [[row["jaccard"] or 0.0 for row in rows] for rows in (same, other)]
            curves[f"{amount},000"][method] = fmean(values[0])
            details[f"{amount},000"] = dict(
                zip(("same", "stable"), map(fmean, values), strict=True)
            )
        chance = [row["chance"] or 0.0 for row in other]
        run.compared(f"{method}_same", values[:1], counts=largest.counts, **details)
        run.compared(f"{method}_stable", [values[1], chance])
    run.figure("amounts", "Jaccard index with the neurons of 30,000 tokens", bars(curves))
    prompts = begun(run.heldout(run.few(120, 12), CORE))
    tasks = [{"name": "forcing", "items": run.few(3, 1), "tokens": run.few(24, 4)}]

    def success(key: str, stats: ns.Stats) -> float:
        neurons, data = ns.detect(stats, "diffmean"), {"prompts": prompts}
        report = run.evaluate(key, neurons, tasks, data=data, controls=())
        return report.value("forcing", "fluent_success") or 0.0

    full = success("all", whole)
    least = [success(f"1000-{name}", e) for name, e in zip(SAMPLES, amounts[0], strict=True)]
    run.compared("steering", [[each - full for each in least]], all=full, thousand=least)


if __name__ == "__main__":
    main(PAPER, measure)
