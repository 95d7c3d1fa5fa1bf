"""Which neurons, operation and strength steer the demo model best: success × damage.

    python benchmarks/demo_sweep.py --stats STATS --heldout HELDOUT [--model demo] [--prompts 48]

Prints the frontier that the card shows. `forced` is the mean share of English prompts continued in
the target language and its worst target; `switch` the same from six tokens after a switch in the
middle; `distinct` the lowest share of different character 6-grams and `perplexity` that of held-out
text of the target language, mean and worst, both relative to the unsteered model. The text is the
part that demo_quality.py does not measure on. STATS is what examples/train_demo_model/
make_neurons.py keeps with --stats.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from pathlib import Path

from demo_quality import Identifier, ModelUnderTest, distinct

import neuronsteer as ns
from neuronsteer.cli.models import load_model

STD = {"source": "en", "normalise": "std"}
FIRST = {**STD, "layers": "0-1"}
GRID = [
    # All layers, the difference of means added: what a larger share buys and costs.
    *({**STD, "rate": rate, "factor": 1.0} for rate in (0.1, 0.05, 0.01)),
    # The other layers alone do nothing: the language is decided in the first.
    {**STD, "rate": 0.1, "factor": 1.0, "layers": "2-5"},
    *({**FIRST, "rate": rate, "factor": 1.0} for rate in (0.1, 0.05, 0.01)),
    # Pulled, from gently to hard.
    *(
        {**FIRST, "rate": rate, "share": share, "factor": factor}
        for rate in (0.05, 0.02, 0.01, 0.005)
        for share, factor in ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0), (1.0, 1.5))
    ),
    {**FIRST, "source": "others", "rate": 0.02, "share": 0.8, "factor": 1.0},
    {**FIRST, "normalise": "none", "rate": 0.02, "share": 0.6, "factor": 0.8},
    {"method": "lape", "rate": 0.01},
    {"method": "lape", "rate": 0.05},
]


def row(
    tested: ModelUnderTest,
    identifier: Identifier,
    neurons: ns.NeuronSet,
    targets: list[str],
    base: dict,
) -> str:
    """Return the figures of one set, as cells of the table."""
    forced, switch = dict.fromkeys(targets, 0.0), dict.fromkeys(targets, 0.0)
    ratios, perplexities = [], []
    with ns.attach(tested.model, neurons) as steer:
        for target in targets:
            if not neurons.counts[target]:
                continue
            steer.to(target)
            texts = tested.texts(tested.generate())
            forced[target] = identifier.share(texts, target)
            ratios.append(distinct(texts) / base["distinct"])
            change = tested.loss(target, blocks=8) - base["losses"][target]
            perplexities.append(math.exp(change))
            if neurons.counts["en"]:
                switch[target] = tested.switched(steer, identifier, "en", target)

    def share(found: dict[str, float]) -> str:
        worst = min(found, key=found.__getitem__)
        return f"{statistics.fmean(found.values()):.1%} ({worst} {found[worst]:.0%})"

    return (
        f"{share(forced)} | {share(switch)} | {min(ratios):.2f} "
        f"| {statistics.fmean(perplexities):.3f} ({max(perplexities):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stats", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--targets", default="de,fr,es,zh,ja,ru,ar")
    parser.add_argument("--filter", default="", help="a regular expression for what to run")
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    stats = ns.Stats.from_pretrained(arguments.stats)
    targets = arguments.targets.split(",")
    identifier = Identifier(list(stats.labels))
    tested = ModelUnderTest(
        model, tokenizer, arguments.heldout, arguments.prompts, seed=0, part="tune"
    )
    base = {
        "distinct": distinct(tested.texts(tested.generate())),
        "losses": {target: tested.loss(target, blocks=8) for target in targets},
    }
    print("| neurons | forced (lowest) | switch (lowest) | distinct | perplexity (worst) |")
    print("|---|---|---|---|---|", flush=True)
    for spec in GRID:
        about = ", ".join(f"{key} {value}" for key, value in spec.items())
        if re.search(arguments.filter, about):
            parameters = dict(spec)
            method = parameters.pop("method", "effect")
            neurons = ns.detect(stats, method, **parameters)
            print(f"| {about} | {row(tested, identifier, neurons, targets, base)} |", flush=True)


if __name__ == "__main__":
    main()
