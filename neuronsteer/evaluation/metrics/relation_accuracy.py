"""Relation accuracy: which facts does a model lose when a relation's neurons are off?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...errors import ParameterError
from ...steering.steerer import OperationLike, Steerer
from ..bootstrap import mean
from . import INTERVENTION, METRICS, Metric, Score, aligned
from .scoring import Switch, continuations, forward, switching


@METRICS.register("relation_accuracy")
@dataclass(frozen=True)
class RelationAccuracy(Metric):
    """Accuracy within the relation whose neurons are off, and in the other relations.

    A fact is right when the model's likeliest next tokens are the answer. `intra` is the accuracy
    on prompts of the relation that is off, averaged over relations, `inter` on those of the others.
    `intra_drop` and `inter_drop` are what they lose against the untouched model; `specificity`, the
    headline, is the difference of the two: neurons of one relation should cost that one alone.

    Traps: facts the model did not know cannot be lost, so drops are about accuracy, not about the
    share of facts changed; a relation with few known facts says little. Switching off the neurons
    of one relation can make another one *better* (a negative drop), which is kept. Compare with as
    many random neurons: many neurons of any kind hurt all relations.

    Args:
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "relation_accuracy"
    title: ClassVar[str] = "Relation accuracy"
    paper: ClassVar[str] = "Liu et al. 2025, On Relation-Specific Neurons in Large Language Models"
    primary: ClassVar[str] = "specificity"
    columns: ClassVar[Mapping[str, str]] = {
        **INTERVENTION,
        "predictions": "float",
        "references": "float",
    }

    seed: int = 0

    def compute(
        self,
        intervened: Sequence[str],
        evaluated: Sequence[str],
        predictions: Sequence[float],
        references: Sequence[float],
    ) -> Score:
        """Return the score; one item is one fact under one intervention.

        Args:
            intervened: Relation whose neurons were off.
            evaluated: Relation of the fact.
            predictions: 1 if the fact was right then, 0 if not.
            references: The same for the untouched model.
        """
        aligned(
            self.name,
            intervened=intervened,
            evaluated=evaluated,
            predictions=predictions,
            references=references,
        )
        cells: dict[str, dict[str, list[tuple[float, float]]]] = {}
        items = zip(intervened, evaluated, predictions, references, strict=True)
        for off, on, after, before in items:
            if not (after in (0, 1) and before in (0, 1)):
                raise ParameterError(f"A fact is right (1) or wrong (0); got {after} and {before}.")
            cells.setdefault(off, {}).setdefault(on, []).append((float(after), float(before)))
        for off, row in cells.items():
            if off not in row or len(row) < 2:
                raise ParameterError(
                    f"Relation accuracy of {off!r} needs facts of its own and of another relation; "
                    f"found {', '.join(row)}."
                )
        matrix = {
            off: {on: _cell(found) for on, found in row.items()} for off, row in cells.items()
        }
        own = [row[off] for off, row in matrix.items()]
        other = [cell for off, row in matrix.items() for on, cell in row.items() if on != off]
        specific = {
            off: row[off]["drop"] - _average([c["drop"] for on, c in row.items() if on != off])
            for off, row in matrix.items()
        }
        return self.score(
            len(predictions),
            {
                "intra": mean([cell["accuracy"] for cell in own]),
                "inter": mean([cell["accuracy"] for cell in other]),
                "intra_drop": mean([cell["drop"] for cell in own]),
                "inter_drop": mean([cell["drop"] for cell in other]),
                "specificity": list(specific.values()),
            },
            details={"matrix": matrix, "by_relation": specific},
        )

    def measure(
        self,
        model: Any,
        tokenizer: Any,
        facts: Mapping[str, Sequence[tuple[str, str]]],
        steer: Steerer | Switch,
        *,
        labels: Sequence[str] | None = None,
        operation: OperationLike | None = None,
        strength: float = 1.0,
        batch_size: int = 8,
    ) -> Score:
        """Return the score of a model with the neurons of one relation after the other off.

        Args:
            model: The model that `steer` is attached to.
            tokenizer: Its tokenizer.
            facts: Relation → `(prompt, answer)` pairs; the answer begins with its space.
            steer: A steerer, or a function that makes a relation's intervention active and takes
                `None` for off.
            labels: Relations to switch off. Default: those of `facts`.
            operation: What is done to the neurons; default: the set's own, zero for `relations`.
            strength: How much of it.
            batch_size: Rows per forward pass.
        """
        relations = [name for name, some in facts.items() for _ in some]
        pairs = [pair for some in facts.values() for pair in some]
        aligned(self.name, facts=pairs)
        rows: list[tuple[str, str, float, float]] = []
        with switching(steer, operation, strength) as switch:
            before = right(model, tokenizer, pairs, batch_size=batch_size)
            for off in facts if labels is None else labels:
                switch(off)
                after = right(model, tokenizer, pairs, batch_size=batch_size)
                rows += [(off, *row) for row in zip(relations, after, before, strict=True)]
        return self.compute(*(list(column) for column in zip(*rows, strict=True)))


def right(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 8
) -> list[float]:
    """Return 1 for every pair whose answer is what the model says greedily, else 0."""
    rows = continuations(tokenizer, pairs)
    found = [0.0] * len(rows)
    for chosen, logits in forward(model, rows, batch_size=batch_size):
        for i, scores in zip(chosen, logits, strict=True):
            row = rows[i]
            wanted = torch.tensor(row.ids[row.start :], device=scores.device)
            found[i] = float(bool((scores.argmax(-1) == wanted).all()))
    return found


def _cell(found: Sequence[tuple[float, float]]) -> dict[str, float]:
    after, before = (_average([pair[k] for pair in found]) for k in (0, 1))
    return {"accuracy": after, "before": before, "drop": before - after, "facts": float(len(found))}


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
