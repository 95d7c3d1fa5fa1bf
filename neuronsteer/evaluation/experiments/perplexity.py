"""Perplexity: whose text does the model understand worse when a language's neurons are off?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import interval
from ..metrics import metric
from ..metrics.scoring import text_likelihoods
from ..reports import blocks
from ..reports.blocks import Block
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import ModelUnderTest


@EXPERIMENTS.register("perplexity")
@dataclass(frozen=True)
class Perplexity(Experiment):
    """Held-out text of every language, with every label's neurons intervened on in turn.

    Args:
        items: Texts per language.
        operation: The intervention; `zero` as in the paper.
    """

    name: ClassVar[str] = "perplexity"
    title: ClassVar[str] = "Perplexity matrix"
    question: ClassVar[str] = "With a language's neurons off, whose text becomes harder to predict?"
    definition: ClassVar[str] = (
        "Share of labels whose own held-out text suffers most when their neurons are switched off "
        "(diagonal dominance), by the rise of the loss in nats per token. The margin is the mean "
        "rise on the diagonal minus the mean rise elsewhere. LangSpec-F is the metric of that name "
        "over what is left of the probability per token."
    )
    paper: ClassVar[str] = "Tang et al. 2024, Language-Specific Neurons"
    primary: ClassVar[str] = "diagonal_dominance"
    units: ClassVar[Mapping[str, str]] = {
        "margin": "change in nats",
        "diagonal_delta_nll": "change in nats",
        "off_diagonal_delta_nll": "change in nats",
    }
    reads: ClassVar[tuple[str, ...]] = ("texts",)
    # Without a set nothing changes, by construction.
    unsteered: ClassVar[bool] = False
    directions: ClassVar[bool] = False
    identifies: ClassVar[bool] = False

    items: int = 24
    operation: str = "zero"

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the labels to intervene on."""
        return [(label,) for label in tested.labels]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Score every text with and without one label's neurons."""
        rows = [
            (label, text)
            for label in tested.data.get("texts").labels
            for text in tested.items("texts", label, self.count(tested))
        ]

        def nats() -> list[tuple[float, int]]:
            found = text_likelihoods(
                tested.model,
                tested.tokenizer,
                [text for _, text in rows],
                batch_size=tested.settings.batch_size,
            )
            return [(-each.logprob, each.tokens) for each in found]

        before, after = tested.before_and_after(
            (self.name, self.count(tested)), case[0], nats, self.operation, 1.0
        )
        return {
            "items": [
                {"label": label, "nats": a, "base": b, "tokens": tokens}
                for (label, _), (a, tokens), (b, _) in zip(rows, after, before, strict=True)
                if tokens
            ]
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return the metric, and the matrix in nats."""
        rows = [(case[0], item) for case, seen in found.items() for item in seen["items"]]
        if not rows:
            raise ParameterError("The perplexity matrix got no text with two tokens.")
        score = metric("perplexity_matrix", seed=tested.settings.seed).compute(
            [off for off, _ in rows],
            [item["label"] for _, item in rows],
            [item["nats"] for _, item in rows],
            [item["base"] for _, item in rows],
            [item["tokens"] for _, item in rows],
        )
        matrix = score.details["matrix"]
        columns = list(dict.fromkeys(item["label"] for _, item in rows))

        def shown(title: str, name: str, unit: str, *, diverging: bool = False) -> Block:
            return blocks.matrix(
                title,
                list(matrix),
                columns,
                [[matrix[off].get(on, {}).get(name) for on in columns] for off in matrix],
                row_name="switched off",
                column_name="text",
                unit=unit,
                diverging=diverging,
            )

        return self.finding(
            tested,
            score.n,
            {**score.values, "lang_spec_f": _specific(matrix)},
            {},
            shown(
                "Rise of the loss (ΔNLL, nats per token)",
                "delta_nll",
                "change in nats",
                diverging=True,
            ),
            shown("Perplexity, times that of the untouched model", "perplexity_ratio", "×"),
            intervals={
                **score.intervals,
                # Over labels: each is one trial of whether its own text suffers most.
                "diagonal_dominance": interval(
                    [_wins(off, row) for off, row in matrix.items() if off in row],
                    seed=tested.settings.seed,
                ),
            },
        )


def _specific(matrix: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[float]:
    """Return LangSpec-F of every label; scores are relative, because languages differ in nats."""
    cells = [
        (off, on, math.exp(-cell["delta_nll"]), 1.0)
        for off, row in matrix.items()
        if off in row and len(row) > 1
        for on, cell in row.items()
    ]
    if not cells:
        return []
    score = metric("lang_spec_f").compute(*(list(column) for column in zip(*cells, strict=True)))
    return [each["f"] for each in score.details["by_label"].values()]


def _wins(off: str, row: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(row[off]["delta_nll"] > cell["delta_nll"] for on, cell in row.items() if on != off)
