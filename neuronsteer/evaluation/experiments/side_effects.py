"""Side effects: what does steering to a language do to the text of others?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ...languages import same
from ..bootstrap import interval
from ..metrics import metric
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import ModelUnderTest


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
    reads: ClassVar[tuple[str, ...]] = ("texts",)
    unsteered: ClassVar[bool] = False
    identifies: ClassVar[bool] = False
    seeds: ClassVar[int | None] = 3

    items: int = 8
    k: int = 5

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the labels to steer to."""
        return [(label,) for label in tested.labels]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Compare predictions with and without steering to one label."""
        texts = {
            label: tested.items("texts", label, self.count(tested))
            for label in tested.data.get("texts").labels
        }
        scorer: Any = metric("side_effects", k=self.k, seed=tested.settings.seed)
        score = scorer.measure(
            tested.model,
            tested.tokenizer,
            texts,
            tested.switch(),
            labels=[case[0]],
            # Logits of two batches are in memory at a time.
            batch_size=min(tested.settings.batch_size, 16),
        )
        return {"texts": score.details["matrix"][case[0]], "worst": score["kl_max_text"]}

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return averages over the tokens of other languages."""
        rows = [
            (case[0], on, each)
            for case, seen in found.items()
            for on, each in seen["texts"].items()
        ]
        if not rows:
            raise ParameterError("Side effects need text of some label.")
        other = [(to, each) for to, on, each in rows if not same(to, on)]
        columns = list(dict.fromkeys(on for _, on, _ in rows))
        seed = tested.settings.seed

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
        return self.finding(
            tested,
            sum(int(each["tokens"]) for each in every),
            {
                "kl": over(every, "kl"),
                "top_k_overlap": over(every, "top_k_overlap"),
                "top_1_agreement": over(every, "top_1_agreement"),
                "kl_max_text": max(worst, default=None),
            },
            {
                to: {"value": over(some, "kl"), "interval": spread(some), "n": len(some)}
                for to, some in own.items()
            },
            blocks.matrix(
                "KL to the unsteered model, nats per token",
                [case[0] for case in found],
                columns,
                [
                    [seen["texts"].get(on, {}).get("kl") for on in columns]
                    for seen in found.values()
                ],
                row_name="steered to",
                column_name="text",
                unit="nats",
                note="The diagonal is the purpose; the headline leaves it out.",
            ),
            intervals={"kl": spread(every)},
        )
