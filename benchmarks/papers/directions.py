"""CLaS-Bench, ReCoVeR, sparse dimensions and CNA: the table of real models, read as claims.

python benchmarks/papers/directions.py      # about 10 minutes on two cores; resumable
"""

from __future__ import annotations

import json
from statistics import fmean, harmonic_mean
from typing import Any

from reproduction import CORE, ROOT, Claim, Paper, Rule, Run, begun, main

import neuronsteer as ns
from neuronsteer.detectors import detector

#: What `benchmarks/real_models.py` measured.
TABLE = ROOT / "docs" / "real_models.json"
SHARE = "share of fluent continuations in the target"
PAPER = Paper(
    "directions",
    "Directions",
    "CLaS-Bench (arXiv:2601.08331); Sterz et al. 2025, ReCoVeR; Zhong et al. 2025, Language Lives "
    "in Sparse Dimensions; Herring et al. 2026, CNA",
    {
        "clas_bench": Claim(
            "Differences of means of the residual stream steer better than neurons (CLaS-Bench).",
            "harmonic mean of success and relevance, mean over targets: dense set minus sparse set",
            Rule(0, partly=-0.05, beyond_random=False),
        ),
        "recover": Claim(
            "Vectors in many layers take the model to the language (ReCoVeR).",
            "share of texts in the target, all pairs, dense set; random: three drawings together",
            Rule(0.95, partly=0.8),
        ),
        "quality": Claim(
            "They do so without loss of quality (ReCoVeR).",
            "relevance of the steered texts over that of unsteered ones, mean over targets",
            Rule(0.9, partly=0.7, beyond_random=False),
        ),
        "perplexity": Claim(
            "Text in the target is predicted as well as before (ReCoVeR).",
            "perplexity with steering over that without, mean over targets",
            Rule(1.05, partly=1.2, higher=False, beyond_random=False),
        ),
        "dimensions": Claim(
            "A tenth of the coordinates suffices to change the language (sparse dimensions).",
            SHARE + " (a tenth of the coordinates of every second layer)",
            Rule(0.5, partly=0.2),
        ),
        "base": Claim(
            "Multiplying contrastive neurons hardly changes what base models say (CNA).",
            SHARE + " (neurons multiplied by 2)",
            Rule(0.1, partly=0.2, higher=False, beyond_random=False),
        ),
    },
    notes=("The first four are read off [the table of real models](real_models.md).",),
)


def read(run: Run) -> None:
    """Read the table of real models."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    found: Any = table.get(run.name) or (next(iter(table.values())) if run.quick else {})
    if "dense" not in found.get("steering", {}):
        for claim in ("clas_bench", "recover", "quality", "perplexity"):
            run.unmeasured(claim, "docs/real_models.json has no dense set of this model")
        return
    dense = found["steering"]["dense"]
    means = {
        kind: {k: harmonic_mean([e["success"], e["relevance"]]) for k, e in each["labels"].items()}
        for kind, each in found["steering"].items()
    }
    if "sparse" in means:
        both = [fmean(means[kind].values()) for kind in ("dense", "sparse")]
        run.found("clas_bench", both[0] - both[1], n=dense["texts"], details=means)
    (share, bounds), n = dense["success"].values(), dense["texts"]
    random = [found["random"]["dense"]["success"]["mean"]]
    run.found("recover", share, n=n, interval=bounds, random=random)
    relevant = {label: each["relevance"] for label, each in dense["labels"].items()}
    value = fmean(relevant.values()) / dense["unsteered"]["retrieved"]
    run.found("quality", value, n=len(relevant), details=relevant)
    ratios = found["perplexity"]["dense"]
    run.found("perplexity", fmean(ratios.values()), n=len(ratios), details=ratios)


def measure(run: Run) -> None:
    """Read what was measured, and measure the rest."""
    read(run)
    prompts = begun(run.heldout(run.few(120, 12), CORE))
    needs, size = [detector("dimensions"), detector("contrastive")], run.few(9_000, 400)
    stats = run.statistics("beginnings", lambda: begun(run.texts(CORE, size)), needs)
    layers = list(range(0, stats.num_layers, 2))
    sets = {
        "dimensions": ns.detect(stats, "dimensions", rate=0.1, layers=layers),
        "whole": ns.detect(stats, "diffmean"),
        "base": ns.detect(stats, "contrastive"),
    }
    count = run.few(3, 1)
    tasks = [{"name": "forcing", "items": count, "tokens": run.few(24, 4)}]
    sampled, reports = {"do_sample": True, "temperature": 0.8, "top_k": 50}, dict[str, Any]()
    options = {"data": {"prompts": prompts}, "generation": sampled}
    for name, neurons in sets.items():
        controls = f"none,random:{run.seeds}" if name == "dimensions" else "none"
        reports[name] = run.evaluate(name, neurons, tasks, controls=controls, **options)
    whole = reports["whole"].value("forcing", "fluent_success")
    run.reported("dimensions", reports["dimensions"], "forcing", "fluent_success", whole=whole)
    run.reported("base", reports["base"], "forcing", "fluent_success")


if __name__ == "__main__":
    main(PAPER, measure)
