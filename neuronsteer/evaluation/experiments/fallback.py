"""Fallback: with a language off, what does the model speak instead, and what after that?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import interval, mean
from ..metrics.codes import same
from ..reports import parts
from . import EXPERIMENTS, Cell, Experiment, Observation, Outcome
from ._bench import NONE, Bench
from ._listening import Heard, listen


@EXPERIMENTS.register("fallback")
@dataclass(frozen=True)
class Fallback(Experiment):
    """Prompts in a language, with more and more languages switched off.

    First the prompt's own neurons are off; then also those of the language that was heard most.

    Args:
        items: Prompts per language.
        tokens: New tokens per prompt.
        steps: How many languages are switched off in turn.
    """

    name: ClassVar[str] = "fallback"
    title: ClassVar[str] = "Fallback languages"
    question: ClassVar[str] = "With its language off, what does the model speak instead?"
    definition: ClassVar[str] = (
        "Share of replies that are fluent, but in another language than the prompt, once the "
        "prompt's own neurons are off."
    )
    paper: ClassVar[str] = "Gurgurov et al. 2025, Language Arithmetics"
    primary: ClassVar[str] = "fallback"
    directions: ClassVar[bool] = False
    seeds: ClassVar[int | None] = 3

    items: int = 8
    tokens: int = 32
    steps: int = 3

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the prompt languages that have neurons."""
        return [(label,) for label in bench.material("prompts").labels if label in bench.labels]

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Switch off the prompt's language, and then what is heard instead."""
        prompts: list[str] = bench.items("prompts", cell[0], self.count(bench))
        off: list[str] = [cell[0]]
        steps: list[dict[str, Any]] = []
        for _ in range(1 if bench.arm.name == NONE else self.steps):
            made = bench.texts(
                bench.generate(
                    prompts,
                    [None] * len(prompts),
                    self.tokens,
                    key=(self.name, *cell),
                    away_from=off,
                )
            )
            items = [
                {"prompt": prompt, "target": cell[0], **each}
                for prompt, each in zip(prompts, listen(bench, made), strict=True)
            ]
            steps.append({"off": list(off), "items": items})
            spoken = Counter(
                item["heard"] for item in items if item["heard"] and not item["degenerate"]
            )
            more = [heard for heard, _ in spoken.most_common() if heard in bench.labels]
            more = [heard for heard in more if heard not in off]
            # With nothing new to switch off, the next step would be the same.
            if not more:
                break
            off.append(more[0])
        return {"steps": steps}

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return what is spoken instead."""
        first = [item for seen in found.values() for item in seen["steps"][0]["items"]]
        if not first:
            raise ParameterError("Fallback needs prompts in one of the set's labels.")
        fell = [
            item["heard"] is not None and not Heard(item).hit and not item["degenerate"]
            for item in first
        ]
        spoken = [*bench.labels]
        matrix: list[list[float | None]] = []
        for seen in found.values():
            items = seen["steps"][0]["items"]
            heard = [item["heard"] if not item["degenerate"] else None for item in items]
            matrix.append(
                [sum(same(each, label) for each in heard) / len(items) for label in spoken]
                + [mean([e is not None and not any(same(e, x) for x in spoken) for e in heard])]
                + [mean([e is None for e in heard])]
            )
        seed = bench.settings.seed
        return Outcome(
            values={
                "fallback": mean(fell),
                "kept": mean([Heard(item).fluent for item in first]),
                "degeneration": mean([bool(item["degenerate"]) for item in first]),
            },
            n=len(first),
            intervals={"fallback": interval(fell, seed=seed)},
            labels={
                cell[0]: {"value": mean(own), "interval": interval(own, seed=seed), "n": len(own)}
                for cell in found
                for own in [
                    [f for f, item in zip(fell, first, strict=True) if item["target"] == cell[0]]
                ]
            },
            parts=(
                parts.matrix(
                    "Spoken with the row's language off",
                    [cell[0] for cell in found],
                    [*spoken, "others", "none"],
                    matrix,
                    row_name="prompt, and switched off",
                    column_name="heard",
                    note="Stuttering counts as no language.",
                ),
                parts.table(
                    "Step by step",
                    ["prompt", "switched off", "heard, fluent"],
                    [
                        [cell[0], ", ".join(step["off"]), _heard(step)]
                        for cell, seen in found.items()
                        for step in seen["steps"]
                    ],
                ),
            ),
        )


def _heard(step: Mapping[str, Any]) -> str:
    spoken = Counter(
        "stutter" if item["degenerate"] else item["heard"] or "none" for item in step["items"]
    )
    total = sum(spoken.values())
    return ", ".join(f"{label} {count / total:.0%}" for label, count in spoken.most_common(4))
