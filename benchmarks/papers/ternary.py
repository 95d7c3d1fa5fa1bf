"""Ternary neurons: specific, related and general ones, where they are, and what they carry.

python benchmarks/papers/ternary.py         # about 40 minutes on two cores; resumable
"""

from __future__ import annotations

from typing import Any

from reproduction import CORE, SCORED, Claim, Paper, Rule, Run, main

import neuronsteer as ns

PAPER = Paper(
    "ternary",
    "Specific, related and general neurons",
    "Zhang et al. 2025, How does Alignment Enhance LLMs' Multilingual Capabilities? A Language "
    "Neurons Perspective",
    {
        "parts": Claim(
            "The layers fall into four parts: language neurons are many, few, many and fewer.",
            "1 if the four parts of `divisions` are so, else 0; the JSON has what they explain "
            "and what they would by chance",
            Rule(1, beyond_random=False),
        ),
        "related": Claim(
            "Related neurons carry more of a language than the specific ones alone.",
            "rise of the loss on the language's own text without specific and related neurons, "
            "minus that without the specific ones; random: the same of random neurons",
            Rule(0.2, partly=0.05, unit="nats per token"),
        ),
        "specific": Claim(
            "Without its specific neurons, the model loses the language more than others.",
            "margin of the rise of the loss, as for LAPE",
            Rule(0.1, partly=0.02, unit="nats per token"),
        ),
        "owned": Claim(
            "The published score leaves fewer selected neurons without a language than the "
            "paper's.",
            "share of selected neurons without a language, `released` minus `paper`",
            Rule(-0.05, partly=0, higher=False, beyond_random=False),
        ),
        "alignment": Claim(
            "After alignment there are fewer specific neurons, and more related and general ones.",
            "needs an alignment of this model, which no script makes yet",
            Rule(0, beyond_random=False),
        ),
    },
    notes=(
        "Neurons: `ternary`, 1 % of all, counted over plain text (the paper: over answers to "
        "problems of arithmetic).",
    ),
)


def measure(run: Run) -> None:
    """Divide the layers, and switch kinds of neurons off."""
    stats = run.counts()
    kinds: dict[str, Any] = {}
    for variant in ("paper", "released"):
        found = ns.detect(stats, "ternary", variant=variant)
        results = found.method["results"]
        kinds[variant] = results | {"orphans": found.orphans, "counts": found.counts}
    divided = ns.analyze("divisions", stats)
    facts = {key: divided.facts[key] for key in ("split", "means", "explained", "by_chance")}
    run.found("parts", float(divided.facts["follows_the_paper"]), n=stats.num_layers, details=facts)
    run.figure("divisions", "Kinds of neurons by layer", divided)
    orphans = {name: each["orphans"] / each["selected"] for name, each in kinds.items()}
    run.found(
        "owned",
        orphans["released"] - orphans["paper"],
        n=kinds["paper"]["selected"],
        details=kinds,
    )
    count = run.few(6)
    data = {"texts": run.heldout(count, CORE, SCORED)}
    rises: dict[str, dict[str, Any]] = {}
    for name in ("specific", "specific+related"):
        neurons = ns.detect(stats, "ternary", kinds=name)
        report = run.evaluate(
            name,
            neurons,
            [{"name": "perplexity", "items": count}],
            data=data,
            batch_size=32,
        )
        rises[name] = report.task("perplexity")["treatments"]
        if name == "specific":
            run.reported("specific", report, "perplexity", "margin", counts=neurons.counts)
    both, alone = rises["specific+related"], rises["specific"]

    def rise(entry: Any, kind: str = "value") -> float:
        found = entry["values"]["diagonal_delta_nll"]
        return float(found.get(kind, found["value"]))

    run.found(
        "related",
        rise(both["neurons"]) - rise(alone["neurons"]),
        n=both["neurons"]["n"],
        # The widest of what the seeds allow.
        random=[
            rise(both["random"], "high") - rise(alone["random"], "low"),
            rise(both["random"], "low") - rise(alone["random"], "high"),
        ],
    )


if __name__ == "__main__":
    main(PAPER, measure)
