"""Side effects: what does steering to a language do to the text of others?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import interval
from ..metrics import metric
from ..metrics.codes import same
from ..reports import parts
from . import EXPERIMENTS, Cell, Experiment, Observation, Outcome
from ._bench import Bench


@EXPERIMENTS.register("side_effects")
@dataclass(frozen=True)
class Effects(Experiment):
    """Distance of the steered to the unsteered model on text of every language.

    Args:
        items: Texts per language.
        k: How many of the most probable tokens are compared.
    """

    name: ClassVar[str] = "side_effects"
    title: ClassVar[str] = "Side effects"
    question: ClassVar[str] = (
        "How far do predictions move on text in other languages than the target?"
    )
    definition: ClassVar[str] = (
        "KL(unsteered ‖ steered) in nats per token, on text of all other languages. Random sets of "
        "the same size say how much of it any change of that size does."
    )
    primary: ClassVar[str] = "kl"
    higher_is_better: ClassVar[bool] = False
    units: ClassVar[Mapping[str, str]] = {"kl": "nats", "kl_max_text": "nats", "tokens": "tokens"}
    material: ClassVar[tuple[str, ...]] = ("texts",)
    unsteered: ClassVar[bool] = False
    spoken: ClassVar[bool] = False
    seeds: ClassVar[int | None] = 3

    items: int = 8
    k: int = 5

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the labels to steer to."""
        return [(label,) for label in bench.labels]

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Compare predictions with and without steering to one label."""
        texts = {
            label: bench.items("texts", label, self.count(bench))
            for label in bench.material("texts").labels
        }
        judge: Any = metric("side_effects", k=self.k, seed=bench.settings.seed)
        score = judge.measure(
            bench.model,
            bench.tokenizer,
            texts,
            bench.switch(),
            labels=[cell[0]],
            # Logits of two batches are held at a time.
            batch_size=min(bench.settings.batch_size, 16),
        )
        return {"cells": score.details["matrix"][cell[0]], "worst": score["kl_max_text"]}

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return averages over the tokens of other languages."""
        rows = [
            (cell[0], on, each)
            for cell, seen in found.items()
            for on, each in seen["cells"].items()
        ]
        if not rows:
            raise ParameterError("Side effects need text of some label.")
        other = [(to, each) for to, on, each in rows if not same(to, on)]
        columns = list(dict.fromkeys(on for _, on, _ in rows))
        seed = bench.settings.seed

        def over(some: list[Mapping[str, Any]], name: str) -> float | None:
            tokens = sum(each["tokens"] for each in some)
            return sum(each[name] * each["tokens"] for each in some) / tokens if tokens else None

        def spread(some: list[Mapping[str, Any]]) -> tuple[float, float] | None:
            return interval(
                [each["kl"] * each["tokens"] for each in some],
                weights=[each["tokens"] for each in some],
                seed=seed,
            )

        every = [each for _, each in other]
        own = {to: [each for label, each in other if label == to] for to, _ in other}
        worst = [seen["worst"] for seen in found.values() if seen["worst"] is not None]
        return Outcome(
            values={
                "kl": over(every, "kl"),
                "top_k_overlap": over(every, "top_k_overlap"),
                "top_1_agreement": over(every, "top_1_agreement"),
                "kl_max_text": max(worst, default=None),
            },
            n=sum(int(each["tokens"]) for each in every),
            intervals={"kl": spread(every)},
            labels={
                to: {"value": over(some, "kl"), "interval": spread(some), "n": len(some)}
                for to, some in own.items()
            },
            parts=(
                parts.matrix(
                    "KL to the unsteered model, nats per token",
                    [cell[0] for cell in found],
                    columns,
                    [
                        [seen["cells"].get(on, {}).get("kl") for on in columns]
                        for seen in found.values()
                    ],
                    row_name="steered to",
                    column_name="text",
                    unit="nats",
                    note="The diagonal is the purpose; the headline leaves it out.",
                ),
            ),
        )
