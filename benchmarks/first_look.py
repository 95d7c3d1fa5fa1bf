"""Does steering work on pretrained models? English prompts forced into other languages.

    python benchmarks/first_look.py                       # gemma and qwen, a small first look
    python benchmarks/first_look.py --models gemma --prompts 48 --random-seeds 3 --tokens 30000
    python benchmarks/first_look.py --strengths 0.5 0.75 1 --fresh

Statistics come from DATA/pretrain, the beginnings of the base model's prompts from DATA/heldout
(English), both `<language>.txt.xz` with one sentence per line; DATA is --data, else
$NEURONSTEER_DATA, else ../shared/data. A chat model is asked questions in English, and nothing
about the language is said. Every set is measured beside random neurons, as many per label and layer
and with the same values (of `diffmean`, which takes every coordinate of a layer, the control is the
vector with its coordinates in disorder).

success    share of texts that lingua takes for the target language, 24 languages to choose from
distinct   mean share of different character 6-grams within a text: stuttering makes it small

Everything measured is kept in the JSON file at once; running the same command again goes on from
there. Models that `make real` has not laid out, and missing data, are skipped with a message.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.evaluation.metrics.fluency import distinct_ngrams
from neuronsteer.evaluation.metrics.langid import Lingua
from neuronsteer.hub.atomic_files import write_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import real_models as recipe  # noqa: E402  # the one in tools/

SOURCE = "en"
#: What lingua chooses from; the neighbours of the languages that are forced are among them.
CANDIDATES = tuple(
    "en de fr zh ru es it pt ca nl af da sv nb pl cs uk be bg ja ko ar tr id".split()  # noqa: SIM905
)
#: What is attached, as arguments of `detect`: the library's defaults, and the two methods that
#: subtract the language that is left.
SETS: dict[str, dict[str, Any]] = {
    "defaults of detect": {},
    "diffmean, source en": {"method": "diffmean", "source": SOURCE},
    "effect, source en": {"method": "effect", "source": SOURCE},
}
QUESTIONS = """What should I cook for a birthday party with ten guests?
Why is the sky blue during the day and red in the evening?
How can I learn to play the guitar without a teacher?
Which three cities in Europe should I visit in spring, and why?
What is the difference between a lake and a river?
How do I remove a red wine stain from a white shirt?
Explain to a child how a plane can fly.
What are the advantages of living in a small town?
How does a refrigerator keep food cold?
What should I do when I cannot fall asleep at night?
Which exercises help against back pain?
What makes a good friend?""".splitlines()


def lines(file: Path, count: int) -> list[str]:
    """Return up to `count` lines, evenly spread, so that all of the file's sources are there."""
    with lzma.open(file, "rt", encoding="utf-8") as opened:
        found = [line.strip() for line in opened if line.strip()]
    return found[:: max(1, len(found) // count)][:count]


def texts_of(data: Path, language: str, tokens: int, tokenizer: Any) -> list[str]:
    kept, total = [], 0
    for line in lines(data / "pretrain" / f"{language}.txt.xz", max(1, tokens // 10)):
        if total >= tokens:
            break
        kept.append(line)
        total += len(tokenizer(line)["input_ids"])
    return kept


def prompts_of(data: Path, count: int, tokenizer: Any) -> list[str]:
    if tokenizer.chat_template:
        chats = [[{"role": "user", "content": question}] for question in QUESTIONS[:count]]
        return tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    longer = (line.split() for line in lines(data / "heldout" / "en.txt.xz", 8 * count))
    return [" ".join(words[:8]) for words in longer if len(words) >= 12][:count]


class ModelUnderTest:
    """A model, its prompts, and the file that results go to."""

    def __init__(self, name: str, options: argparse.Namespace, results: Results) -> None:
        folder = recipe.models_folder() / name
        self.name, self.options, self.results = name, options, results
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        found = prompts_of(options.data, options.prompts, self.tokenizer)
        self.targets = [language for language in options.languages for _ in found]
        self.encoded = self.tokenizer(
            found * len(options.languages),
            return_tensors="pt",
            padding=True,
            add_special_tokens=self.tokenizer.chat_template is None,
        )
        # Gemma has read pages with pictures, and would put one between two sentences.
        known = self.tokenizer.get_vocab()
        self.suppressed = [known["<start_of_image>"]] if "<start_of_image>" in known else None
        self.identifier = Lingua(CANDIDATES)

    def stats(self) -> Any:
        languages, tokens = (SOURCE, *self.options.languages), self.options.tokens
        folder = self.options.output.parent / f"stats-{self.name}-{'-'.join(languages)}-{tokens}"
        if folder.exists():
            return ns.Stats.from_pretrained(folder)
        data, tokenizer = self.options.data, self.tokenizer
        texts = {each: texts_of(data, each, tokens, tokenizer) for each in languages}
        kept = {"out": folder, "checkpoint": folder.with_suffix(".unfinished"), "resume": True}
        return ns.collect(self.model, tokenizer, texts, **kept)

    def texts(self) -> list[str]:
        """Return what the model writes now; the same random numbers for every condition."""
        torch.manual_seed(self.options.seed)
        count = self.options.new_tokens
        out = self.model.generate(
            **self.encoded,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=True,
            temperature=0.3 if self.tokenizer.chat_template else 0.8,
            top_k=50,  # nothing that would sort the whole vocabulary at every token
            top_p=1.0,
            suppress_tokens=self.suppressed,
        )
        written = out[:, self.encoded["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(written, skip_special_tokens=True)

    def measured(self) -> dict[str, Any]:
        written = self.texts()
        guesses = [guess.label for guess in self.identifier.identify(written)]
        found: dict[str, Any] = {}
        for language in self.options.languages:
            rows = [k for k, target in enumerate(self.targets) if target == language]
            distinct = [distinct_ngrams(written[k]) or 0.0 for k in rows]
            found[language] = {
                "texts": len(rows),
                "success": sum(guesses[k] == language for k in rows) / len(rows),
                "distinct": round(statistics.fmean(distinct), 3),
                "identified": [guesses[k] for k in rows],
                "examples": [written[k] for k in rows[:2]],
            }
        return found

    def run(self) -> None:
        self.results.cell(f"{self.name} | unsteered", self.measured)
        stats = self.stats()
        for title, arguments in SETS.items():
            found = ns.detect(stats, **arguments)
            seeds = range(self.options.random_seeds)
            random = {f"{title}: random {seed}": found.random_like(seed) for seed in seeds}
            conditions = {title: found, **random}
            for condition, neurons in conditions.items():
                with ns.attach(self.model, neurons) as steer:
                    for strength in self.options.strengths:
                        steer.to(self.targets, strength=strength)
                        key = f"{self.name} | {condition} × {strength:g}"
                        self.results.cell(key, self.measured, neurons=len(neurons))


class Results:
    """What was measured, in a file."""

    def __init__(self, file: Path, settings: dict[str, Any], fresh: bool) -> None:
        self.file = file
        self.content: dict[str, Any] = {"settings": settings, "cells": {}}
        if file.exists() and not fresh:
            earlier = json.loads(file.read_text(encoding="utf-8"))
            if earlier["settings"] != settings:
                raise SystemExit(
                    f"{file} was measured with other settings ({earlier['settings']}; now "
                    f"{settings}). Name another file with -o, or start anew with --fresh."
                )
            self.content = earlier

    def cell(self, key: str, measure: Any, **facts: Any) -> None:
        if key in self.content["cells"]:
            return
        started = time.monotonic()
        found = {"languages": measure(), **facts, "seconds": round(time.monotonic() - started, 1)}
        self.content["cells"][key] = found
        self.write()
        print(f"{key}: {found['seconds']} s", file=sys.stderr, flush=True)

    def write(self) -> None:
        text = json.dumps(self.content, ensure_ascii=False, indent=1)
        write_file(self.file, lambda path: path.write_text(text, encoding="utf-8"))

    def table(self, languages: list[str]) -> str:
        heads = ["model", "neurons and strength", "texts", *languages]
        rows = [" | ".join(heads), "|".join(["---"] * len(heads))]
        for key, cell in self.content["cells"].items():
            each = [cell["languages"][language] for language in languages]
            shown = [f"{found['success']:.2f} / {found['distinct']:.2f}" for found in each]
            rows.append(" | ".join([key, f"{each[0]['texts']} each", *shown]))
        return "\n".join(f"| {row} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--models", nargs="+", default=["gemma", "qwen"], choices=recipe.MODELS)
    parser.add_argument("--languages", nargs="+", default=["de", "fr", "zh", "ru"])
    parser.add_argument("--tokens", type=int, default=2000, help="per language, for statistics")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0])
    parser.add_argument("--random-seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="measure again what the file has")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/first_look.json"))
    options = parser.parse_args()
    if not (options.data / "pretrain").is_dir():
        print(
            f"Not measured: no texts in {options.data}/pretrain; use --data or $NEURONSTEER_DATA."
        )
        return
    places = ("output", "fresh", "data", "models")
    settings = {name: value for name, value in vars(options).items() if name not in places}
    results = Results(options.output, settings, options.fresh)
    for name in options.models:
        if recipe.is_complete(recipe.models_folder(), name):
            ModelUnderTest(name, options, results).run()
        else:
            print(f"{name}: not measured, because it is not laid out; run `make real`.")
    if results.content["cells"]:
        print("\nShare of texts in the target language / distinct 6-grams:\n")
        print(results.table(options.languages))


if __name__ == "__main__":
    main()
