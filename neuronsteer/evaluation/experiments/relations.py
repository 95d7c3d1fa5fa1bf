"""Relations: with a relation's neurons off, which facts does the model no longer recall?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError, TextError
from ..bootstrap import mean
from ..metrics import metric
from ..metrics.relation_accuracy import right
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import ModelUnderTest


@EXPERIMENTS.register("relations")
@dataclass(frozen=True)
class RelationFacts(Experiment):
    """Facts of every relation, with every label's neurons switched off in turn.

    Args:
        items: Facts per relation.
        operation: The intervention; `zero` as in the paper.
    """

    name: ClassVar[str] = "relations"
    title: ClassVar[str] = "Relation accuracy"
    question: ClassVar[str] = (
        "With a relation's neurons off, does the model forget that relation, and it alone?"
    )
    definition: ClassVar[str] = (
        "Specificity: what accuracy loses within the relation whose neurons are off, minus what it "
        "loses in the other relations. A fact is right when the model's likeliest next tokens are "
        "the answer. 'helped' is the share of other relations that become better."
    )
    paper: ClassVar[str] = "Liu et al. 2025, On Relation-Specific Neurons in Large Language Models"
    primary: ClassVar[str] = "specificity"
    units: ClassVar[Mapping[str, str]] = {
        "specificity": "change of share",
        "intra_drop": "change of share",
        "inter_drop": "change of share",
    }
    reads: ClassVar[tuple[str, ...]] = ("relations",)
    # Without a set nothing changes, by construction.
    unsteered: ClassVar[bool] = False
    directions: ClassVar[bool] = False
    identifies: ClassVar[bool] = False

    items: int = 50
    operation: str = "zero"

    def check(self, tested: ModelUnderTest) -> None:
        """Raise unless two of the set's labels are relations with facts."""
        there = tested.data.get("relations").labels
        if len(there) < 2:
            raise ParameterError(
                f"The experiment 'relations' compares relations; there are facts of "
                f"{', '.join(there)} only. Give facts of at least two of the set's labels, "
                f"{', '.join(tested.labels)}."
            )

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the relations to switch off: those that there are facts of."""
        there = tested.data.get("relations").labels
        return [(label,) for label in tested.labels if label in there]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Ask all facts with and without one relation's neurons."""
        rows = [
            (label, row)
            for label in tested.data.get("relations").labels
            for row in tested.items("relations", label, self.count(tested))
        ]
        facts = [_fact(row) for _, row in rows]

        def known() -> list[float]:
            model, tokenizer = tested.model, tested.tokenizer
            return right(model, tokenizer, facts, batch_size=tested.settings.batch_size)

        before, after = tested.before_and_after(
            (self.name, self.count(tested)), case[0], known, self.operation, 1.0
        )
        return {
            "items": [
                {"relation": label, "right": b, "base": a}
                for (label, _), a, b in zip(rows, before, after, strict=True)
            ]
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return the metric, and the matrix of what accuracy loses."""
        rows = [(case[0], item) for case, seen in found.items() for item in seen["items"]]
        score = metric("relation_accuracy", seed=tested.settings.seed).compute(
            [off for off, _ in rows],
            [item["relation"] for _, item in rows],
            [item["right"] for _, item in rows],
            [item["base"] for _, item in rows],
        )
        matrix = score.details["matrix"]
        columns = list(dict.fromkeys(item["relation"] for _, item in rows))
        others = [cell for off, row in matrix.items() for on, cell in row.items() if on != off]
        return self.finding(
            tested,
            score.n,
            {**score.values, "helped": mean([cell["drop"] < 0 for cell in others])},
            {},
            blocks.matrix(
                "What accuracy loses",
                list(matrix),
                columns,
                [[matrix[off].get(on, {}).get("drop") for on in columns] for off in matrix],
                row_name="switched off",
                column_name="facts of",
                unit="change of share",
                diverging=True,
                note="Known before: "
                + ", ".join(f"{on} {_before(matrix, on):.0%}" for on in columns)
                + ".",
            ),
            intervals=dict(score.intervals),
        )


def _fact(row: Any) -> tuple[str, str]:
    fields: Sequence[Any] = [row.get(name) for name in ("prompt", "answer")]
    if not all(isinstance(field, str) and field for field in fields):
        raise TextError(
            "A fact of a relation needs a 'prompt' and an 'answer', the answer with the space that "
            f"belongs before it; a row has {', '.join(map(str, row))}."
        )
    return fields[0], fields[1]


def _before(matrix: Mapping[str, Mapping[str, Mapping[str, float]]], relation: str) -> float:
    return next(row[relation]["before"] for row in matrix.values() if relation in row)
