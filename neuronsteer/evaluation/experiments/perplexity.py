"""Perplexity: whose text does the model understand worse when a language's neurons are off?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import interval
from ..metrics import metric
from ..metrics.scoring import text_likelihoods
from ..reports import parts
from . import EXPERIMENTS, Cell, Experiment, Observation, Outcome
from ._bench import Bench


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
        "rise on the diagonal minus the mean rise elsewhere."
    )
    paper: ClassVar[str] = "Tang et al. 2024, Language-Specific Neurons"
    primary: ClassVar[str] = "diagonal_dominance"
    units: ClassVar[Mapping[str, str]] = {
        "margin": "change in nats",
        "diagonal_delta_nll": "change in nats",
        "off_diagonal_delta_nll": "change in nats",
    }
    material: ClassVar[tuple[str, ...]] = ("texts",)
    # Without a set nothing changes, by construction.
    unsteered: ClassVar[bool] = False
    directions: ClassVar[bool] = False
    spoken: ClassVar[bool] = False

    items: int = 24
    operation: str = "zero"

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the labels to intervene on."""
        return [(label,) for label in bench.labels]

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Score every text with and without one label's neurons."""
        rows = [
            (label, text)
            for label in bench.material("texts").labels
            for text in bench.items("texts", label, self.count(bench))
        ]

        def nats() -> list[tuple[float, int]]:
            found = text_likelihoods(
                bench.model,
                bench.tokenizer,
                [text for _, text in rows],
                batch_size=bench.settings.batch_size,
            )
            return [(-each.logprob, each.tokens) for each in found]

        put = bench.switch(self.operation, 1.0)
        put(None)
        before = bench.once((self.name, self.count(bench)), nats)
        put(cell[0])
        after = nats()
        put(None)
        return {
            "items": [
                {"label": label, "nats": a, "base": b, "tokens": tokens}
                for (label, _), (a, tokens), (b, _) in zip(rows, after, before, strict=True)
                if tokens
            ]
        }

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return the metric, and the matrix in nats."""
        rows = [(cell[0], item) for cell, seen in found.items() for item in seen["items"]]
        if not rows:
            raise ParameterError("The perplexity matrix got no text with two tokens.")
        score = metric("perplexity_matrix", seed=bench.settings.seed).compute(
            [off for off, _ in rows],
            [item["label"] for _, item in rows],
            [item["nats"] for _, item in rows],
            [item["base"] for _, item in rows],
            [item["tokens"] for _, item in rows],
        )
        cells = score.details["matrix"]
        spoken = list(dict.fromkeys(item["label"] for _, item in rows))
        ratio = [[cells[off].get(on, {}).get("perplexity_ratio") for on in spoken] for off in cells]
        return Outcome(
            values=score.values,
            n=score.n,
            intervals={
                # Over labels: each is one trial of whether its own text suffers most.
                "diagonal_dominance": interval(
                    [_wins(off, row) for off, row in cells.items() if off in row],
                    seed=bench.settings.seed,
                )
            },
            parts=(
                parts.matrix(
                    "Rise of the loss (ΔNLL, nats per token)",
                    list(cells),
                    spoken,
                    [[cells[off].get(on, {}).get("delta_nll") for on in spoken] for off in cells],
                    row_name="switched off",
                    column_name="text",
                    unit="change in nats",
                    diverging=True,
                ),
                parts.matrix(
                    "Perplexity, times that of the untouched model",
                    list(cells),
                    spoken,
                    ratio,
                    row_name="switched off",
                    column_name="text",
                    unit="×",
                ),
            ),
        )


def _wins(off: str, row: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(row[off]["delta_nll"] > cell["delta_nll"] for on, cell in row.items() if on != off)
