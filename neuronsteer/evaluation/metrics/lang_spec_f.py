"""LangSpec-F: does an intervention hurt its own language, and hurt it alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...errors import ParameterError
from ..bootstrap import mean
from . import INTERVENTION, METRICS, Metric, Score, aligned, check_choice

_OTHERS = ("mean", "max", "sum")


@METRICS.register("lang_spec_f")
@dataclass(frozen=True)
class LangSpecF(Metric):
    """F-score of how specific the damage of masking a language's neurons is.

    With drop_x = max(base_x − masked_x, 0) of the task score in language x, t the masked language
    and D the mean (or maximum, or sum) of the other languages' drops: precision
    P = drop_t / (drop_t + D), recall R = drop_t / base_t, and
    F = (1 + β²)·P·R / (β²·P + R). The headline is the mean over masked languages.

    Traps: the definition of D changed between versions of the paper's code, and numbers under
    different definitions do not compare; it is in the settings. A language that masking *improves*
    counts as not dropped. Random neurons have beaten the published method on one language in its
    own logs: compare with sets of the same size. Without any drop in t, P, R and F are 0.

    Args:
        beta: Weight of recall; 1 in the paper's tables, 2.5 for open-ended tasks.
        others: `mean`, `max` or `sum` of the other languages' drops.
    """

    name: ClassVar[str] = "lang_spec_f"
    title: ClassVar[str] = "LangSpec-F"
    paper: ClassVar[str] = (
        "Le and Li 2026, CRANE: Causal Relevance Analysis of Language-Specific Neurons in "
        "Multilingual Large Language Models"
    )
    primary: ClassVar[str] = "f"
    columns: ClassVar[Mapping[str, str]] = {
        **INTERVENTION,
        "predictions": "float",
        "references": "float",
    }

    beta: float = 1.0
    others: str = "mean"

    def __post_init__(self) -> None:
        """Refuse a definition that does not exist."""
        check_choice("others", self.others, _OTHERS)
        if not self.beta > 0:
            raise ParameterError(f"beta must be positive; got {self.beta}.")

    def compute(
        self,
        intervened: Sequence[str],
        evaluated: Sequence[str],
        predictions: Sequence[float],
        references: Sequence[float],
    ) -> Score:
        """Return the score; one item is one cell of the matrix.

        Args:
            intervened: Language whose neurons were masked.
            evaluated: Language of the task.
            predictions: Task score with the mask, larger is better.
            references: Task score without.
        """
        aligned(
            self.name,
            intervened=intervened,
            evaluated=evaluated,
            predictions=predictions,
            references=references,
        )
        drops: dict[str, dict[str, float]] = {}
        base: dict[str, float] = {}
        items = zip(intervened, evaluated, predictions, references, strict=True)
        for off, on, masked, before in items:
            row = drops.setdefault(off, {})
            if on in row:
                raise ParameterError(f"There are two scores of {on!r} with {off!r} masked.")
            row[on] = max(float(before) - float(masked), 0.0)
            if base.setdefault(on, float(before)) != float(before):
                raise ParameterError(
                    f"The unmasked score of {on!r} is {base[on]} in one row and {before} in "
                    "another; it must be the same model's."
                )
        per: dict[str, dict[str, float]] = {}
        for off, row in drops.items():
            if off not in row or len(row) < 2:
                raise ParameterError(
                    f"LangSpec-F of {off!r} needs its own score and another language's; found "
                    f"scores of {', '.join(row)}."
                )
            per[off] = self._one(row[off], [v for on, v in row.items() if on != off], base[off])
        return self.score(
            len(per),
            {
                name: mean([cell[name] for cell in per.values()])
                for name in ("f", "precision", "recall")
            },
            details={"by_label": per},
            definition=f"F{self.beta:g}, D = {self.others} of the other languages' drops",
        )

    def _one(self, own: float, others: Sequence[float], base: float) -> dict[str, float]:
        total = sum(others)
        spill = {"mean": total / len(others), "max": max(others), "sum": total}[self.others]
        precision = own / (own + spill) if own > 0 else 0.0
        recall = own / base if base > 0 else 0.0
        weight = self.beta**2
        under = weight * precision + recall
        f = (1 + weight) * precision * recall / under if under > 0 else 0.0
        return {"f": f, "precision": precision, "recall": recall, "drop": own, "spill": spill}
