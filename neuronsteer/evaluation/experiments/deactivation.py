"""Deactivation: with a language's neurons off, does the model lose just that language?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..bootstrap import interval, mean
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import NONE, ModelUnderTest
from ._scored_texts import ScoredText


@EXPERIMENTS.register("deactivation")
@dataclass(frozen=True)
class Deactivation(Experiment):
    """Prompts in every language, with every label's neurons switched off in turn.

    Args:
        items: Prompts per language.
        tokens: New tokens per prompt.
    """

    name: ClassVar[str] = "deactivation"
    title: ClassVar[str] = "Deactivation"
    question: ClassVar[str] = (
        "With a language's neurons off, does it lose that language, and it alone?"
    )
    definition: ClassVar[str] = (
        "Specific loss: the share of replies that still continue fluently in the prompt's language "
        "when another language is off, minus that share when the prompt's own language is off. 0 "
        "if switching off its neurons does no more than switching off others'."
    )
    paper: ClassVar[str] = "Tang et al. 2024, Language-Specific Neurons"
    primary: ClassVar[str] = "specific_loss"
    units: ClassVar[Mapping[str, str]] = {"specific_loss": "change of share"}
    unsteered: ClassVar[bool] = True
    directions: ClassVar[bool] = False

    items: int = 8
    tokens: int = 32

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the labels to switch off."""
        return [(label,) for label in tested.labels]

    def cases_of_treatment(self, tested: ModelUnderTest, treatment: str) -> list[Case]:
        """Return one case where nothing is attached: nothing is off then."""
        return [("-",)] if treatment == NONE else self.cases(tested)

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Generate from prompts in every language with one label's neurons off."""
        rows = [
            (label, prompt)
            for label in tested.data.get("prompts").labels
            for prompt in tested.items("prompts", label, self.count(tested))
        ]
        items = tested.continuations(
            [prompt for _, prompt in rows],
            [case[0]] * len(rows),
            self.tokens,
            key=(self.name,),
            operation="zero",
            strength=1.0,
        )
        return {
            "items": [
                {**item, "target": label} for (label, _), item in zip(rows, items, strict=True)
            ]
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return how much more a language loses by its own neurons than by others'."""
        kept: dict[tuple[str, str], list[bool]] = {}
        every: list[ScoredText] = []
        for case, seen in found.items():
            # Where nothing was attached, the same texts stand for every label.
            for off in tested.labels if case == ("-",) else case:
                for item in seen["items"]:
                    every.append(ScoredText(item))
                    kept.setdefault((off, item["target"]), []).append(every[-1].fluent)
        prompted = list(dict.fromkeys(on for _, on in kept))
        own = [keep for (off, on), some in kept.items() if off == on for keep in some]
        rest = [keep for (off, on), some in kept.items() if off != on for keep in some]
        seed, n = tested.settings.seed, len(own)
        both = [*own, *rest]

        def loss(drawn: Any) -> float:
            # Own and other replies are drawn together; their shares are separated afterwards.
            mine = [both[i] for i in drawn if i < n]
            theirs = [both[i] for i in drawn if i >= n]
            return (sum(theirs) / len(theirs) if theirs else 0.0) - (
                sum(mine) / len(mine) if mine else 0.0
            )

        here, elsewhere = mean(own), mean(rest)
        return self.finding(
            tested,
            len(every),
            {
                "specific_loss": None if here is None or elsewhere is None else elsewhere - here,
                "kept_own": own,
                "kept_others": rest,
                "degeneration": mean([each.bad for each in every]),
            },
            {
                label: {"value": b - a, "interval": None, "n": len(kept[label, label])}
                for label in tested.labels
                if (label, label) in kept
                for a in [mean(kept[label, label])]
                for b in [mean([k for (x, y), s in kept.items() if y == label != x for k in s])]
                if a is not None and b is not None
            },
            blocks.matrix(
                "Replies that stay in the prompt's language",
                tested.labels,
                prompted,
                [[mean(kept.get((off, on), [])) for on in prompted] for off in tested.labels],
                row_name="switched off",
                column_name="prompt",
                note="Fluent replies in the column's language. Low shares belong on the diagonal.",
            ),
            intervals={"specific_loss": interval(both, loss, seed=seed, samples=300)},
        )
