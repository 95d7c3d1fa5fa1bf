"""Amplification: does a task become easier with its own language switched on, or with another?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ...languages import same
from ..bootstrap import mean
from ..reports import blocks
from . import Case, Experiment, Finding, Observation
from ._model_under_test import ModelUnderTest

#: How the state without steering is called in observations.
OFF = ""

_QUESTION = "Does the task become easier with the neurons of its own language on, or of others?"
_DEFINITION = (
    "Change of {what} when the neurons of the task's own language are amplified (self), and when "
    "those of another language are (cross), against the same questions unsteered. Intervals are "
    "paired: question by question."
)


@dataclass(frozen=True)
class Amplification(Experiment):
    """Base of the experiments that amplify languages on tasks in several languages.

    Args:
        items: Questions per language.
    """

    primary: ClassVar[str] = "self_change"
    units: ClassVar[Mapping[str, str]] = {
        "self_change": "change of share",
        "cross_change": "change of share",
    }
    question: ClassVar[str] = _QUESTION
    #: What one question scores, in words.
    scored: ClassVar[str] = "accuracy"
    paper: ClassVar[str] = "Rahmanisa et al. 2025, Amplifying Language-Specific Neurons"
    # The unsteered score is measured in every treatment, beside the steered ones.
    unsteered: ClassVar[bool] = False
    identifies: ClassVar[bool] = False
    seeds: ClassVar[int | None] = 5

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Say in the definition what is scored."""
        super().__init_subclass__(**kwargs)
        cls.definition = _DEFINITION.format(what=cls.scored)

    @abstractmethod
    def score_questions(
        self, tested: ModelUnderTest, language: str, rows: Sequence[Any], states: Sequence[str]
    ) -> dict[str, list[float]]:
        """Return, for every state, what each question scores, from 0 to 1."""

    def chance(self, rows: Sequence[Any]) -> float | None:
        """Return what guessing scores, if that is known."""
        del rows
        return None

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the languages that there are questions in."""
        return [(label,) for label in tested.data.get(self.reads[0]).labels]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Ask the questions of one language, unsteered and with every label amplified."""
        rows = tested.items(self.reads[0], case[0], self.count(tested))
        scores = self.score_questions(tested, case[0], rows, [OFF, *tested.labels])
        return {"scores": scores, "chance": self.chance(rows)}

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return changes on the own language and on others."""
        own: list[float] = []
        own_changes: list[float] = []
        other: list[float] = []
        other_changes: list[float] = []
        base: list[float] = []
        labels: dict[str, list[float]] = {}
        matrix: list[list[float | None]] = []
        for case, seen in found.items():
            plain: list[float] = seen["scores"][OFF]
            base += plain
            row: list[float | None] = []
            for label in tested.labels:
                scores: list[float] = seen["scores"][label]
                changes = [after - before for after, before in zip(scores, plain, strict=True)]
                row.append(mean(changes))
                if same(label, case[0]):
                    own += scores
                    own_changes += changes
                    labels[case[0]] = changes
                else:
                    other += scores
                    other_changes += changes
            matrix.append(row)
        if not base:
            raise ParameterError(f"{self.title} got no questions.")
        return self.finding(
            tested,
            len(base),
            {
                "self_change": own_changes,
                "cross_change": other_changes,
                "unsteered": base,
                "self": mean(own),
                "cross": mean(other),
                "chance": mean([e["chance"] for e in found.values() if e["chance"] is not None]),
            },
            labels,
            blocks.matrix(
                f"Change of {self.scored}",
                [f"{case[0]} ({_share(found[case])})" for case in found],
                tested.labels,
                matrix,
                row_name="task in (unsteered)",
                column_name="amplified",
                unit="change of share",
                diverging=True,
            ),
        )


def _share(seen: Observation) -> str:
    value = mean(seen["scores"][OFF])
    return "–" if value is None else f"{value:.0%}"
