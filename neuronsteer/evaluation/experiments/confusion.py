"""Language confusion: does steering keep replies in the language of the prompt?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..metrics import metric
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import NONE, ModelUnderTest


@EXPERIMENTS.register("confusion")
@dataclass(frozen=True)
class Confusion(Experiment):
    """Longer texts from prompts in every language, steered to that same language.

    Args:
        items: Prompts per language.
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

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the languages of prompts."""
        return [(label,) for label in tested.data.get("prompts").labels if label in tested.labels]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Generate in a language from prompts in it."""
        prompts: list[str] = tested.items("prompts", case[0], self.count(tested))
        target = None if tested.treatment.name == NONE else case[0]
        made = tested.generate(
            prompts, [target] * len(prompts), self.tokens, key=(self.name, *case)
        )
        return {"texts": made}

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return the metric over all replies, and per language."""
        settings = tested.settings
        scorer = metric(
            "language_confusion",
            identifier=settings.identifier,
            languages=settings.candidates,
            floor=settings.floor,
            seed=settings.seed,
        )
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


def _least(score: Any) -> tuple[float, float] | None:
    """Return the interval of the headline where it is the share of lines alone."""
    alone = score.values["word_pass_rate"] is None
    return replace(score, primary="line_pass_rate").interval if alone else None
