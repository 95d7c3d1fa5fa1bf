"""Language confusion: does steering keep replies in the language of the prompt?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..metrics import metric
from ..reports import parts
from . import EXPERIMENTS, Cell, Experiment, Observation, Outcome
from ._bench import NONE, Bench


@EXPERIMENTS.register("confusion")
@dataclass(frozen=True)
class Confusion(Experiment):
    """Longer texts from prompts in every language, steered to that same language.

    Args:
        items: Prompts per language.
        tokens: New tokens per prompt.
    """

    name: ClassVar[str] = "confusion"
    title: ClassVar[str] = "Language confusion"
    question: ClassVar[str] = "Steered to the prompt's own language, does the model stay in it?"
    definition: ClassVar[str] = (
        "Harmonic mean of two shares: replies without a line in another language, and, of those "
        "not in Latin script, replies without a foreign word. Compare with no steering: what "
        "counts is whether drifting became rarer."
    )
    paper: ClassVar[str] = "Marchisio et al. 2024, Understanding and Mitigating Language Confusion"
    primary: ClassVar[str] = "language_confusion"
    units: ClassVar[Mapping[str, str]] = {"lines": "lines"}

    items: int = 8
    tokens: int = 64

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the languages of prompts."""
        return [(label,) for label in bench.material("prompts").labels if label in bench.labels]

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Generate in a language from prompts in it."""
        prompts: list[str] = bench.items("prompts", cell[0], self.count(bench))
        target = None if bench.arm.name == NONE else cell[0]
        made = bench.texts(
            bench.generate(prompts, [target] * len(prompts), self.tokens, key=(self.name, *cell))
        )
        return {"texts": made}

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return the metric over all replies, and per language."""
        settings = bench.settings
        judge = metric(
            "language_confusion",
            identifier=settings.identifier,
            languages=settings.candidates,
            floor=settings.floor,
            seed=settings.seed,
        )
        whole = judge.compute(
            [text for seen in found.values() for text in seen["texts"]],
            [cell[0] for cell, seen in found.items() for _ in seen["texts"]],
        )
        per = {
            cell[0]: judge.compute(seen["texts"], [cell[0]] * len(seen["texts"]))
            for cell, seen in found.items()
            if seen["texts"]
        }
        drifted = whole.details["drifted_to"]
        rows = [[label, count] for label, count in sorted(drifted.items(), key=lambda x: -x[1])]
        return Outcome(
            values=whole.values,
            n=whole.n,
            intervals={**whole.intervals, "language_confusion": _least(whole)},
            labels={
                label: {"value": each.value, "interval": _least(each), "n": each.n}
                for label, each in per.items()
            },
            parts=(parts.table("Wrong lines are in", ["language", "lines"], rows),) if rows else (),
        )


def _least(score: Any) -> tuple[float, float] | None:
    """Return the interval of the headline where it is the share of lines alone."""
    alone = score.values["word_pass_rate"] is None
    return replace(score, primary="line_pass_rate").interval if alone else None
