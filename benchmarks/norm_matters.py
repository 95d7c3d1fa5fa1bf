"""Does steering need the length of the state back? Vectors added with and without restoring it.

    python benchmarks/norm_matters.py                                  # gemma, all layers, layer 9
    python benchmarks/norm_matters.py --models qwen --at all=0.05,0.1,0.2 11=0.5,0.75,1

ReCoVeR (arXiv:2509.14814) adds alpha * (mean of the target - beta * mean of the source) to the
state after every layer, and scales every token's state back to the length that it had. That is not
a scale and a shift per coordinate, so the library cannot do it; without the length it is `diffmean`
with layers="all". Here both are done by plain hooks. English is left; prompts, statistics and
models are those of `benchmarks/first_look.py`.

good       share of texts that are identified as the target language (24 to choose from) and of
           whose character 6-grams at least 80 % are different
longer     how many times longer than before a token's state is after adding, median over tokens and
           layers; where the length is restored, before that
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layer_choice import HERE, common, judged, mean_of

import torch  # isort: skip  # layer_choice turns the hub off first

from neuronsteer.models import inspect
from neuronsteer.models.layer_choice import chosen_layers


@contextmanager
def added(
    model: Any, vectors: dict[int, torch.Tensor], restore: bool, longer: list[float]
) -> Iterator[None]:
    """Add vectors `[rows, width]` to the states after layers; the rows are those of the batch."""

    def hook(vector: torch.Tensor) -> Callable[..., Any]:
        def change(_module: Any, _args: Any, output: Any) -> Any:
            state = output[0] if isinstance(output, tuple) else output
            moved = state + vector[:, None]
            before, after = (x.norm(dim=-1, keepdim=True) for x in (state, moved))
            longer.append(float((after / before).median()))
            if restore:
                moved = moved * (before / after)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return change

    points = {point.layer: point.module for point in inspect(model).hook_points("resid")}
    handles = [points[n].register_forward_hook(hook(vector)) for n, vector in vectors.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def parsed(text: str) -> tuple[str, list[float]]:
    layers, _, strengths = text.partition("=")
    return layers, [float(each) for each in strengths.split(",")]


def measure(model: Any) -> None:
    stats, options, results = model.stats(), model.options, model.results
    mean = stats.mean("resid")
    target = [stats.labels.index(language) for language in model.targets]
    left = mean[stats.labels.index(common.SOURCE)]
    print(f"\n{model.name}, beta {options.beta:g}: good texts (success / distinct; longer)\n")
    print("| layers | strength | added | length restored |\n|---|---|---|---|")
    for layers, strengths in map(parsed, options.at):
        chosen = chosen_layers(layers, stats.num_layers, "--at")
        for strength in strengths:
            shown = []
            for restore in (False, True):
                vectors = {n: strength * (mean[target, n] - options.beta * left[n]) for n in chosen}
                longer: list[float] = []
                how = "restored" if restore else "added"
                key = f"{model.name} | {layers} × {strength:g}, beta {options.beta:g}, {how}"
                with added(model.model, vectors, restore, longer):
                    results.cell(key, lambda: judged(model))
                cell = results.content["cells"][key]
                if longer:
                    cell["longer"] = round(statistics.median(longer), 4)
                    results.write()
                good, right, distinct = (mean_of(cell, q) for q in ("good", "success", "distinct"))
                shown.append(f"{good:.2f} ({right:.2f} / {distinct:.2f}; × {cell['longer']:g})")
            print(f"| {layers} | × {strength:g} | {shown[0]} | {shown[1]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or HERE.parents[1] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--models", nargs="+", default=["gemma"], choices=common.recipe.MODELS)
    parser.add_argument(
        "--at",
        nargs="+",
        default=["all=0.1,0.2,0.4", "9=0.5,0.75,1"],
        metavar="LAYERS=STRENGTHS",
        help="where to add, and how much of the vector",
    )
    parser.add_argument("--beta", type=float, default=1.0, help="how much of the source to leave")
    parser.add_argument("--languages", nargs="+", default=["de", "fr", "zh", "ru"])
    parser.add_argument("--tokens", type=int, default=2000, help="per language, for statistics")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="measure again what the file has")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/norm_matters.json"))
    options = parser.parse_args()
    if not (options.data / "pretrain").is_dir():
        print(f"Not measured: no texts in {options.data}/pretrain; use --data.")
        return
    torch.set_num_threads(options.threads)
    places = ("output", "fresh", "data", "models", "at", "beta", "threads")
    settings = {name: value for name, value in vars(options).items() if name not in places}
    results = common.Results(options.output, settings, options.fresh)
    for name in options.models:
        if common.recipe.is_complete(common.recipe.models_folder(), name):
            measure(common.ModelUnderTest(name, options, results))
        else:
            print(f"{name}: not measured, because it is not laid out; run `make real`.")


if __name__ == "__main__":
    main()
