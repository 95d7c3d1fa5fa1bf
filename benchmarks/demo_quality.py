"""Does the demo model change language? The figures of the demo model's card.

    python benchmarks/demo_quality.py --heldout HELDOUT [--set demo] [--prompts 200] [-o FILE.json]

Languages are identified by `lingua`, among the trained ones, on held-out English prompts:
unsteered, forced into every language, with size-matched random neurons (the control), with a switch
in the middle; plus the loss matrix of deactivating each language's neurons, and the perplexity of
the steered model on text of its own target language.

HELDOUT holds `<language>.txt.xz`, one sentence per line. Neurons are detected on the first 60 % of
each file (see examples/train_demo_model), the set's parameters are chosen by demo_sweep.py on the
next 15 %, and what this script measures comes from the last 25 %, which is used nowhere else.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from lingua import IsoCode639_1, LanguageDetectorBuilder

import neuronsteer as ns
from neuronsteer.cli.models import load_model, load_set

PROMPT_TOKENS = 12
NEW_TOKENS = 40
#: Which share of the held-out lines is for what; before these, detection.
PARTS = {"tune": (0.6, 0.75), "measure": (0.75, 1.0)}
#: What "off" may mean: silent, or doing what the neuron does in the label's source.
OFF = {"zero": {"name": "zero"}, "mean elsewhere": {"name": "set", "value": "other_mean"}}
#: A switch is measured from this many tokens after it.
GRACE = 6


def lines(heldout: Path, language: str, part: str) -> list[str]:
    """Return one part of a held-out file, evenly thinned later by whoever needs fewer."""
    with lzma.open(heldout / f"{language}.txt.xz", "rt", encoding="utf-8") as file:
        found = [line.strip() for line in file if line.strip()]
    first, last = PARTS[part]
    return found[int(len(found) * first) : int(len(found) * last)]


def thinned(items: list, count: int) -> list:
    step = max(len(items) / count, 1.0)
    return [items[int(i * step)] for i in range(min(count, len(items)))]


class Identifier:
    def __init__(self, languages: list[str]) -> None:
        codes = [getattr(IsoCode639_1, language.upper()) for language in languages]
        self._detector = LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()

    def share(self, texts: list[str], language: str) -> float:
        guesses = self._detector.detect_languages_in_parallel_of(texts)
        return sum(_code(found) == language for found in guesses) / len(texts)


def _code(language) -> str | None:
    return None if language is None else language.iso_code_639_1.name.lower()


def distinct(texts: list[str], n: int = 6) -> float:
    """Return the mean share of different character n-grams, the guard against stuttering."""
    ratios = []
    for text in texts:
        grams = [text[i : i + n] for i in range(len(text) - n + 1)]
        if grams:
            ratios.append(len(set(grams)) / len(grams))
    return statistics.fmean(ratios) if ratios else 0.0


class ModelUnderTest:
    def __init__(
        self, model, tokenizer, heldout: Path, prompts: int, seed: int, part: str = "measure"
    ) -> None:
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.heldout, self.part = heldout, part
        self.prompts = self._prompts(prompts)

    def _prompts(self, count: int) -> torch.Tensor:
        bos = self.tokenizer.bos_token_id
        rows = []
        for line in lines(self.heldout, "en", self.part):
            ids = self.tokenizer(line, add_special_tokens=False).input_ids
            if len(ids) >= PROMPT_TOKENS + 4:
                rows.append([bos, *ids[:PROMPT_TOKENS]])
        return torch.tensor(thinned(rows, count))

    def generate(self, new_tokens: int = NEW_TOKENS, batch: int = 100) -> torch.Tensor:
        """Return generated tokens `[prompts, new_tokens]`; the same seed for every condition."""
        torch.manual_seed(self.seed)
        found = []
        for ids in self.prompts.split(batch):
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=True,
                temperature=0.8,
                top_p=0.95,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            found.append(out[:, ids.shape[1] :])
        return torch.cat(found)

    def texts(self, tokens: torch.Tensor) -> list[str]:
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    def switched(self, steer, identifier: Identifier, first: str, then: str, at: int = 20) -> float:
        """Return the share of texts identified as the new language after a switch."""
        steer.to(ns.Schedule(first, (at, then)), away_from="previous")
        tokens = self.generate(at + GRACE + NEW_TOKENS)
        # A token may end inside a character: the tail is decoded on its own.
        return identifier.share(self.texts(tokens[:, at + GRACE :]), then)

    @torch.inference_mode()
    def loss(self, language: str, blocks: int = 24, length: int = 128) -> float:
        """Return nats per token on held-out text, documents of consecutive sentences."""
        ids: list[int] = []
        for line in lines(self.heldout, language, self.part):
            ids += self.tokenizer(line + " ", add_special_tokens=False).input_ids
            if len(ids) >= blocks * (length - 1):
                break
        blocks = min(blocks, len(ids) // (length - 1))
        rows = torch.tensor(ids[: blocks * (length - 1)]).view(blocks, length - 1)
        rows = torch.cat([torch.full((blocks, 1), self.tokenizer.bos_token_id), rows], 1)
        logits = self.model(rows).logits[:, :-1].float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()


def measure(
    tested: ModelUnderTest, neurons: ns.NeuronSet, languages: list[str], seeds: int, log
) -> dict:
    identifier = Identifier(languages)
    plain = tested.texts(tested.generate())
    base = {"english": identifier.share(plain, "en"), "distinct": distinct(plain)}
    log(f"unsteered: {base['english']:.1%} English, distinct {base['distinct']:.3f}")
    losses = {language: tested.loss(language) for language in languages}
    forced, switch, random = {}, {}, {}
    matrices: dict[str, dict] = {name: {} for name in OFF}
    with ns.attach(tested.model, neurons) as steer:
        for language in languages:
            steer.to(language)
            texts = tested.texts(tested.generate())
            forced[language] = {
                "success": identifier.share(texts, language),
                "distinct": distinct(texts) / base["distinct"],
                "perplexity": math.exp(tested.loss(language) - losses[language]),
            }
            log(f"{language}: {forced[language]}")
        for language in languages:
            if language == "en":
                continue
            switch[language] = tested.switched(steer, identifier, "en", language)
            log(f"switch en → {language}: {switch[language]:.1%}")
        for name, operation in OFF.items():
            for off in languages:
                steer.to(off, operation=operation)
                matrices[name][off] = {on: tested.loss(on) - losses[on] for on in languages}
        steer.off()
    for seed in range(seeds):
        with ns.attach(tested.model, neurons.random_like(seed)) as steer:
            for language in languages:
                if language == "en":
                    continue
                steer.to(language)
                share = identifier.share(tested.texts(tested.generate()), language)
                random.setdefault(language, []).append(share)
        log(f"random seed {seed}: highest {max(values[-1] for values in random.values()):.1%}")
    return {
        "prompts": len(tested.prompts),
        "unsteered": base,
        "forced": forced,
        "switch": switch,
        "deactivation": matrices,
        "random": random,
        "loss": losses,
    }


def markdown(found: dict) -> str:
    """Return the tables of the card."""
    rows = [
        "| target | forced | distinct ÷ plain | perplexity ÷ plain | switch | random (max) |",
        "|---|---|---|---|---|---|",
    ]
    for language, cell in found["forced"].items():
        switch = found["switch"].get(language)
        random = found["random"].get(language)
        rows.append(
            f"| {language} | {cell['success']:.1%} | {cell['distinct']:.2f} "
            f"| {cell['perplexity']:.3f} | {'' if switch is None else f'{switch:.1%}'} "
            f"| {'' if random is None else f'{statistics.fmean(random):.1%} ({max(random):.1%})'} |"
        )
    for name, matrix in found["deactivation"].items():
        rows += [
            "",
            "Rise of held-out loss (nats per token) on the column's language when the row's "
            f"neurons are off ({name}); bold where the row's own language suffers most:",
            "",
            "| off | " + " | ".join(matrix) + " |",
            "|---" * (len(matrix) + 1) + "|",
        ]
        for off, cells in matrix.items():
            worst = max(cells, key=cells.__getitem__)
            shown = [
                f"**{v:+.3f}**" if on == off == worst else f"{v:+.3f}" for on, v in cells.items()
            ]
            rows.append(f"| {off} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--set", dest="neurons", default="demo")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    neurons = load_set(arguments.neurons)
    start = time.perf_counter()

    def log(line: str) -> None:
        print(f"[{time.perf_counter() - start:6.0f} s] {line}", file=sys.stderr, flush=True)

    languages = [label for label in neurons.labels if neurons.counts[label]]
    tested = ModelUnderTest(model, tokenizer, arguments.heldout, arguments.prompts, arguments.seed)
    found = measure(tested, neurons, languages, arguments.seeds, log)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
