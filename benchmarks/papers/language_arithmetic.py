"""Language arithmetic: adding means against replacing by them, and what a language falls back to.

python benchmarks/papers/language_arithmetic.py     # about 35 minutes on two cores; resumable
"""

from __future__ import annotations

from reproduction import CORE, Claim, Paper, Rule, Run, begun, main

import neuronsteer as ns
from neuronsteer.evaluation.bootstrap import interval

RATE = 0.03
PAPER = Paper(
    "language_arithmetic",
    "Language arithmetic",
    "Gurgurov et al. 2025, Language Arithmetics: Towards Systematic Language Neuron Identification "
    "and Manipulation",
    {
        "addition": Claim(
            "Adding the mean activations of a language's neurons makes the model write it.",
            "share of fluent continuations in the target, from prompts in other languages",
            Rule(0.5, partly=0.2),
        ),
        "against_replacement": Claim(
            "Addition does at least as well as replacement by the mean.",
            "that share with addition, minus that with replacement; n: pairs of languages",
            Rule(0, partly=-0.05, higher=True, beyond_random=False),
        ),
        "fallback": Claim(
            "Without its neurons, a language gives way to another one.",
            "share of fluent replies in another language than the prompt, whose neurons are off",
            Rule(0.3, partly=0.1),
        ),
        "english": Claim(
            "What languages fall back to is English or a language close to it.",
            "English among the fluent replies in another language; if all were alike, 1 / 7",
            Rule(0.5, partly=0.25, beyond_random=False),
        ),
    },
    notes=(
        "Neurons: `lape`, 3 % of all. Addition: a + mean; replacement: mean. Sampled at "
        "temperature 0.8 among the 50 likeliest tokens; the paper decodes greedily, at which a "
        "base model loops. Multiplication is not measured: the paper names it, its code has none.",
    ),
)


def measure(run: Run) -> None:
    """Force languages by both operations, and switch languages off one after the other."""
    neurons = ns.detect(run.counts(), "lape", rate=RATE)
    prompts = begun(run.heldout(run.few(120, 12), CORE))
    common = {
        "data": {"prompts": prompts},
        "generation": {"do_sample": True, "temperature": 0.8, "top_k": 50},
    }
    shares: dict[str, dict[tuple[str, str], float]] = {}
    for name in ("add", "set"):
        # As in the paper: on the activation, before it is multiplied with the other half of a gate.
        chosen = neurons.replace(operation={"name": name, "value": "mean", "site": "mlp.act"})
        # Replacement is a comparison with addition, not with chance: it needs no random neurons.
        report = run.evaluate(
            name,
            chosen,
            [{"name": "forcing", "items": run.few(3, 1), "tokens": run.few(24, 4)}],
            controls=f"none,random:{run.seeds}" if name == "add" else "none",
            **common,
        )
        entry = report.task("forcing")["treatments"]["neurons"]
        table = next(block for block in entry["blocks"] if block["kind"] == "matrix")
        shares[name] = {
            (left, to): value
            for left, row in zip(table["rows"], table["values"], strict=True)
            for to, value in zip(table["columns"], row, strict=True)
            if left != to and value is not None
        }
        if name == "add":
            labels = {label: each["value"] for label, each in entry["labels"].items()}
            run.reported("addition", report, "forcing", "fluent_success", by_label=labels)
    differences = [shares["add"][pair] - shares["set"][pair] for pair in shares["add"]]
    run.found(
        "against_replacement",
        sum(differences) / len(differences),
        n=len(differences),
        interval=interval(differences),
        details={"replacement": sum(shares["set"].values()) / len(shares["set"])},
    )
    report = run.evaluate(
        "fallback",
        neurons,
        [{"name": "fallback", "items": run.few(4, 1), "tokens": run.few(24, 4), "steps": 3}],
        controls=f"none,random:{run.seeds}",
        **common,
    )
    blocks = report.task("fallback")["treatments"]["neurons"]["blocks"]
    graph = next(block for block in blocks if block["kind"] == "matrix")
    steps = next(block for block in blocks if block["kind"] == "table")
    run.reported("fallback", report, "fallback", "fallback", graph=graph, steps=steps["rows"])
    english = other = 0.0
    for prompt, row in zip(graph["rows"], graph["values"], strict=True):
        for label, share in zip(graph["columns"], row, strict=True):
            if prompt != "en" and label not in (prompt, "none"):
                other += share or 0.0
                english += (share or 0.0) * (label == "en")
    count = round(other * run.few(4, 1))
    run.found("english", english / other if other else None, n=count)


if __name__ == "__main__":
    main(PAPER, measure)
