"""What the scripts of this folder share: rules, the model with its texts, and the JSON of a paper.

A script names its claims, each with the rule that decides it, and a function that measures them:

    PAPER = Paper("lape", "LAPE", "Tang et al. 2024", {"outer": Claim("…", "…", Rule(0.66))})

    def measure(run: Run) -> None:
        run.found("outer", 0.8, random=[0.4, 0.5], n=300)

    if __name__ == "__main__":
        main(PAPER, measure)

Rules stand in the scripts, so that they were there before the run; what they say goes into the
JSON with the numbers. Everything that costs minutes is kept in --work, and a script that was
stopped goes on there. --quick measures little of everything, to see that a script works: its
numbers mean nothing and go to --work. `--quick --models demo` takes the model of the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.evaluation.bootstrap import interval
from neuronsteer.evaluation.metrics.scoring import mean_nll
from neuronsteer.evaluation.readers import beginning, thinned
from neuronsteer.evaluation.reports import Report
from neuronsteer.hub.atomic_files import write_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import real_models as recipe  # noqa: E402  # the one in tools/
from ready_made_sets import POLICIES, loaded  # noqa: E402
from ready_made_texts import lines, texts_of  # noqa: E402

RESULTS = ROOT / "docs" / "reproductions"
FIGURES = ROOT / "docs" / "images" / "reproductions"
CORE = ("ar", "de", "en", "es", "fr", "ja", "ru", "zh")
SEEDS = 5
#: The model of the package, for trying.
DEMO = "demo"
#: Tokens per language that statistics are made of.
TOKENS, FEW = 18_000, 400
#: Tokens of a text whose loss is measured: long enough to have a language, and soon read.
SCORED = 32
HOLDS, PARTLY, NOT, UNMEASURED = (
    "holds here",
    "holds partly",
    "does not hold here",
    "not measured yet",
)


@dataclass(frozen=True)
class Rule:
    """When a claim holds.

    Args:
        reach: What the value must reach.
        partly: What it must reach for "partly"; default: only to be beyond every random seed.
        higher: Whether it must be at least that, or at most.
        beyond_random: Whether random neurons must not do the same.
        unit: Of the value.
    """

    reach: float
    partly: float | None = None
    higher: bool = True
    beyond_random: bool = True
    unit: str = ""

    def verdict(
        self, value: float | None, interval: Sequence[float] | None, random: Sequence[float]
    ) -> str:
        """Return one of the four verdicts."""
        if value is None:
            return UNMEASURED
        if self.beyond_random and not random:
            raise ValueError("The rule compares with random neurons, but none were measured.")
        sign = 1 if self.higher else -1
        nearest = interval[0 if self.higher else 1] if interval else value
        others = max((sign * each for each in random), default=-np.inf)
        reached = sign * value >= sign * self.reach
        near = reached or (
            self.beyond_random if self.partly is None else sign * value >= sign * self.partly
        )
        if not self.beyond_random:
            return HOLDS if reached else PARTLY if near else NOT
        if reached and sign * nearest > others:
            return HOLDS
        return PARTLY if near and sign * value > others else NOT

    def __str__(self) -> str:
        sign, unit = ("≥" if self.higher else "≤"), f" {self.unit}" if self.unit else ""
        text = f"holds: {sign} {self.reach:g}{unit}"
        if self.beyond_random:
            text += ", the interval beyond every random seed"
        if self.partly is not None:
            text += f"; partly: {sign} {self.partly:g}{unit}"
            text += ", the value beyond every random seed" * self.beyond_random
        elif self.beyond_random:
            text += "; partly: the value beyond every random seed"
        return text


@dataclass(frozen=True)
class Claim:
    """What a paper says, how it is measured here, and the rule that decides."""

    says: str
    measured: str
    rule: Rule


@dataclass(frozen=True)
class Paper:
    """A paper: the name of its files, and its claims."""

    name: str
    title: str
    reference: str
    claims: Mapping[str, Claim]
    models: tuple[str, ...] = ("gemma",)
    notes: tuple[str, ...] = ()


class Run:
    """One paper on one model.

    Attributes:
        name: Of the model, as `tools/real_models.py` calls it.
        quick: Whether only to see that it works.
    """

    def __init__(self, paper: Paper, name: str, options: argparse.Namespace) -> None:
        self.paper, self.name, self.quick = paper, name, bool(options.quick)
        self.data: Path = options.data
        self.work = options.work / name
        self.rows: dict[str, dict[str, Any]] = {}
        self.figures: dict[str, str] = {}
        self._figures = self.work / "figures" if self.quick else FIGURES

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return demo() if self.name == DEMO else loaded(self.name)

    @property
    def model(self) -> Any:
        """The model."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._loaded[1]

    def few(self, full: int, quick: int = 2) -> int:
        """Return a number of items: `full`, or `quick` where nothing but that it works is asked."""
        return quick if self.quick else full

    def say(self, what: str) -> None:
        """Tell what is being done."""
        print(f"{self.paper.name}, {self.name}: {what}", file=sys.stderr, flush=True)

    # --- what is read ----------------------------------------------------------------------------

    def texts(self, labels: Iterable[str] = CORE, tokens: int | None = None) -> dict[str, Any]:
        """Return texts to find neurons in: everyday sentences and books, about so many tokens."""
        size = self.few(TOKENS, FEW) if tokens is None else tokens
        return {label: texts_of(self.data, label, self.tokenizer, size) for label in labels}

    def heldout(
        self, count: int, labels: Iterable[str] = CORE, tokens: int | None = None
    ) -> dict[str, list[str]]:
        """Return texts of no set and no statistics; with `tokens`, only their first ones."""
        folder = self.data / "heldout"
        found = {label: thinned(lines(folder / f"{label}.txt.xz"), count) for label in labels}
        return {label: [self.cut(text, tokens) for text in some] for label, some in found.items()}

    def cut(self, text: str, tokens: int | None) -> str:
        """Return the first tokens of a text."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
        return self.tokenizer.decode(ids).rstrip("\ufffd")

    def pairs(self, count: int, labels: Iterable[str] = CORE) -> dict[str, list[dict[str, str]]]:
        """Return pairs of Tatoeba, English and another language, whose texts are in no statistics.

        `texts` takes them from the beginning; these are from the end.
        """
        found: dict[str, list[dict[str, str]]] = {}
        for label in labels:
            if label != "en":
                file = self.data / "parallel" / f"{label}.jsonl.xz"
                rows = [row for row in map(json.loads, lines(file)) if row["source"] == "tatoeba"]
                found[label] = [{"en": r["en"], "text": r["text"]} for r in rows[-count:]]
        return found

    # --- what is kept ----------------------------------------------------------------------------

    def statistics(
        self, key: str, texts: Callable[[], Mapping[str, Any]], needs: Any, **options: Any
    ) -> ns.Stats:
        """Return statistics, which are collected if they are not in --work; scripts share them."""
        folder = self.work / "statistics" / key
        if folder.exists():
            return ns.Stats.from_pretrained(folder)
        self.say(f"statistics {key}")
        return ns.collect(
            self.model,
            self.tokenizer,
            texts(),
            needs=needs,
            policy=POLICIES.get(self.name),
            out=folder,
            checkpoint=folder.with_suffix(".unfinished"),
            resume=True,
            progress=False,
            **options,
        )

    def counts(self) -> ns.Stats:
        """Return how often every neuron is active, and its mean, in the core languages."""
        return self.statistics("counts", self.texts, ["count@mlp.act", "sum@mlp.act"])

    def evaluate(self, key: str, neurons: ns.NeuronSet, tasks: Any, **options: Any) -> Report:
        """Return the report of `ns.evaluate`, beside random neurons, which goes on where it was."""
        known = [neurons.fingerprint, dict(neurons.operation), tasks, options]
        plan = json.dumps(known, sort_keys=True, default=str)
        digest = hashlib.sha256(plan.encode()).hexdigest()[:12]
        folder = self.work / self.paper.name / f"{key}-{digest}"
        if (folder / "report.json").is_file():
            return Report.load(folder)

        def tell(what: str, done: int, total: int) -> None:
            self.say(f"{key}: {what}, {done} of {total}")

        return ns.evaluate(
            self.model,
            neurons,
            tokenizer=self.tokenizer,
            tasks=tasks,
            **{"controls": f"random:{self.seeds}", **options},
            out=folder,
            resume=True,
            progress=tell,
        )

    @property
    def seeds(self) -> int:
        """How many sets of random neurons take part."""
        return self.few(SEEDS)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what `make()` returned, plain JSON, when it was first asked for in --work."""
        file = self.work / self.paper.name / f"{key}.json"
        if not file.exists():
            self.say(key)
            write_json(file, make())
        return json.loads(file.read_text(encoding="utf-8"))

    def lens(
        self, texts: Mapping[str, Any], limit: int
    ) -> tuple[dict[tuple[str, int, str], float], dict[str, Any]]:
        """Return what the logit lens reads: shares by (label, layer, language), and facts."""

        def read() -> dict[str, Any]:
            given = (self.model, self.tokenizer, texts)
            found = ns.analyze("logit_lens", *given, limit=limit, max_length=24)
            self.figure("lens", "Language of the likeliest next tokens by layer", found)
            return {"rows": found.records(), "facts": dict(found.facts), "figures": self.figures}

        found = self.once(f"lens-{limit}", read)
        self.figures |= found["figures"]
        share = {(r["label"], r["layer"], r["language"]): r["share"] for r in found["rows"]}
        return share, found["facts"]

    def losses(self, texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Return nats per token per label, as the model is now."""
        return {label: mean_nll(self.model, self.tokenizer, some) for label, some in texts.items()}

    # --- several sets at once --------------------------------------------------------------------

    def perplexity(
        self, key: str, sets: Sequence[ns.NeuronSet], texts: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Return the perplexity matrix with the neurons of several sets off at once.

        `evaluate` takes one set, which is about one site. Labels that no set has neurons of are
        left out of what is switched off, not of what is read.

        Args:
            key: What tells this measurement from others.
            sets: Sets of different sites.
            texts: What is read, per label.
        """
        scorer: Any = ns.metrics.metric("perplexity_matrix")
        labels = [name for name in texts if any(each.counts.get(name) for each in sets)]

        def measured() -> dict[str, Any]:
            with ns.attach(self.model, list(sets)) as steer:
                score = scorer.measure(
                    self.model, self.tokenizer, texts, steer, labels=labels, batch_size=32
                )
            rise = {
                off: {on: cell["delta_nll"] for on, cell in row.items()}
                for off, row in score.details["matrix"].items()
            }
            return {"rise": rise, "values": dict(score.values), "n": score.n}

        known = [(each.fingerprint, each.site) for each in sets]
        digest = hashlib.sha256(json.dumps([known, texts]).encode()).hexdigest()[:12]
        return self.once(f"{key}-{digest}", measured)

    # --- what is found ---------------------------------------------------------------------------

    def found(
        self,
        claim: str,
        value: float | None,
        *,
        n: int,
        interval: Sequence[float] | None = None,
        random: Sequence[float] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what a claim's number is; the rule decides.

        Args:
            claim: Its name.
            value: Its number.
            n: Of how many items.
            interval: Its bootstrap interval.
            random: The same number of every random set.
            details: What else is worth keeping: numbers by language, layers, examples.
        """
        rule = self.paper.claims[claim].rule
        self.rows[claim] = {
            "value": value,
            "interval": None if interval is None else list(interval),
            "n": n,
            "random": list(random),
            "verdict": rule.verdict(value, interval, random),
            "details": dict(details or {}),
        }

    def located(self, claim: str, neurons: ns.NeuronSet, layers: Iterable[int]) -> None:
        """Note which share of a set is in some layers, beside neurons drawn from all layers.

        Random neurons elsewhere are matched by layer, which leaves nothing to compare layers with.
        """
        chosen = torch.tensor(list(layers))
        widths = torch.tensor(neurons.width_per_layer, dtype=torch.float64)
        random: list[float] = []
        for seed in range(self.seeds):
            draw = torch.Generator().manual_seed(seed)
            layer = torch.multinomial(widths, len(neurons), replacement=True, generator=draw)
            random.append(float(torch.isin(layer, chosen).double().mean()))
        inside = torch.isin(neurons.layer, chosen).double().tolist()
        self.found(
            claim,
            sum(inside) / len(inside),
            n=len(inside),
            interval=interval(inside),
            random=random,
            details={
                "counts": neurons.counts,
                "by_label": ns.analyze("layers", neurons).facts["labels"],
            },
        )

    def compared(self, claim: str, values: Sequence[Sequence[float]], **details: Any) -> None:
        """Note the mean of the first values, those of the set; the rest are those of each seed."""
        if not values or not all(values):
            self.unmeasured(claim, "no neurons were found to measure it with", **details)
            return
        own, *random = map(list, values)
        spread = interval(own)
        self.found(
            claim,
            sum(own) / len(own),
            n=len(own),
            interval=spread,
            random=[sum(each) / len(each) for each in random],
            details=details,
        )

    def unmeasured(self, claim: str, why: str, **details: Any) -> None:
        """Note why a claim could not be measured, in words that the page shows."""
        self.found(claim, None, n=0, details={"why": why, **details})

    def reported(
        self,
        claim: str,
        report: Report,
        task: str,
        value: str,
        minus: float = 0.0,
        **details: Any,
    ) -> None:
        """Note a number of a report, with its interval and that of its random sets.

        Args:
            claim: What it decides.
            report: Where it is.
            task: The experiment.
            value: The name of the number.
            minus: What is taken off all of these, such as the same number without steering.
            **details: What else is worth keeping.
        """
        entry = report.task(task)["treatments"]
        own, random = entry["neurons"]["values"][value], entry.get("random", {})
        other = random.get("values", {}).get(value, {})
        # Of one seed there is a value only; of several, the lowest and the highest decide.
        ends = [other[k] for k in ("low", "high", "value") if other.get(k) is not None]
        self.found(
            claim,
            None if own["value"] is None else own["value"] - minus,
            n=entry["neurons"]["n"],
            interval=[end - minus for end in own["interval"]] if own["interval"] else None,
            random=[end - minus for end in ends],
            details={"random_mean": other.get("value"), "seeds": random.get("seeds"), **details},
        )

    def figure(self, name: str, caption: str, result: Any) -> None:
        """Write a figure: that of an analysis, or one that was drawn already."""
        file = self._figures / f"{self.paper.name}-{self.name}-{name}.svg"
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn = result.plot() if hasattr(result, "plot") else result
        drawn.savefig(file)
        self.figures[file.name] = caption


def demo() -> tuple[Any, Any]:
    """Return the model of the package and its tokenizer."""
    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer


def rank_correlation(left: Mapping[str, float], right: Mapping[str, float]) -> float | None:
    """Return Spearman's correlation of two numbers per name; `None` where one never varies."""
    ranks: list[np.ndarray] = []
    for numbers in (left, right):
        _, place, count = np.unique(
            [numbers[name] for name in left], return_inverse=True, return_counts=True
        )
        # Equal numbers get the mean of their ranks.
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    if any(len(set(each.tolist())) < 2 for each in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def fine_tune(model: Any, tokenizer: Any, texts: Sequence[str], rate: float) -> None:
    """Train what of a model is not frozen on texts, once through, eight at a time."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for start in range(0, len(texts), 8):
        batch = tokenizer(
            list(texts[start : start + 8]), return_tensors="pt", padding=True, padding_side="right"
        )
        ids, mask = batch["input_ids"][:, :96], batch["attention_mask"][:, :96]
        labels = ids.masked_fill(mask == 0, -100)
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def begun(texts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the beginnings of texts, as prompts, where there is more to come."""
    return {
        label: [cut for each in some if (cut := beginning(each, label))]
        for label, some in texts.items()
    }


def documents(texts: Iterable[str], tokenizer: Any, tokens: int, count: int) -> list[str]:
    """Return documents of at least so many tokens, each of texts that follow each other.

    Fewer than `count` where there is no more text.
    """
    found: list[str] = []
    part: list[str] = []
    for text in texts:
        if len(found) == count:
            break
        part.append(text)
        document = " ".join(part)
        if len(tokenizer(document, add_special_tokens=False)["input_ids"]) >= tokens:
            found.append(document)
            part = []
    return found


def write_json(file: Path, content: Any) -> None:
    """Write a file at once or not at all."""
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, lambda path: path.write_text(text, encoding="utf-8"))


def main(paper: Paper, measure: Callable[[Run], None]) -> None:
    """Measure a paper on its models, and write what was found."""
    parser = argparse.ArgumentParser(description=f"{paper.title}: {paper.reference}.")
    default = os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--models", nargs="+", default=list(paper.models))
    parser.add_argument("--work", type=Path, help="default: runs/papers, or runs/papers_quick")
    parser.add_argument("--quick", action="store_true", help="see that it works, nothing more")
    parser.add_argument("--again", action="store_true", help="also where there is a result")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"there is no folder {options.data} with texts; give one with --data")
    options.work = options.work or ROOT / "runs" / ("papers_quick" if options.quick else "papers")
    file = (options.work if options.quick else RESULTS) / f"{paper.name}.json"
    claims = {
        key: {"says": each.says, "measured": each.measured, "rule": str(each.rule)}
        for key, each in paper.claims.items()
    }
    head = {"title": paper.title, "reference": paper.reference, "notes": list(paper.notes)}
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    # Results that were decided by other rules are measured again.
    models = before.get("models", {}) if before.get("claims") == claims else {}
    for name in options.models:
        if name in models and not options.again:
            print(f"{paper.name}, {name}: is in {file.name} already; --again measures it again.")
        elif name == DEMO and not options.quick:
            print(f"{paper.name}: the model of the package is for --quick only.")
        elif name != DEMO and not recipe.is_complete(recipe.models_folder(), name):
            print(f"{paper.name}, {name}: not measured, not laid out; run tools/real_models.py.")
        else:
            began, run = time.monotonic(), Run(paper, name, options)
            measure(run)
            models[name] = {
                "model": name if name == DEMO else recipe.MODELS[name].hub_id,
                "found": run.rows,
                "figures": run.figures,
                "minutes": round((time.monotonic() - began) / 60, 1),
            }
            write_json(file, {**head, "claims": claims, "models": models})
            run.say(", ".join(f"{key}: {row['verdict']}" for key, row in run.rows.items()))
