"""CRANE: are the units that it finds relevant beyond chance, and specific?

python benchmarks/papers/crane.py           # about 15 minutes on two cores; resumable
"""

from __future__ import annotations

import torch
from reproduction import CORE, SCORED, Claim, Paper, Rule, Run, main

import neuronsteer as ns
from neuronsteer.detectors import detector
from neuronsteer.evaluation.readers import thinned

#: Texts per language; the paper has 5,000.
TEXTS = 250
PAPER = Paper(
    "crane",
    "CRANE",
    "Le and Li 2026, CRANE: Causal Relevance Analysis of Language-Specific Neurons in Multilingual "
    "Large Language Models",
    {
        "relevance": Claim(
            "The units are the relevant ones.",
            "share of all squared relevance that a language's units have, mean over languages",
            Rule(0.1, partly=0.02),
        ),
        "f1": Claim(
            "Without them the model loses the language, and it alone (LangSpec-F1).",
            "LangSpec-F1 of what is left of the probability per token, units off, mean over "
            "languages (the paper's own score on tasks is 0.30, of random units 0.12)",
            Rule(0.3, partly=0.05),
        ),
        "margin": Claim(
            "Its own text suffers more than that of other languages.",
            "rise of the loss on text of the language whose units are off, minus that on others",
            Rule(0.1, partly=0.02, unit="nats per token"),
        ),
        "exclusive": Claim(
            "The same with those units only that are far more relevant in one language (rule "
            "`margin`).",
            "the same margin, z at least 1 above that in every other language",
            Rule(0.1, partly=0.02, unit="nats per token"),
        ),
        "lrp": Claim(
            "The attention-aware rules of relevance find better units than gradients.",
            "needs the backward pass of AttnLRP, which the library does not have",
            Rule(0.1),
        ),
    },
    notes=(
        "Units: `crane` with z > 1 over 250 texts a language, relevance being value times "
        "gradient, and switched off at the down projection.",
    ),
)


def measure(run: Run) -> None:
    """Find the units, weigh them, and switch them off."""
    count = run.few(TEXTS, 6)

    def texts() -> dict[str, list[str]]:
        return {label: thinned(some, count) for label, some in run.texts(CORE).items()}

    stats = run.statistics("relevance", texts, [detector("crane")])
    neurons = ns.detect(stats, "crane")
    square = stats.get("relevance_moments", neurons.site)[..., 1]
    total = square.flatten(1).sum(1)

    def shares(chosen: ns.NeuronSet) -> list[float]:
        own = square[chosen.label, chosen.layer, chosen.index].double()
        sums = torch.zeros(len(CORE), dtype=torch.float64).index_add(0, chosen.label, own)
        return (sums / total).tolist()

    sets = [neurons, *(neurons.random_like(seed) for seed in range(run.seeds))]
    size = len(neurons) / len(CORE) / sum(neurons.width_per_layer)
    run.compared("relevance", [shares(each) for each in sets], counts=neurons.counts, size=size)
    run.figure("layers", "CRANE units by layer", ns.analyze("layers", neurons))
    items = run.few(6)
    options = {"data": {"texts": run.heldout(items, CORE, SCORED)}, "batch_size": 32}
    tasks = [{"name": "perplexity", "items": items}]
    report = run.evaluate("off", neurons, tasks, **options)
    rise = report.task("perplexity")["treatments"]["neurons"]["blocks"][0]
    run.reported("f1", report, "perplexity", "lang_spec_f", matrix=rise)
    run.reported("margin", report, "perplexity", "margin")
    alone = ns.detect(stats, "crane", rule="margin")
    if len(alone):
        report = run.evaluate("exclusive", alone, tasks, **options)
        run.reported("exclusive", report, "perplexity", "margin", counts=alone.counts)
    else:
        run.unmeasured("exclusive", "no unit is so much more relevant in one language")


if __name__ == "__main__":
    main(PAPER, measure)
