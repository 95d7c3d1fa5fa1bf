"""Amplification: which factor steers to a language, and what tasks gain or lose by it.

python benchmarks/papers/amplification.py   # about 30 minutes on two cores; resumable
"""

from __future__ import annotations

import json
import re
from statistics import fmean, median
from typing import Any

from reproduction import CORE, Claim, Paper, Rule, Run, lines, main

import neuronsteer as ns
from neuronsteer.evaluation.readers import thinned
from neuronsteer.evaluation.readers.facts import of_pairs
from neuronsteer.plots import bars

#: The paper's own program takes whole numbers only.
FACTORS = (1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
LABELS = (*CORE, "id", "it", "tr")
#: An LSS that 21 facts reach by chance about once in a hundred times.
HIGH = 0.75
#: Folder, languages, questions, and by what the unsteered score must exceed chance.
TASKS = {
    "xcopa": ("xcopa", ("en", "id", "it", "tr", "zh"), 32, 0.03),
    "xquad": ("xquad100", ("ar", "de", "en", "zh"), 6, 0.05),
    "mgsm": ("mgsm", ("de", "en", "fr", "zh"), 6, 0.05),
}
END = re.compile(r"(?<=[.?!])\s|(?<=[。？！])")
CHANGE = "change of the score with that language amplified by its best factor"
KINDS = {"self": Rule(0.01, partly=0), "cross": Rule(-0.01, partly=0, higher=False)}
SAYS = {"self": "its own language helps, sometimes", "cross": "another language mostly harms"}
PAPER = Paper(
    "amplification",
    "Amplification",
    "Rahmanisa et al. 2025, Unveiling the Influence of Amplifying Language-Specific Neurons",
    {
        "steers": Claim(
            "With the best factor, amplification steers towards nearly every language.",
            f"share of languages whose LSS is at least {HIGH} at their best of six factors",
            Rule(0.9, partly=0.5),
        ),
        "whole": Claim(
            "Whole factors are enough (the paper tries no others).",
            "best LSS at 1.5 or 2.5 minus the best at 2 or 3, mean over languages",
            Rule(0.02, partly=0.05, higher=False, beyond_random=False),
        ),
        **{
            f"{task}_{kind}": Claim(f"Amplifying {SAYS[kind]} ({task}).", CHANGE, rule)
            for task in TASKS
            for kind, rule in KINDS.items()
        },
    },
    notes=("Neurons: `lape`, 1 %, multiplied. Facts: sentences cut in two, for want of MLAMA.",),
)


def facts(run: Run, count: int) -> list[Any]:
    """Return beginnings of short sentences with their ends in two languages."""
    found: list[Any] = []
    for name in ("multiway_xquad_questions", "multiway_mgsm"):
        every = [*map(json.loads, lines(run.data / "parallel" / f"{name}.jsonl.xz"))]
        labels = [label for label in CORE if label in every[0]]
        rows = [{label: END.split(row[label])[0] for label in labels} for row in every]
        rows.sort(key=lambda row: len(row["en"]))
        known = {(fact.base, fact.target) for fact in found}
        some = of_pairs(thinned(rows[: len(rows) // 2], count), labels)
        found += [fact for fact in some if (fact.base, fact.target) not in known]
    return found


def measure(run: Run) -> None:
    """Try all factors, and ask the questions with the best ones."""
    stats = run.statistics("counts-11", lambda: run.texts(LABELS), ["count@mlp.act"])
    neurons, count = ns.detect(stats, "lape"), run.few(3, 1)
    asked = {"facts": facts(run, count)}

    def shifts(key: str, chosen: ns.NeuronSet) -> dict[str, dict[float, float]]:
        found: dict[str, dict[float, float]] = {}
        for factor in FACTORS[: run.few(len(FACTORS))]:
            by = chosen.only(*CORE).replace(operation={"name": "scale", "factor": factor})
            options = {"data": asked, "controls": (), "batch_size": 16}
            report = run.evaluate(f"lss-{key}", by, [{"name": "lss", "items": count}], **options)
            for label, each in report.task("lss")["treatments"]["neurons"]["labels"].items():
                found.setdefault(label, {})[factor] = each["value"]
        return found

    random = [neurons.random_like(seed) for seed in range(run.seeds)]
    every = [shifts(str(k), each) for k, each in enumerate([neurons, *random])]
    shares = [fmean(max(each.values()) >= HIGH for each in some.values()) for some in every]
    found = every[0]
    best = {label: max(each, key=each.__getitem__) for label, each in found.items()}
    run.found("steers", shares[0], n=len(found), random=shares[1:], details={"lss": every})
    named = {f"× {f:g}": {k: e[f] for k, e in found.items()} for f in next(iter(found.values()))}
    run.figure("factors", "LSS by language and factor", bars(named, baseline=0.5))
    gains = [max(e[1.5], e.get(2.5, 0)) - max(e[2.0], e.get(3.0, 0)) for e in found.values()]
    run.found("whole", fmean(gains), n=len(gains))
    # They turn a factor of 2 into each language's own.
    strengths = {label: best.get(label, median(best.values())) - 1 for label in LABELS}
    amplified = neurons.replace(operation={"name": "scale", "factor": 2}, strengths=strengths)
    for task, (folder, labels, items, least) in TASKS.items():
        options: dict[str, Any] = {"data": {task: run.data / "eval" / folder}}
        options |= {"tasks": [{"name": task, "items": run.few(items, 1)}], "labels": labels}
        alone = run.evaluate(f"{task}-alone", amplified, controls=(), **options)
        values = alone.task(task)["treatments"]["neurons"]["values"]
        plain, chance = values["unsteered"]["value"], values["chance"]["value"] or 0.0
        if plain - chance < least and not run.quick:
            why = f"the model scores {plain:.2f} without steering, guessing {chance:.2f}"
            for kind in KINDS:
                run.unmeasured(f"{task}_{kind}", why)
            continue
        report = run.evaluate(task, amplified, **options)
        for kind in KINDS:
            run.reported(f"{task}_{kind}", report, task, f"{kind}_change", unsteered=plain)


if __name__ == "__main__":
    main(PAPER, measure)
