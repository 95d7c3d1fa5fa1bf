"""Does steering work on pretrained models? The table of docs/real_models.md is measured here.

    python benchmarks/real_models.py                     # a small first look
    python benchmarks/real_models.py --full              # everything: hours, resumable
    python benchmarks/real_models.py --full --models gemma --parts steering random
    python benchmarks/real_models.py --render            # docs/real_models.md from its JSON

The ready-made sets of model_cards/ steer prompts that nothing was tuned on: beginnings of texts for
a base model, questions for a chat model, which is told nothing about languages. What is left is
read off the prompt by the set itself. Sets are measured beside random neurons, as many per label
and layer and with the same values (of dense directions: the same numbers at other coordinates).

steering     every pair of eight languages; fluency and relevance as `ns.tune` defines them
random       the controls
switch       the prompt's language for twelve tokens, then another: is the text right from the
             eighth token on?
beginnings   the same on development prompts, for switches that begin more or less strongly
keep         texts that ten tokens of another language were added to: do they come back, left alone,
             kept (`steer.keep`) and steered? And is anything changed in texts that are right?
perplexity   text that is in the target already, steered there from English
methods      English to four languages: every method with its own best strength

Texts and prompts come from --data, else $NEURONSTEER_DATA, else ../shared/data. Every text that was
written is kept in --work, so that a run goes on where it stopped; what is in there of other
settings is refused. Models that `make real` has not laid out are skipped with a message.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import torch

import neuronsteer as ns
from neuronsteer.errors import NeuronSteerError
from neuronsteer.evaluation.bootstrap import wilson
from neuronsteer.evaluation.candidates import identifier_among
from neuronsteer.evaluation.continuations import continue_rows, decode, encode_prompt
from neuronsteer.evaluation.experiments._saved_cases import SavedCases
from neuronsteer.evaluation.metrics.fluency import distinct_ngrams
from neuronsteer.evaluation.metrics.scoring import text_likelihoods
from neuronsteer.evaluation.readers import beginning, thinned
from neuronsteer.evaluation.tuning.budget import Budget
from neuronsteer.evaluation.tuning.cells import best
from neuronsteer.evaluation.tuning.measurements import (
    Measurements,
    Prompt,
    Setting,
    TuningSettings,
)
from neuronsteer.evaluation.tuning.sampling import PromptSeededSampling
from neuronsteer.hub.atomic_files import write_file
from neuronsteer.languages import same

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import real_models as recipe  # noqa: E402  # the one in tools/
from ready_made_sets import SETS, loaded  # noqa: E402
from ready_made_texts import LANGUAGES, lines, questions  # noqa: E402

CORE = ("ar", "de", "en", "es", "fr", "ja", "ru", "zh")
PARTS = ("steering", "random", "switch", "perplexity", "methods", "beginnings", "keep")
SEEDS = (0, 1, 2)
#: Tokens before a switch, tokens that it may take, and tokens that are looked at.
BEFORE, DELAY, AFTER = 12, 8, 24
#: Tokens of another language that are added to a prompt, and how the text then goes on.
FOREIGN = 10
WAYS = ("alone", "keep", "to")
#: How switches may begin: strength and tokens; the last ones keep it up.
BEGINNINGS = ((1.0, 8), (1.2, 8), (1.4, 4), (1.4, 8), (1.4, 12), (1.7, 8), (1.25, 32))
TARGETS = ("de", "fr", "zh", "ru")
STRENGTHS = (0.15, 0.3, 0.5, 0.75, 1.0, 1.5)


class ModelUnderTest:
    """A model with its prompts, its sets, and the place where everything written is kept."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.model, self.tokenizer = loaded(name)
        self.chat = bool(self.tokenizer.chat_template)
        self.work = options.work / name
        self.identifier = identifier_among("lingua", LANGUAGES)
        known = self.tokenizer.get_vocab()
        # Gemma has read pages with pictures, and would put one between two sentences.
        self.suppressed = tuple(known[t] for t in ["<start_of_image>"] if t in known)
        self.texts = {
            label: lines(options.data / "heldout" / f"{label}.txt.xz")[1::2] for label in CORE
        }

    def prompts(self, half: str = "test", per_language: int | None = None) -> list[Prompt]:
        """Return prompts, languages in turn; those of the two halves are disjoint."""
        counts = {label: 12 for label in CORE} | {"en": 48}
        if self.options.quick:
            counts = {label: 2 for label in CORE}
        if per_language is not None:
            counts = {label: per_language for label in CORE}
        rows = {label: self._prompts(label, half)[:count] for label, count in counts.items()}
        longest = max(map(len, rows.values()))
        return [
            Prompt(some[i], label)
            for i in range(longest)
            for label, some in rows.items()
            if i < len(some)
        ]

    def _prompts(self, label: str, half: str) -> list[str]:
        if self.chat:
            return questions(self.options.data, label, half)
        # Tuning takes its prompts from the even lines, and reference texts are the odd ones: test
        # prompts are every other one of these, and their references are the rest.
        written = lines(self.options.data / "heldout" / f"{label}.txt.xz")
        own = written[0::4] if half == "development" else written[2::4]
        found = (beginning(text, label) for text in own)
        return [each for each in found if each]

    def measurements(
        self, neurons: ns.NeuronSet, key: str, prompts: Sequence[Prompt], seed: int, **more: Any
    ) -> Measurements:
        """Return measurements of a set that go on with what is kept under `key`."""
        settings = TuningSettings(
            seed=seed,
            max_new_tokens=48 if self.chat else 32,
            temperature=0.3 if self.chat else 0.8,
            suppress_tokens=self.suppressed,
            chat=self.chat,
            **more,
        )
        plan = {
            "set": neurons.fingerprint,
            "strengths": dict(neurons.strengths),
            "settings": {**vars(settings), "suppress_tokens": list(settings.suppress_tokens)},
            "prompts": [[prompt.text, prompt.language] for prompt in prompts],
        }
        return Measurements(
            self.model,
            self.tokenizer,
            neurons,
            prompts,
            {label: thinned(some, 60) for label, some in self.texts.items()},
            self.identifier,
            settings,
            SavedCases(self.work / key, plan, resume=True),
            Budget(None),
            batch_size=128,
        )

    # --- parts ----------------------------------------------------------------------------------

    def steering(self, kind: str, neurons: ns.NeuronSet) -> dict[str, Any]:
        """Return success over all pairs and seeds, fluency and relevance on part of the texts."""
        seeds = SEEDS[: 1 if self.options.quick else self.options.seeds]
        hits: dict[tuple[str, str], list[bool]] = {}
        cells: dict[str, Any] = {}
        for seed in seeds:
            prompts = self.prompts()
            measured = self.measurements(neurons, f"{kind}-{seed}", prompts, seed)
            measured.write_references(CORE)
            self._generate(measured)
            for label in CORE:
                setting = Setting(label, 1.0)
                if seed == seeds[0]:
                    for block in range(len(measured.blocks(label))):
                        measured.compare_with_natural([setting], block)
                    measured.retrieve([setting], 0)
                    found = {"intervals": measured.intervals(setting)}
                    cells[label] = measured.cell(setting).to_dict() | found
                for item in measured.items(setting):
                    pair = (prompts[item["prompt"]].language or "", label)
                    hits.setdefault(pair, []).append(same(item["identified"], label))
                self.say(f"{kind}, seed {seed}, {label}")
        everything = [hit for some in hits.values() for hit in some]
        english = [hit for (left, _), some in hits.items() if left == "en" for hit in some]
        return {
            "neurons": neurons.counts,
            "strengths": dict(neurons.strengths),
            "texts": len(everything),
            "seeds": len(seeds),
            "success": with_interval(everything),
            "from English": with_interval(english),
            "pairs": {
                f"{left} → {label}": [sum(some), len(some)] for (left, label), some in hits.items()
            },
            "labels": cells,
            "unsteered": measured.unsteered(),
        }

    def _generate(self, measured: Measurements) -> None:
        """Write the texts of all labels; together, because large batches cost less."""
        for block in range(max(len(measured.blocks(label)) for label in CORE)):
            measured.generate([Setting(label, 1.0) for label in CORE], block)

    def random(self, kind: str, neurons: ns.NeuronSet) -> dict[str, Any]:
        """Return success of random neurons: three drawings, each with a third of the prompts."""
        hits: list[bool] = []
        examples: list[str] = []
        for seed in SEEDS[:1] if self.options.quick else SEEDS:
            control = neurons.random_like(seed).replace(strengths=neurons.strengths)
            prompts = self.prompts()[seed :: len(SEEDS)]
            measured = self.measurements(control, f"{kind}-random-{seed}", prompts, seed)
            self._generate(measured)
            for label in CORE:
                items = measured.items(Setting(label, 1.0))
                hits += [same(item["identified"], label) for item in items]
                examples += [item["text"] for item in items[:1]]
            self.say(f"{kind}, random {seed}")
        return {"texts": len(hits), "success": with_interval(hits), "examples": examples[:8]}

    def switch(self, kind: str, neurons: ns.NeuronSet) -> dict[str, Any]:
        """Return how many texts are right from the eighth token after a switch on."""
        return self._switched(f"{kind}-switch", neurons, "test")

    def beginnings(self, kind: str, neurons: ns.NeuronSet) -> list[dict[str, Any]]:
        """Return what becomes of switches that begin more or less strongly."""
        found: list[dict[str, Any]] = []
        for strength, tokens in BEGINNINGS:
            begins = {"strength": strength, "tokens": tokens}
            key = f"{kind}-beginning-{strength}-{tokens}"
            result = self._switched(key, neurons.replace(switch=begins), "development")
            found.append(begins | result)
            self.say(f"{begins}: {result['right']['mean']:.3f}, distinct {result['distinct']:.3f}")
        return found

    def _switched(self, key: str, neurons: ns.NeuronSet, half: str) -> dict[str, Any]:
        prompts = self.prompts(half, per_language=1 if self.options.quick else 3)
        rows = [(p, label) for p in prompts for label in CORE if label != p.language]
        saved = SavedCases(
            self.work / key,
            {
                "set": neurons.fingerprint,
                "strengths": dict(neurons.strengths),
                "switch": neurons.switch,
                "prompts": [prompt.text for prompt in prompts],
                "tokens": [BEFORE, DELAY, AFTER],
            },
            resume=True,
        )
        total = BEFORE + DELAY + AFTER
        with ns.attach(self.model, neurons) as steer:
            for begin in range(0, len(rows), 56):
                if saved.get("switch", "", (str(begin),)) is not None:
                    continue
                some = rows[begin : begin + 56]
                steer.to([ns.Schedule(p.language, (BEFORE, label)) for p, label in some])
                sampling = PromptSeededSampling(
                    [prompt.text for prompt, _ in some], total, 0.3 if self.chat else 0.8
                )
                ids = continue_rows(
                    self.model,
                    self.tokenizer,
                    [encode_prompt(self.tokenizer, p.text, self.chat) for p, _ in some],
                    total,
                    do_sample=False,
                    min_new_tokens=total,
                    suppress_tokens=list(self.suppressed) or None,
                    logits_processor=[sampling],
                )
                written = decode(self.tokenizer, [row[BEFORE + DELAY :] for row in ids])
                whole = decode(self.tokenizer, ids)
                guesses = [guess.label for guess in self.identifier.identify(written)]
                found = [
                    {"from": p.language, "to": label, "identified": guess, "text": text}
                    for (p, label), guess, text in zip(some, guesses, whole, strict=True)
                ]
                saved.put("switch", "", (str(begin),), {"found": found})
                self.say(f"{key}, {begin + len(some)} of {len(rows)}")
        items = [item for each in saved.of("switch", "").values() for item in each["found"]]
        hits = [same(item["identified"], item["to"]) for item in items]
        varied = [distinct_ngrams(item["text"]) for item in items]
        return {
            "texts": len(items),
            "right": with_interval(hits),
            "distinct": statistics.mean(each for each in varied if each is not None),
            "examples": items[:3],
        }

    def keep(self, kind: str, neurons: ns.NeuronSet) -> dict[str, Any]:
        """Return how many texts come back to the language of their prompt, and how many change."""
        prompts = self.prompts(per_language=1 if self.options.quick else 3)
        foreign = {label: self._prompts(label, "development") for label in CORE}
        rows = [
            (p, label, self._begun(p, foreign[label][i % 3]))
            for i, p in enumerate(prompts)
            for label in CORE
            if label != p.language
        ]
        own = [(p, p.language, encode_prompt(self.tokenizer, p.text, self.chat)) for p in prompts]
        found: dict[str, Any] = {}
        with ns.attach(self.model, neurons, tokenizer=self.tokenizer) as steer:
            for way in WAYS:
                texts, pulled = self._continued(steer, way, rows, f"{kind}-keep-{way}")
                hits = [
                    same(guess.label, p.language)
                    for guess, (p, _, _) in zip(
                        self.identifier.identify([text[1] for text in texts]), rows, strict=True
                    )
                ]
                found[way] = {
                    "right": with_interval(hits),
                    "distinct": statistics.mean(
                        each for text in texts if (each := distinct_ngrams(text[0])) is not None
                    ),
                    "pulled back": sum(pulled),
                    "examples": [text[0] for text in texts[:3]],
                }
                self.say(f"{kind}, keep: {way} {found[way]['right']['mean']:.3f}")
            plain, _ = self._continued(steer, "alone", own, f"{kind}-keep-own-alone")
            kept, pulled = self._continued(steer, "keep", own, f"{kind}-keep-own")
        changed = [a != b for a, b in zip(plain, kept, strict=True)]
        found["right texts that were changed"] = with_interval(changed)
        found["tokens of right texts that were steered"] = sum(pulled)
        found["texts"] = len(rows)
        return found

    def _begun(self, prompt: Prompt, foreign: str) -> list[int]:
        ids = self.tokenizer(" " + foreign, add_special_tokens=False)["input_ids"]
        return encode_prompt(self.tokenizer, prompt.text, self.chat) + ids[:FOREIGN]

    def _continued(
        self, steer: ns.Steerer, way: str, rows: Sequence[Any], key: str
    ) -> tuple[list[tuple[str, str]], list[int]]:
        """Return each text, its end that is judged, and how many of its tokens were steered."""
        total = DELAY + AFTER
        begun = [ids for _, _, ids in rows]
        saved = SavedCases(
            self.work / key,
            {"set": steer.sets[0].fingerprint, "switch": steer.sets[0].switch, "ids": begun},
            resume=True,
        )
        for begin in range(0, len(rows), 56):
            if saved.get("keep", way, (str(begin),)) is not None:
                continue
            some = rows[begin : begin + 56]
            targets = [p.language for p, _, _ in some]
            if way == "keep":
                steer.keep(targets)
            elif way == "to":
                steer.to([ns.Schedule(label) for label in targets], source=None)
            else:
                steer.off()
            sampling = PromptSeededSampling(
                [f"{p.text} {label}" for p, label, _ in some], total, 0.3 if self.chat else 0.8
            )
            ids = continue_rows(
                self.model,
                self.tokenizer,
                [ids for _, _, ids in some],
                total,
                do_sample=False,
                min_new_tokens=total,
                suppress_tokens=list(self.suppressed) or None,
                logits_processor=[sampling],
            )
            pulled = [
                sum(each.tokens for each in steer.pulled_back(row)) if way == "keep" else 0
                for row in range(len(some))
            ]
            ends = decode(self.tokenizer, [row[DELAY:] for row in ids])
            texts = [list(pair) for pair in zip(decode(self.tokenizer, ids), ends, strict=True)]
            saved.put("keep", way, (str(begin),), {"texts": texts, "pulled": pulled})
        found = saved.of("keep", way)
        each = [found[case] for case in sorted(found, key=lambda case: int(case[0]))]
        return (
            [(text, end) for part in each for text, end in part["texts"]],
            [tokens for part in each for tokens in part["pulled"]],
        )

    def perplexity(self, _kind: str, neurons: ns.NeuronSet) -> dict[str, Any]:
        """Return per label how much likelier or not its natural text becomes by steering to it."""
        found: dict[str, float] = {}
        with ns.attach(self.model, neurons) as steer:
            for label in CORE:
                texts = thinned(self.texts[label], 4 if self.options.quick else 24)
                losses = []
                for target in (None, label):
                    steer.to(target, source="fr" if label == "en" else "en")
                    scored = text_likelihoods(self.model, self.tokenizer, texts, max_length=128)
                    losses.append(
                        -sum(each.logprob for each in scored) / sum(each.tokens for each in scored)
                    )
                found[label] = float(torch.tensor(losses[1] - losses[0]).exp())
        return found

    def methods(self, stats: ns.Stats) -> dict[str, Any]:
        """Return what every method does from English, at its own best strength."""
        found: dict[str, Any] = {}
        for method in ns.detectors.names():
            try:
                neurons = ns.detect(stats, method)
            except NeuronSteerError as error:
                found[method] = {"left out": str(error)}
                continue
            found[method] = self._best_of(method, neurons)
        return found

    def _best_of(self, method: str, neurons: ns.NeuronSet) -> dict[str, Any]:
        tried = [Prompt(text, "en") for text in self._prompts("en", "development")[:8]]
        tested = [Prompt(text, "en") for text in self._prompts("en", "test")[:24]]
        able = [label for label in TARGETS if neurons.counts.get(label)]
        coarse = self.measurements(neurons, f"method-{method}-development", tried, 0)
        settings = [Setting(label, s) for label in able for s in STRENGTHS]
        coarse.write_references(able)
        coarse.generate(settings, 0)
        coarse.compare_with_natural(settings, 0)
        final = self.measurements(neurons, f"method-{method}-test", tested, 0, first=24)
        final.write_references(able)
        result: dict[str, Any] = {}
        for label in able:
            cells = [coarse.cell(setting) for setting in settings if setting.label == label]
            winner = best([cell for cell in cells if cell is not None])
            assert winner is not None
            setting = Setting(label, winner.strength)
            final.generate([setting], 0)
            final.compare_with_natural([setting], 0)
            result[label] = final.cell(setting).to_dict()
        self.say(f"method {method}")
        return {"neurons": neurons.counts, "labels": result}

    def say(self, what: str) -> None:
        print(f"{self.name}: {what}", file=sys.stderr, flush=True)


def with_interval(hits: Sequence[bool]) -> dict[str, Any]:
    """Return the mean and Wilson's 95 % interval, which takes the texts as independent."""
    mean = sum(hits) / max(len(hits), 1)
    return {"mean": mean, "interval": wilson(mean, len(hits)) if hits else None}


def measured(name: str, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure all parts of a model that are asked for, and write after each."""
    tested = ModelUnderTest(name, options)
    own: dict[str, Any] = results.setdefault(name, {})
    sets = {kind: ns.NeuronSet.from_pretrained(place) for kind, place in SETS[name].items()}
    for part in options.parts:
        if part == "methods":
            stats = options.statistics / name / "stats"
            if stats.exists():
                own[part] = tested.methods(ns.Stats.from_pretrained(stats))
            else:
                print(f"{name}: no statistics at {stats}; tools/ready_made_sets.py makes them.")
        else:
            for kind in (kind for kind in options.kinds if kind in sets):
                neurons = sets[kind]
                own.setdefault(part, {})[kind] = getattr(tested, part)(kind, neurons)
                save(options.output, results)
        save(options.output, results)


def save(file: Path, results: Mapping[str, Any]) -> None:
    text = json.dumps(results, ensure_ascii=False, indent=1) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, lambda path: path.write_text(text, encoding="utf-8"))


def main() -> None:
    """Measure, or render."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--models", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS[:4]), choices=PARTS)
    parser.add_argument("--kinds", nargs="+", default=["dense", "sparse"], help="of sets")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="of steering, at most 3")
    parser.add_argument("--full", action="store_true", help="all prompts and seeds")
    parser.add_argument("--render", action="store_true", help="only write the page")
    parser.add_argument("--work", type=Path, help="default: runs/real_models, or …_quick")
    parser.add_argument("--statistics", type=Path, default=ROOT / "runs" / "ready_made")
    parser.add_argument("-o", "--output", type=Path, help="default: docs/real_models.json if full")
    options = parser.parse_args()
    options.quick = not options.full
    name = "real_models" if options.full else "real_models_quick"
    options.work = options.work or ROOT / "runs" / name
    full = ROOT / "docs" / "real_models.json"
    options.output = options.output or (full if options.full else options.work / "results.json")
    if not options.render:
        if not (options.data / "heldout").is_dir():
            print(f"Not measured: no texts in {options.data}/heldout; use --data.")
            return
        results = json.loads(options.output.read_text()) if options.output.exists() else {}
        for model in options.models:
            if recipe.is_complete(recipe.models_folder(), model):
                measured(model, options, results)
            else:
                print(f"{model}: not measured, because it is not laid out; run `make real`.")
    if options.full or options.render:
        from real_models_page import render

        page = render(json.loads(full.read_text(encoding="utf-8")))
        full.with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
