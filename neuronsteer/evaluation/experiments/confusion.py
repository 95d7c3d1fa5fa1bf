"""Language confusion: does steering keep replies in the language of the prompt?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..bootstrap import mean
from ..metrics import Metric, Score, confusion_benchmark, metric
from ..readers import EvaluationData, thinned
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import NONE, ModelUnderTest

_BENCHMARK = "lcb"
_RATES = ("line_pass_rate", "word_pass_rate")


@EXPERIMENTS.register("confusion")
@dataclass(frozen=True)
class Confusion(Experiment):
    """Longer texts from prompts in every language, steered to that same language.

    With the data `lcb`, the Language Confusion Benchmark, prompts are its own, and so are the rules
    of scoring: its monolingual prompts are in the language, the crosslingual ones ask for it.

    Args:
        items: Prompts per language; of the benchmark, per task, source and language.
        tokens: New tokens per prompt.
    """

    name: ClassVar[str] = "confusion"
    title: ClassVar[str] = "Language confusion"
    question: ClassVar[str] = "Steered to the prompt's own language, does the model stay in it?"
    definition: ClassVar[str] = (
        "Harmonic mean of two shares: replies without a line in another language, and, of those "
        "not in Latin script, replies without a foreign word. Compare with no steering: what "
        "counts is whether drifting became rarer."
    )
    paper: ClassVar[str] = "Marchisio et al. 2024, Understanding and Mitigating Language Confusion"
    primary: ClassVar[str] = "language_confusion"
    units: ClassVar[Mapping[str, str]] = {"lines": "lines"}

    items: int = 8
    tokens: int = 64

    def kinds(self, data: EvaluationData) -> tuple[str, ...]:
        """Return the benchmark where it is given."""
        return (_BENCHMARK,) if data.has(_BENCHMARK) else self.reads

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the languages of prompts; of the benchmark, tasks and sources with languages."""
        if not tested.data.has(_BENCHMARK):
            there = tested.data.get("prompts").labels
            return [(label,) for label in there if label in tested.labels]
        # What is missing for scoring should be known before anything is generated.
        self._scorer(tested)
        rows = tested.data.get(_BENCHMARK).items
        confusion_benchmark.check_languages(list(rows))
        return list(
            dict.fromkeys(
                (row["task"], row["source"], label) for label, some in rows.items() for row in some
            )
        )

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Generate in a language from prompts in it, or that ask for it."""
        *place, label = case
        if place:
            rows = tested.data.get(_BENCHMARK).items[label]
            here = [row["prompt"] for row in rows if [row["task"], row["source"]] == place]
            prompts: list[str] = thinned(here, self.count(tested))
        else:
            prompts = tested.items("prompts", label, self.count(tested))
        target = None if tested.treatment.name == NONE else label
        made = tested.generate(
            prompts, [target] * len(prompts), self.tokens, key=(self.name, *case)
        )
        return {"texts": made}

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return the metric over all replies, and per language."""
        scorer = self._scorer(tested)
        if tested.data.has(_BENCHMARK):
            return self._benchmark(tested, scorer, found)
        whole = scorer.compute(
            [text for seen in found.values() for text in seen["texts"]],
            [case[0] for case, seen in found.items() for _ in seen["texts"]],
        )
        per = {
            case[0]: scorer.compute(seen["texts"], [case[0]] * len(seen["texts"]))
            for case, seen in found.items()
            if seen["texts"]
        }
        drifted = whole.details["drifted_to"]
        rows = [[label, count] for label, count in sorted(drifted.items(), key=lambda x: -x[1])]
        return self.finding(
            tested,
            whole.n,
            whole.values,
            {
                label: {"value": each.value, "interval": _least(each), "n": each.n}
                for label, each in per.items()
            },
            *([blocks.table("Wrong lines are in", ["language", "lines"], rows)] if rows else ()),
            intervals={**whole.intervals, "language_confusion": _least(whole)},
        )

    def _scorer(self, tested: ModelUnderTest) -> Metric:
        settings, data = tested.settings, tested.data
        more: dict[str, Any] = {}
        if data.has(_BENCHMARK):
            words = tested.once((self.name, "words"), data.english_words)
            more = {"variant": "paper", "words": words}
        return metric(
            "language_confusion",
            identifier=settings.identifier,
            languages=settings.candidates,
            floor=settings.floor,
            seed=settings.seed,
            **more,
        )

    def _benchmark(
        self, tested: ModelUnderTest, scorer: Metric, found: Mapping[Case, Observation]
    ) -> Finding:
        """Return the benchmark's means per task, and of these means that over its tasks."""
        scores: dict[str, Score] = {}
        for task in dict.fromkeys(case[0] for case in found):
            seen = [
                (text, label, source)
                for (its, source, label), each in found.items()
                if its == task
                for text in each["texts"]
            ]
            scores[task] = scorer.compute(*map(list, zip(*seen, strict=True)))
        values: dict[str, float | None] = {
            name: mean([v for each in scores.values() if (v := each[name]) is not None])
            for name in ("language_confusion", *_RATES, "unscored")
        }
        values |= {f"{task}_{name}": each[name] for task, each in scores.items() for name in _RATES}
        labels: dict[str, dict[str, Any]] = {}
        for label in dict.fromkeys(case[-1] for case in found):
            rates = [each.details["by_language"].get(label) for each in scores.values()]
            own = [rate["language_confusion"] for rate in rates if rate is not None]
            count = sum(len(seen["texts"]) for case, seen in found.items() if case[-1] == label)
            labels[label] = {"value": mean(own), "interval": None, "n": count}
        rows = [
            [task, each["source"], each["language"], *map(_percent, (each[r] for r in _RATES))]
            for task, score in scores.items()
            for each in score.details["groups"]
        ]
        columns = ["task", "source", "language", "line pass rate", "word pass rate"]
        return self.finding(
            tested,
            sum(each.n for each in scores.values()),
            values,
            labels,
            blocks.table("The benchmark's groups and their means", columns, rows),
        )


def _percent(rate: float | None) -> str:
    return "N/A" if rate is None else f"{rate:.2%}"


def _least(score: Any) -> tuple[float, float] | None:
    """Return the interval of the headline where it is the share of lines alone."""
    alone = score.values["word_pass_rate"] is None
    return replace(score, primary="line_pass_rate").interval if alone else None
