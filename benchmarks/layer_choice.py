"""Is the layer that statistics alone choose a good one to steer at? Every layer is tried.

    python benchmarks/layer_choice.py                               # gemma, a small sweep
    python benchmarks/layer_choice.py --models gemma qwen --prompts 24 --layers 0-23
    python benchmarks/layer_choice.py --method dimensions

For every layer of the residual stream the method's vectors of that one layer are added, English
being left, and the model writes on: prompts, statistics, models and the JSON file are those of
`benchmarks/first_look.py`. The layer that `layers="auto"` chooses is marked.

good       share of texts that are identified as the target language (24 to choose from) and of
           whose character 6-grams at least 80 % are different: in the language, and no stuttering

First look, strength 0.75, one seed. gemma, 24 texts a layer, layers 0 to 17: .71 .88 .96 .96 1.00
.96 .96 .88 .88 .92 .88 .79 .83 .83 .79 .75 .67 .38; automatic 9, without a choice 8. qwen, 8 texts
a layer: 1 .50, 4 .25, 6 .50, 9 .88, 11 .88, 12 .75, 14 1.00, 16 .75, 18 .50, 22 0; automatic 9,
without a choice 11. So the automatic layer is among the good ones; these numbers do not show it to
be better than the layer in the middle, which is near it in both models.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import first_look as common

import torch  # isort: skip  # first_look turns the hub off first

import neuronsteer as ns
from neuronsteer.errors import NeuronSteerError
from neuronsteer.evaluation.metrics.fluency import distinct_ngrams
from neuronsteer.models.layer_choice import chosen_layers

HERE = Path(__file__).resolve().parent
#: Below this share of different 6-grams a short text stutters.
FLUENT = 0.8


def judged(model: Any) -> dict[str, Any]:
    """Return, per language, how many of the texts that the model writes now are good."""
    written = model.texts()
    guesses = [guess.label for guess in model.identifier.identify(written)]
    found: dict[str, Any] = {}
    for language in model.options.languages:
        rows = [k for k, target in enumerate(model.targets) if target == language]
        right = [guesses[k] == language for k in rows]
        distinct = [distinct_ngrams(written[k]) or 0.0 for k in rows]
        good = [hit and share >= FLUENT for hit, share in zip(right, distinct, strict=True)]
        found[language] = {
            "texts": len(rows),
            "success": sum(right) / len(rows),
            "distinct": round(sum(distinct) / len(rows), 3),
            "good": sum(good) / len(rows),
            "examples": [written[k] for k in rows[:2]],
        }
    return found


def mean_of(cell: dict[str, Any], quantity: str) -> float:
    each = [found[quantity] for found in cell["languages"].values()]
    return sum(each) / len(each)


def sweep(model: Any) -> None:
    stats, options = model.stats(), model.options
    title = f"The script {Path(__file__).name}"
    layers = chosen_layers(options.layers, stats.num_layers, title)
    for layer in layers:
        neurons = ns.detect(stats, options.method, layers=layer, source=common.SOURCE)
        with ns.attach(model.model, neurons) as steer:
            for strength in options.strengths:
                steer.to(model.targets, strength=strength)
                model.results.cell(f"{model.name} | {layer} × {strength:g}", lambda: judged(model))
    try:
        automatic = ns.detect(stats, options.method, layers="auto", source=common.SOURCE)
        chosen = automatic.layer.unique().tolist()
    except NeuronSteerError as error:
        print(error)
        chosen = []
    print(f"\n{model.name}, {options.method}: good texts (success / distinct), by layer:\n")
    print("| layer | " + " | ".join(f"× {strength:g}" for strength in options.strengths) + " |")
    print("|---" * (1 + len(options.strengths)) + "|")
    for layer in layers:
        shown = []
        for strength in options.strengths:
            cell = model.results.content["cells"][f"{model.name} | {layer} × {strength:g}"]
            good, right, distinct = (mean_of(cell, q) for q in ("good", "success", "distinct"))
            shown.append(f"{good:.2f} ({right:.2f} / {distinct:.2f})")
        mark = " **auto**" if layer in chosen else ""
        print(f"| {layer}{mark} | " + " | ".join(shown) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or HERE.parents[1] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--models", nargs="+", default=["gemma"], choices=common.recipe.MODELS)
    parser.add_argument("--method", default="diffmean", choices=["diffmean", "dimensions"])
    parser.add_argument("--layers", default="all")
    parser.add_argument("--languages", nargs="+", default=["de", "fr", "zh", "ru"])
    parser.add_argument("--tokens", type=int, default=2000, help="per language, for statistics")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.75, 1.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="measure again what the file has")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/layer_choice.json"))
    options = parser.parse_args()
    if not (options.data / "pretrain").is_dir():
        print(f"Not measured: no texts in {options.data}/pretrain; use --data.")
        return
    torch.set_num_threads(options.threads)
    # Layers and strengths are in the name of what was measured.
    places = ("output", "fresh", "data", "models", "layers", "strengths", "threads")
    settings = {name: value for name, value in vars(options).items() if name not in places}
    results = common.Results(options.output, settings, options.fresh)
    for name in options.models:
        if common.recipe.is_complete(common.recipe.models_folder(), name):
            sweep(common.ModelUnderTest(name, options, results))
        else:
            print(f"{name}: not measured, because it is not laid out; run `make real`.")


if __name__ == "__main__":
    main()
