"""Make the neuron sets of real models that the library comes with.

    python tools/ready_made_sets.py collect gemma   # statistics: about 20 minutes on two cores
    python tools/ready_made_sets.py make gemma      # the sets, from the statistics
    python tools/ready_made_sets.py tune gemma --kinds sparse --budget 25m

The sets are written to model_cards/; `tools/render_model_cards.py --add` makes the card, and
`benchmarks/real_models.py` measures them. Needs the models (`make real`) and the texts (--data,
else $NEURONSTEER_DATA, else ../shared/data). Everything else lies in runs/ready_made/NAME; what was
interrupted goes on when it is run again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import real_models as recipe
import torch
from ready_made_texts import LANGUAGES, TOKENS, lines, questions, texts_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.evaluation.readers import beginning, thinned
from neuronsteer.hub import SHIPPED
from neuronsteer.stats.needs import DEFAULT_NEEDS

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "model_cards"
#: Per model its sets: neurons, and dense directions of the residual stream for comparison.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "gemma": {
        "sparse": {
            "method": "effect",
            "rate": 0.05,
            "source": "any",
            "layers": "0-5",
            "share": 0.3,
            "factor": 0.4,
        },
        "dense": {"method": "diffmean"},
    },
    "qwen": {"dense": {"method": "diffmean"}},
}
#: What is not tuned label by label, because that takes hours: chosen with benchmarks/all_pairs.py.
STRENGTHS = {"qwen": 1.6}
#: How a switch begins, of dense sets: `benchmarks/real_models.py --parts beginnings`.
SWITCHES = {"gemma": {"strength": 1.4, "tokens": 8}}
#: The set that a model's name stands for is the dense one; `NAME/neurons` is in a folder of it.
SETS = {
    name: {kind: folder / "neurons" if kind == "sparse" else folder for kind in kinds}
    for name, kinds in RECIPES.items()
    for folder in [CARDS / Path(SHIPPED[name].folders[-1]).name]
}
#: What a model needs beyond the default policy. At the first token of a text qwen keeps values that
#: are hundreds of times as large as all others, whatever the language.
POLICIES: dict[str, dict[str, Any]] = {"qwen": {"skip_first": 1}}
#: Beside what `collect` takes by default: what tells massive coordinates of the residual stream.
NEEDS = [*DEFAULT_NEEDS, "sumsq@resid"]


def loaded(name: str) -> tuple[Any, Any]:
    """Return a model and its tokenizer, from where `make real` laid them out."""
    folder = recipe.models_folder() / name
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer


def collect(name: str, options: argparse.Namespace) -> ns.Stats:
    """Return the statistics of a model, which are collected if they are not there."""
    folder = options.work / name / "stats"
    if folder.exists():
        return ns.Stats.from_pretrained(folder)
    model, tokenizer = loaded(name)
    tokens: int = options.tokens
    texts = {label: texts_of(options.data, label, tokenizer, tokens) for label in LANGUAGES}
    return ns.collect(
        model,
        tokenizer,
        texts,
        needs=NEEDS,
        max_tokens=tokens,
        policy=POLICIES.get(name),
        out=folder,
        checkpoint=folder.with_suffix(".unfinished"),
        resume=True,
        progress=True,
    )


def kinds_of(name: str, options: argparse.Namespace) -> list[str]:
    """Return the kinds of sets that a model has, of those that were asked for."""
    return [kind for kind in options.kinds if kind in SETS[name]]


def make(name: str, options: argparse.Namespace) -> None:
    """Write the sets of a model, not tuned yet."""
    stats = collect(name, options)
    for kind in kinds_of(name, options):
        found = ns.detect(stats, **RECIPES[name][kind])
        kept = {key: value for key, value in found.values.items() if key == f"{found.site}.means"}
        # Nothing is selected by the scores of a dense set, and they would double its size.
        score = torch.ones_like(found.score) if kind == "dense" else found.score
        values = {key: column.half().float() for key, column in kept.items()}
        strength = STRENGTHS.get(name, 1)
        found = found.replace(
            values=values,
            score=score,
            base_model=SHIPPED[name].model,
            strengths={} if strength == 1 else dict.fromkeys(found.labels, strength),
            switch=SWITCHES.get(name, {}) if kind == "dense" else {},
        )
        found.save_pretrained(SETS[name][kind])


def tune(name: str, options: argparse.Namespace) -> None:
    """Tune the strengths of a model's sets on prompts in all twelve languages."""
    model, tokenizer = loaded(name)
    chat, data = bool(tokenizer.chat_template), options.data
    prompts, texts = {}, {}
    for label in LANGUAGES:
        written = lines(data / "heldout" / f"{label}.txt.xz")
        texts[label] = thinned(written[1::2], 60)
        if chat:
            prompts[label] = questions(data, label, "development")[:10]
        else:
            found = (beginning(text, label) for text in written[0::4])
            prompts[label] = [each for each in found if each][:10]
    for kind in kinds_of(name, options):
        place = SETS[name][kind]
        out = options.work / name / f"tuned-{kind}"
        tuning = ns.tune(
            model,
            tokenizer,
            place,
            prompts,
            texts,
            max_new_tokens=48 if chat else 32,
            temperature=0.3 if chat else 0.8,
            batch_size=96,
            # All languages take turns, so that the first round has a prompt in each other one.
            first=11,
            strengths=(0.7, 0.85, 1.0, 1.2, 1.4),
            budget=options.budget,
            out=out,
            resume=True,
            progress=True,
        )
        tuning.neurons.save_pretrained(place)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("models", nargs="+", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--kinds", nargs="+", default=["sparse", "dense"], help="of sets")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="per language, to collect")
    parser.add_argument("--budget", help="for tuning one set, such as 25m")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "ready_made")
    options = parser.parse_args()
    for name in options.models:
        STEPS[options.step](name, options)


STEPS = {"collect": collect, "make": make, "tune": tune}


if __name__ == "__main__":
    main()
