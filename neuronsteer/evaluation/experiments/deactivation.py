"""Deactivation: with a language's neurons off, does the model stop speaking just that language?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..bootstrap import interval, mean
from ..reports import parts
from . import EXPERIMENTS, Cell, Experiment, Observation, Outcome
from ._bench import NONE, Bench
from ._listening import Heard, listen


@EXPERIMENTS.register("deactivation")
@dataclass(frozen=True)
class Deactivation(Experiment):
    """Prompts in every language, with every label's neurons switched off in turn.

    Args:
        items: Prompts per language.
        tokens: New tokens per prompt.
    """

    name: ClassVar[str] = "deactivation"
    title: ClassVar[str] = "Deactivation"
    question: ClassVar[str] = (
        "With a language's neurons off, does it lose that language, and it alone?"
    )
    definition: ClassVar[str] = (
        "Specific loss: the share of replies that still go on fluently in the prompt's language "
        "when another language is off, minus that share when the prompt's own language is off. 0 "
        "if switching off its neurons does no more than switching off others'."
    )
    paper: ClassVar[str] = "Tang et al. 2024, Language-Specific Neurons"
    primary: ClassVar[str] = "specific_loss"
    units: ClassVar[Mapping[str, str]] = {"specific_loss": "change of share"}
    unsteered: ClassVar[bool] = True
    directions: ClassVar[bool] = False

    items: int = 8
    tokens: int = 32

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the labels to switch off."""
        return [(label,) for label in bench.labels]

    def cells_of_arm(self, bench: Bench, arm: str) -> list[Cell]:
        """Return one cell where nothing is attached: nothing is off then."""
        return [("-",)] if arm == NONE else self.cells(bench)

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Generate from prompts in every language with one label's neurons off."""
        rows = [
            (label, prompt)
            for label in bench.material("prompts").labels
            for prompt in bench.items("prompts", label, self.count(bench))
        ]
        made = bench.texts(
            bench.generate(
                [prompt for _, prompt in rows],
                [cell[0]] * len(rows),
                self.tokens,
                key=(self.name,),
                operation="zero",
                strength=1.0,
            )
        )
        heard = listen(bench, made)
        return {
            "items": [
                {"prompt": prompt, "target": label, **each}
                for (label, prompt), each in zip(rows, heard, strict=True)
            ]
        }

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return how much more a language loses by its own neurons than by others'."""
        kept: dict[tuple[str, str], list[bool]] = {}
        every: list[Heard] = []
        for cell, seen in found.items():
            # Where nothing was attached, the same texts stand for every label.
            for off in bench.labels if cell == ("-",) else cell:
                for item in seen["items"]:
                    every.append(Heard(item))
                    kept.setdefault((off, item["target"]), []).append(every[-1].fluent)
        spoken = list(dict.fromkeys(on for _, on in kept))
        own = [keep for (off, on), some in kept.items() if off == on for keep in some]
        rest = [keep for (off, on), some in kept.items() if off != on for keep in some]
        seed, n = bench.settings.seed, len(own)
        both = [*own, *rest]

        def loss(drawn: Any) -> float:
            # Own and other replies are drawn together; their shares are told apart afterwards.
            mine = [both[i] for i in drawn if i < n]
            theirs = [both[i] for i in drawn if i >= n]
            return (sum(theirs) / len(theirs) if theirs else 0.0) - (
                sum(mine) / len(mine) if mine else 0.0
            )

        here, elsewhere = mean(own), mean(rest)
        return Outcome(
            values={
                "specific_loss": None if here is None or elsewhere is None else elsewhere - here,
                "kept_own": here,
                "kept_others": elsewhere,
                "degeneration": mean([each.bad for each in every]),
            },
            n=len(every),
            intervals={
                "specific_loss": interval(both, loss, seed=seed, samples=300),
                "kept_own": interval(own, seed=seed),
                "kept_others": interval(rest, seed=seed),
            },
            labels={
                label: {"value": b - a, "interval": None, "n": len(kept[label, label])}
                for label in bench.labels
                if (label, label) in kept
                for a in [mean(kept[label, label])]
                for b in [mean([k for (x, y), s in kept.items() if y == label != x for k in s])]
                if a is not None and b is not None
            },
            parts=(
                parts.matrix(
                    "Replies that stay in the prompt's language",
                    bench.labels,
                    spoken,
                    [[mean(kept.get((off, on), [])) for on in spoken] for off in bench.labels],
                    row_name="switched off",
                    column_name="prompt",
                    note="Fluent replies in the column's language. A dark diagonal is what one "
                    "hopes not to see.",
                ),
            ),
        )
