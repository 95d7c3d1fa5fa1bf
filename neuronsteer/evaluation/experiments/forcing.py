"""Forcing: from a prompt in one language, does the model continue in another?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import mean
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import NONE, ModelUnderTest
from ._scored_texts import ScoredText, pick


@EXPERIMENTS.register("forcing")
@dataclass(frozen=True)
class Forcing(Experiment):
    """Prompts in every language, steered to every label.

    The headline leaves out where the prompt is in the target language already.

    Args:
        items: Prompts per language.
        tokens: New tokens per prompt.
    """

    name: ClassVar[str] = "forcing"
    title: ClassVar[str] = "Language forcing"
    question: ClassVar[str] = "Steered to a language, does the model continue in it?"
    definition: ClassVar[str] = (
        "Share of continuations that the identifier recognises as the target language and that "
        "do not stutter, over prompts in all other languages. Without steering it is the share "
        "that is in the target language anyway."
    )
    paper: ClassVar[str] = "Gurgurov et al. 2025, Language Arithmetics"
    primary: ClassVar[str] = "fluent_success"

    tokens: int = 40

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the prompt languages."""
        return [(label,) for label in tested.data.get("prompts").labels]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Generate from every prompt of a language to every target."""
        return {"items": self.texts(tested, case)[1]}

    def texts(
        self, tested: ModelUnderTest, case: Case, **options: Any
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the prompts of a language, and what was made of them, target after target.

        Args:
            tested: The model.
            case: The language.
            **options: Of `ModelUnderTest.continuations`.
        """
        prompts: list[str] = tested.items("prompts", case[0], self.count(tested))
        # Without steering, all targets see the same text.
        targets: list[str | None] = [None] if tested.treatment.name == NONE else [*tested.labels]
        pairs = [(prompt, target) for target in targets for prompt in prompts]
        made = tested.continuations(
            [self.prompt(tested, prompt, target) for prompt, target in pairs],
            [target for _, target in pairs],
            self.tokens,
            key=(self.name, *case),
            **options,
        )
        return prompts, made

    def prompt(self, tested: ModelUnderTest, prompt: str, target: str | None) -> str:
        """Return what is continued to come to a target; here the prompt itself."""
        del tested, target
        return prompt

    @staticmethod
    def items_by_target(
        tested: ModelUnderTest, found: Mapping[Case, Observation]
    ) -> list[dict[str, Any]]:
        """Return all texts with the language of their prompt, one without a target for each."""
        return [
            {**item, "from": case[0], "target": target}
            for case, seen in found.items()
            for item in seen["items"]
            for target in ([item["target"]] if item["target"] else tested.labels)
        ]

    @staticmethod
    def by_pair(
        items: Sequence[Mapping[str, Any]],
        rows: Sequence[str],
        columns: Sequence[str],
        value: Callable[[Sequence[Mapping[str, Any]]], float | None],
    ) -> list[list[float | None]]:
        """Return a value of the texts of every pair of a prompt's language and a target."""
        pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for item in items:
            pairs.setdefault((item["from"], item["target"]), []).append(item)
        return [[value(pairs.get((row, column), [])) for column in columns] for row in rows]

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return shares over all prompts in other languages, and the matrix."""
        items = self.items_by_target(tested, found)
        other = [ScoredText(item) for item in items if item["from"] != item["target"]]
        if not other:
            raise ParameterError(
                "Forcing needs prompts in at least one language beside the target; the set's "
                f"labels are {', '.join(tested.labels)}."
            )
        rows = list(dict.fromkeys(item["from"] for item in items))
        return self.finding(
            tested,
            len(other),
            {
                "fluent_success": [each.fluent for each in other],
                "success": [each.hit for each in other],
                "degeneration": [each.bad for each in other],
                "distinct_ngrams": mean([each.distinct for each in other]),
                "unidentified": mean([each.identified is None for each in other]),
            },
            {
                label: [each.fluent for each in other if each.target == label]
                for label in tested.labels
            },
            blocks.matrix(
                "Fluent success",
                rows,
                tested.labels,
                self.by_pair(items, rows, tested.labels, _fluent),
                row_name="prompt",
                column_name="steered to",
                note="Share of continuations in the column's language that do not stutter.",
            ),
            blocks.samples("Continuations", pick(items, by=("target",))),
        )


def _fluent(items: Sequence[Mapping[str, Any]]) -> float | None:
    return mean([ScoredText(item).fluent for item in items])
