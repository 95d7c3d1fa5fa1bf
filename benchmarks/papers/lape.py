"""LAPE: where language-specific neurons are, and what is lost without them.

python benchmarks/papers/lape.py            # about a quarter of an hour on two cores; resumable
"""

from __future__ import annotations

from reproduction import CORE, SCORED, Claim, Paper, Rule, Run, main

import neuronsteer as ns

PAPER = Paper(
    "lape",
    "LAPE",
    "Tang et al. 2024, Language-Specific Neurons: The Key to Multilingual Capabilities in LLMs",
    {
        "outer": Claim(
            "Language-specific neurons are in the bottom and the top layers.",
            "share of the neurons in the first and the last quarter of the layers; random: neurons "
            "drawn from all layers",
            Rule(2 / 3),
        ),
        "margin": Claim(
            "Without a language's neurons, the model loses that language and hardly any other.",
            "rise of the loss on text of the language whose neurons are off, minus that on text of "
            "the others",
            Rule(0.5, partly=0.1, unit="nats per token"),
        ),
        "diagonal": Claim(
            "The damage is greatest in the language itself.",
            "share of languages whose own text suffers most",
            Rule(0.75, partly=0.5),
        ),
        "english": Claim(
            "English has the fewest neurons and hardly suffers.",
            "rise of the loss on English text without the neurons of English",
            Rule(0.1, higher=False, beyond_random=False, unit="nats per token"),
        ),
        "off_target": Claim(
            "Activating a language's neurons and switching others' off reduces answers in a wrong "
            "language.",
            "needs a chat model that answers in wrong languages, which this script has not yet",
            Rule(-0.1, higher=False),
        ),
    },
    notes=(
        "Neurons: `lape` with the paper's rule (1 % of all, lowest entropy of the probability of "
        "being active, 95th percentile), switched off.",
    ),
)


def measure(run: Run) -> None:
    """Find the neurons, look where they are, and switch them off."""
    neurons = ns.detect(run.counts(), "lape", rate=0.01)
    run.figure("layers", "LAPE neurons by layer", ns.analyze("layers", neurons))
    layers, quarter = range(neurons.num_layers), max(1, neurons.num_layers // 4)
    run.located("outer", neurons, [*layers[:quarter], *layers[-quarter:]])
    count = run.few(10)
    report = run.evaluate(
        "off",
        neurons,
        [{"name": "perplexity", "items": count}],
        data={"texts": run.heldout(count, CORE, SCORED)},
        batch_size=32,
    )
    entry = report.task("perplexity")["treatments"]
    rise = next(each for each in entry["neurons"]["blocks"] if "Rise" in each["title"])
    matrix = {"rows": rise["rows"], "columns": rise["columns"], "values": rise["values"]}
    run.reported("margin", report, "perplexity", "margin", matrix=matrix)
    run.reported("diagonal", report, "perplexity", "diagonal_dominance")
    if "en" in rise["rows"]:
        at = rise["values"][rise["rows"].index("en")][rise["columns"].index("en")]
        run.found("english", at, n=count, details={"neurons": neurons.counts})


if __name__ == "__main__":
    main(PAPER, measure)
