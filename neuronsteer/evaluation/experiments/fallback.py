"""Fallback: with a language off, which does the model use instead, and which after that?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ...languages import same
from ..bootstrap import mean
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import NONE, ModelUnderTest
from ._scored_texts import ScoredText


@EXPERIMENTS.register("fallback")
@dataclass(frozen=True)
class Fallback(Experiment):
    """Prompts in a language, with more and more languages switched off.

    First the prompt's own neurons are off, then also those of the language of most replies.

    Args:
        items: Prompts per language.
        tokens: New tokens per prompt.
        steps: How many languages are switched off in turn.
    """

    name: ClassVar[str] = "fallback"
    title: ClassVar[str] = "Fallback languages"
    question: ClassVar[str] = "With its language off, which language does the model use instead?"
    definition: ClassVar[str] = (
        "Share of replies that are fluent, but in another language than the prompt, once the "
        "prompt's own neurons are off."
    )
    paper: ClassVar[str] = "Gurgurov et al. 2025, Language Arithmetics"
    primary: ClassVar[str] = "fallback"
    directions: ClassVar[bool] = False
    seeds: ClassVar[int | None] = 5

    items: int = 8
    tokens: int = 32
    steps: int = 3

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the prompt languages that have neurons."""
        return [(label,) for label in tested.data.get("prompts").labels if label in tested.labels]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Switch off the prompt's language, and then the one that replies are in instead."""
        prompts: list[str] = tested.items("prompts", case[0], self.count(tested))
        off: list[str] = [case[0]]
        steps: list[dict[str, Any]] = []
        for _ in range(1 if tested.treatment.name == NONE else self.steps):
            items = [
                {**item, "target": case[0]}
                for item in tested.continuations(
                    prompts,
                    [None] * len(prompts),
                    self.tokens,
                    key=(self.name, *case),
                    away_from=off,
                )
            ]
            steps.append({"off": list(off), "items": items})
            found = Counter(
                item["identified"]
                for item in items
                if item["identified"] and not item["degenerate"]
            )
            more = [label for label, _ in found.most_common() if label in tested.labels]
            more = [label for label in more if label not in off]
            # With nothing new to switch off, the next step would be the same.
            if not more:
                break
            off.append(more[0])
        return {"steps": steps}

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return how often another language takes over, and which."""
        first = [item for seen in found.values() for item in seen["steps"][0]["items"]]
        if not first:
            raise ParameterError("Fallback needs prompts in one of the set's labels.")
        fell = [
            item["identified"] is not None and not ScoredText(item).hit and not item["degenerate"]
            for item in first
        ]
        labels = tested.labels
        matrix: list[list[float | None]] = []
        for seen in found.values():
            items = seen["steps"][0]["items"]
            given = [item["identified"] if not item["degenerate"] else None for item in items]
            matrix.append(
                [sum(same(each, label) for each in given) / len(items) for label in labels]
                + [mean([e is not None and not any(same(e, x) for x in labels) for e in given])]
                + [mean([e is None for e in given])]
            )
        return self.finding(
            tested,
            len(first),
            {
                "fallback": fell,
                "kept": mean([ScoredText(item).fluent for item in first]),
                "degeneration": mean([bool(item["degenerate"]) for item in first]),
            },
            {
                case[0]: [
                    f for f, item in zip(fell, first, strict=True) if item["target"] == case[0]
                ]
                for case in found
            },
            blocks.matrix(
                "Languages of the replies with the row's language off",
                [case[0] for case in found],
                [*labels, "others", "none"],
                matrix,
                row_name="prompt, and switched off",
                column_name="identified",
                note="A reply that stutters counts as no language.",
            ),
            blocks.table(
                "Step by step",
                ["prompt", "switched off", "identified"],
                [
                    [case[0], ", ".join(step["off"]), _shares(step)]
                    for case, seen in found.items()
                    for step in seen["steps"]
                ],
            ),
        )


def _shares(step: Mapping[str, Any]) -> str:
    found = Counter(
        "stutter" if item["degenerate"] else item["identified"] or "none" for item in step["items"]
    )
    total = sum(found.values())
    return ", ".join(f"{label} {count / total:.0%}" for label, count in found.most_common(4))
