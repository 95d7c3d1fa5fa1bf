"""Amplification: does a task become easier with its own language switched on, or with another?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import interval, mean
from ..metrics.codes import same
from ..reports import parts
from . import Cell, Experiment, Observation, Outcome
from ._bench import Bench

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
    # The unsteered score is measured in every arm, beside the steered ones.
    unsteered: ClassVar[bool] = False
    spoken: ClassVar[bool] = False
    seeds: ClassVar[int | None] = 3

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Say in the definition what is scored."""
        super().__init_subclass__(**kwargs)
        cls.definition = _DEFINITION.format(what=cls.scored)

    @abstractmethod
    def score(
        self, bench: Bench, language: str, rows: Sequence[Any], states: Sequence[str]
    ) -> dict[str, list[float]]:
        """Return, for every state, what each question scores, from 0 to 1."""

    def chance(self, rows: Sequence[Any]) -> float | None:
        """Return what guessing scores, if that is known."""
        del rows
        return None

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the languages that there are questions in."""
        return [(label,) for label in bench.material(self.material[0]).labels]

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Ask the questions of one language, unsteered and with every label amplified."""
        rows = bench.items(self.material[0], cell[0], self.count(bench))
        scores = self.score(bench, cell[0], rows, [OFF, *bench.labels])
        return {"scores": scores, "chance": self.chance(rows)}

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return changes on the own language and on others."""
        self_pairs: list[tuple[float, float]] = []
        cross_pairs: list[tuple[float, float]] = []
        base: list[float] = []
        labels: dict[str, dict[str, Any]] = {}
        matrix: list[list[float | None]] = []
        seed = bench.settings.seed
        for cell, seen in found.items():
            plain: list[float] = seen["scores"][OFF]
            base += plain
            row: list[float | None] = []
            for label in bench.labels:
                pairs = list(zip(seen["scores"][label], plain, strict=True))
                changes = [after - before for after, before in pairs]
                row.append(mean(changes))
                if same(label, cell[0]):
                    self_pairs += pairs
                    labels[cell[0]] = {
                        "value": mean(changes),
                        "interval": interval(changes, seed=seed),
                        "n": len(changes),
                    }
                else:
                    cross_pairs += pairs
            matrix.append(row)
        if not base:
            raise ParameterError(f"{self.title} got no questions.")
        own = [after - before for after, before in self_pairs]
        other = [after - before for after, before in cross_pairs]
        chances = [seen["chance"] for seen in found.values() if seen["chance"] is not None]
        return Outcome(
            values={
                "self_change": mean(own),
                "cross_change": mean(other),
                "unsteered": mean(base),
                "self": mean([after for after, _ in self_pairs]),
                "cross": mean([after for after, _ in cross_pairs]),
                "chance": mean(chances),
            },
            n=len(base),
            intervals={
                "self_change": interval(own, seed=seed),
                "cross_change": interval(other, seed=seed),
                "unsteered": interval(base, seed=seed),
            },
            labels=labels,
            parts=(
                parts.matrix(
                    f"Change of {self.scored}",
                    [f"{cell[0]} ({_share(found[cell])})" for cell in found],
                    bench.labels,
                    matrix,
                    row_name="task in (unsteered)",
                    column_name="amplified",
                    unit="change of share",
                    diverging=True,
                ),
            ),
        )


def _share(seen: Observation) -> str:
    value = mean(seen["scores"][OFF])
    return "–" if value is None else f"{value:.0%}"
