"""Which share of neurons, operation and strength steer the demo model best: success × damage.

    python benchmarks/demo_sweep.py --stats STATS --heldout HELDOUT [--model demo] [--prompts 32]

Prints the frontier that the card shows. `success` is the mean share of English prompts continued in
the target language, `lowest` the worst target, `distinct` the share of different character 6-grams
and `perplexity` that of held-out text of the target language, both relative to the unsteered model.
STATS is what examples/train_demo_model/make_neurons.py keeps with --stats.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import statistics
from pathlib import Path

from demo_quality import Bench, Judge, distinct

import neuronsteer as ns
from neuronsteer.cli.models import load_model

GRID = [
    {"method": "effect", "rate": rate, "source": source, "normalise": normalise}
    for normalise, source, rate in itertools.product(
        ("std", "none"), ("en", "others"), (0.1, 0.03, 0.01, 0.003)
    )
] + [{"method": "lape", "rate": rate} for rate in (0.01, 0.05)]
#: (operation, strength)
OPERATIONS = [
    ({"name": "add", "value": "diffmean", "factor": 1.0}, 1.0),
    ({"name": "add", "value": "diffmean", "factor": 2.0}, 1.0),
    ({"name": "set", "value": "mean"}, 0.6),
    ({"name": "set", "value": "mean"}, 0.8),
    ({"name": "set", "value": "mean"}, 1.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stats", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--targets", default="de,fr,es,zh,ja,ru,ar")
    parser.add_argument("--filter", default="", help="a regular expression for what to run")
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    stats = ns.load_stats(arguments.stats)
    targets = arguments.targets.split(",")
    judge = Judge(list(stats.labels))
    bench = Bench(model, tokenizer, arguments.heldout, arguments.prompts, seed=0)
    plain = distinct(bench.texts(bench.generate()))
    losses = {target: bench.loss(target, blocks=8) for target in targets}
    print("| neurons | operation | success | lowest | distinct | perplexity (worst) |")
    print("|---|---|---|---|---|---|", flush=True)
    for spec in GRID:
        about = " ".join(str(value) for value in spec.values())
        if not re.search(arguments.filter, about):
            continue
        parameters = {key: value for key, value in spec.items() if key != "method"}
        neurons = ns.detect(stats, spec["method"], **parameters)
        have = [target for target in targets if neurons.counts[target]]
        with ns.attach(model, neurons) as steer:
            for operation, strength in OPERATIONS:
                success, ratios, perplexities = dict.fromkeys(targets, 0.0), [], []
                for target in have:
                    steer.to(target, operation=operation, strength=strength)
                    texts = bench.texts(bench.generate())
                    success[target] = judge.share(texts, target)
                    ratios.append(distinct(texts) / plain)
                    change = bench.loss(target, blocks=8) - losses[target]
                    perplexities.append(math.exp(change))
                if not have:
                    continue
                worst = min(success, key=success.__getitem__)
                amount = strength * operation.get("factor", 1.0)
                what = f"{operation['name']} {operation['value']} × {amount:g}"
                print(
                    f"| {about} | {what} | {statistics.fmean(success.values()):.1%} "
                    f"| {worst} {success[worst]:.0%} | {min(ratios):.2f} "
                    f"| {statistics.fmean(perplexities):.3f} ({max(perplexities):.3f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
