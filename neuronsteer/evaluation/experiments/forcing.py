"""Forcing: from a prompt in one language, does the model go on in another?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import interval, mean
from ..reports import parts
from . import EXPERIMENTS, Cell, Experiment, Observation, Outcome
from ._bench import NONE, Bench
from ._listening import Heard, listen, pick


@EXPERIMENTS.register("forcing")
@dataclass(frozen=True)
class Forcing(Experiment):
    """Prompts in every language, steered to every label.

    The headline leaves out where the prompt is in the target language already.

    Args:
        items: Prompts per language.
        tokens: New tokens per prompt.
    """

    name: ClassVar[str] = "forcing"
    title: ClassVar[str] = "Language forcing"
    question: ClassVar[str] = "Steered to a language, does the model go on in it?"
    definition: ClassVar[str] = (
        "Share of continuations that the identifier hears in the target language and that do not "
        "stutter, over prompts in all other languages. Without steering it is the share that "
        "lands in the target anyway."
    )
    paper: ClassVar[str] = "Gurgurov et al. 2025, Language Arithmetics"
    primary: ClassVar[str] = "fluent_success"

    tokens: int = 40

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the prompt languages."""
        return [(label,) for label in bench.material("prompts").labels]

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Generate from every prompt of a language to every target."""
        prompts: list[str] = bench.items("prompts", cell[0], self.count(bench))
        # Without steering, all targets see the same text.
        targets: list[str | None] = [None] if bench.arm.name == NONE else [*bench.labels]
        pairs = [(prompt, target) for target in targets for prompt in prompts]
        made = bench.texts(
            bench.generate(
                [prompt for prompt, _ in pairs],
                [target for _, target in pairs],
                self.tokens,
                key=(self.name, *cell),
            )
        )
        heard = listen(bench, made)
        return {
            "items": [
                {"prompt": prompt, "target": target, **each}
                for (prompt, target), each in zip(pairs, heard, strict=True)
            ]
        }

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return shares over all prompts in other languages, and the matrix."""
        items = [
            {**item, "from": cell[0], "target": target}
            for cell, seen in found.items()
            for item in seen["items"]
            for target in ([item["target"]] if item["target"] else bench.labels)
        ]
        other = [Heard(item) for item in items if item["from"] != item["target"]]
        if not other:
            raise ParameterError(
                "Forcing needs prompts in at least one language beside the target; the set's "
                f"labels are {', '.join(bench.labels)}."
            )
        seed = bench.settings.seed
        rows = list(dict.fromkeys(item["from"] for item in items))
        return Outcome(
            values={
                "fluent_success": mean([each.fluent for each in other]),
                "success": mean([each.hit for each in other]),
                "degeneration": mean([each.bad for each in other]),
                "distinct_ngrams": mean([each.distinct for each in other]),
                "unidentified": mean([each.heard is None for each in other]),
            },
            n=len(other),
            intervals={
                "fluent_success": interval([each.fluent for each in other], seed=seed),
                "success": interval([each.hit for each in other], seed=seed),
                "degeneration": interval([each.bad for each in other], seed=seed),
            },
            labels={
                label: {
                    "value": mean(own),
                    "interval": interval(own, seed=seed),
                    "n": len(own),
                }
                for label in bench.labels
                for own in [[each.fluent for each in other if each.target == label]]
                if own
            },
            parts=(
                parts.matrix(
                    "Fluent success",
                    rows,
                    bench.labels,
                    _shares(items, rows, bench.labels),
                    row_name="prompt",
                    column_name="steered to",
                    note="Share of continuations in the column's language that do not stutter.",
                ),
                parts.samples("What it said", pick(items, by=("target",))),
            ),
        )


def _shares(
    items: Sequence[Mapping[str, Any]], rows: Sequence[str], columns: Sequence[str]
) -> list[list[float | None]]:
    found: dict[tuple[str, str], list[bool]] = {}
    for item in items:
        found.setdefault((item["from"], item["target"]), []).append(Heard(item).fluent)
    return [[mean(found.get((row, column), [])) for column in columns] for row in rows]
