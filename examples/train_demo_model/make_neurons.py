"""From the trained demo model to its neuron sets, as they are shipped with the package.

    python make_neurons.py --model FOLDER --heldout HELDOUT --out neuronsteer/demo [--stats STATS]

The texts are the first 60 % of each language's held-out sentences, joined into documents of eight;
benchmarks/demo_quality.py takes its prompts and losses from the rest. Two sets are written: the one
that steers (`effect`, directly in OUT) and the one that describes (`lape`, in OUT/lape). The
defaults of the first were chosen by benchmarks/demo_sweep.py.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.stats import DEFAULT_NEEDS, Need

LANGUAGES = ("en", "de", "fr", "es", "zh", "ja", "ru", "ar")
SHARE = 0.6
SENTENCES = 8
MAX_TOKENS = 60_000
NAME = "neuronsteer/demo"
#: Parameters of the detector `effect` that can be given.
PARAMETERS = ("rate", "source", "normalise", "factor", "share", "layers")
#: What `neuronsteer demo` shows.
SCHEDULE = "en,16:fr,40:ja,66:ru"


def documents(heldout: Path, language: str) -> list[str]:
    """Return documents of a few consecutive sentences, as in training."""
    with lzma.open(heldout / f"{language}.txt.xz", "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    lines = lines[: int(len(lines) * SHARE)]
    # No space between sentences where the script has none between words.
    space = "" if language in ("zh", "ja") else " "
    return [space.join(lines[i : i + SENTENCES]) for i in range(0, len(lines), SENTENCES)]


def collected(model_folder: Path, heldout: Path) -> ns.Stats:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    texts = {language: documents(heldout, language) for language in LANGUAGES}
    needs = [*DEFAULT_NEEDS, Need("norm", "mlp.neuron")]
    return ns.collect(model, tokenizer, texts, needs=needs, max_tokens=MAX_TOKENS, max_length=256)


def evaluation(path: Path) -> dict:
    """Return what benchmarks/demo_quality.py measured, in the form that cards show."""
    found = json.loads(path.read_text(encoding="utf-8"))
    dataset = {"name": "held-out English prompts", "type": "neuronsteer/heldout"}
    results = []
    for label, cell in found["forced"].items():
        random = found["random"].get(label)
        controls = {} if random is None else {"random neurons": round(statistics.fmean(random), 4)}
        figures = {"forced_language": cell["success"], "perplexity_ratio": cell["perplexity"]}
        figures["distinct_6grams_ratio"] = cell["distinct"]
        if label in found["switch"]:
            figures["language_after_switch"] = found["switch"][label]
        for metric, value in figures.items():
            results.append(
                {
                    "task": "steering",
                    "label": label,
                    "metric": metric,
                    "value": round(value, 4),
                    "dataset": dataset,
                    "controls": controls if metric == "forced_language" else {},
                }
            )
    return {
        "results": results,
        "prompts": found["prompts"],
        "identifier": "lingua, eight languages",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stats", type=Path, help="kept here, and reused if it exists")
    parser.add_argument("--quality", type=Path, help="results of benchmarks/demo_quality.py")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--source", default="en")
    parser.add_argument("--normalise", default="std")
    parser.add_argument("--factor", type=float, default=1.0)
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--layers", default="0-1")
    arguments = parser.parse_args()
    if arguments.stats and arguments.stats.exists():
        stats = ns.Stats.from_pretrained(arguments.stats)
    else:
        stats = collected(arguments.model, arguments.heldout)
        if arguments.stats:
            stats.save(arguments.stats)
    chosen = {key: getattr(arguments, key) for key in PARAMETERS}
    # The folder the model was read from means nothing to anybody else.
    steering = ns.detect(stats, "effect", **chosen).replace(base_model=NAME, schedule=SCHEDULE)
    describing = ns.detect(stats, "lape", rate=0.01).replace(base_model=NAME)
    if arguments.quality:
        steering = steering.replace(evaluation=evaluation(arguments.quality))
    steering.save_pretrained(arguments.out)
    describing.save_pretrained(arguments.out / "lape")
    Console().print(steering.table(), describing.table())


if __name__ == "__main__":
    main()
