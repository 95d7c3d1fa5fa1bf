"""LSS: do facts lean towards the target language when it is switched on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..metrics import metric
from ..metrics.codes import same
from ..metrics.lss import Fact
from ..metrics.scoring import likelihoods
from ..readers import thinned
from ..reports import parts
from . import EXPERIMENTS, Cell, Experiment, Observation, Outcome
from ._bench import Bench


@EXPERIMENTS.register("lss")
@dataclass(frozen=True)
class Shift(Experiment):
    """Facts of every pair of languages, steered to the second.

    Args:
        items: Facts per pair of languages.
    """

    name: ClassVar[str] = "lss"
    title: ClassVar[str] = "Language Steering Shift"
    question: ClassVar[str] = "Steered to a language, does the model find its words likelier?"
    definition: ClassVar[str] = (
        "Share of facts for which log P(object in the target language) − log P(object in the "
        "prompt's language) rises when the target is switched on. A change that knows nothing of "
        "languages scores about one half; an unsteered model scores 0."
    )
    paper: ClassVar[str] = "Rahmanisa et al. 2025, Amplifying Language-Specific Neurons"
    primary: ClassVar[str] = "lss"
    units: ClassVar[Mapping[str, str]] = {"shift": "nats", "excluded": "facts"}
    material: ClassVar[tuple[str, ...]] = ("facts",)
    # Nothing shifts where nothing is attached.
    unsteered: ClassVar[bool] = False
    spoken: ClassVar[bool] = False

    def cells(self, bench: Bench) -> list[Cell]:
        """Return the targets that facts are about."""
        there = {fact.target for fact in bench.material("facts").items[""]}
        return [(label,) for label in bench.labels if label in there]

    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Return the log-odds of every fact of a target, without and with steering."""
        facts = self._facts(bench, cell[0])

        def odds() -> list[float]:
            pairs = [(f.prompt, each) for f in facts for each in (f.target_object, f.base_object)]
            found = likelihoods(
                bench.model, bench.tokenizer, pairs, batch_size=bench.settings.batch_size
            )
            return [a.logprob - b.logprob for a, b in zip(found[::2], found[1::2], strict=True)]

        put = bench.switch()
        put(None)
        # No arm changes what the model says when it is left alone.
        before = bench.once((self.name, *cell), odds)
        put(cell[0])
        after = odds()
        put(None)
        return {
            "items": [
                {"base": fact.base, "before": a, "after": b}
                for fact, a, b in zip(facts, before, after, strict=True)
            ]
        }

    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return the metric over all facts, and over those of each target."""
        rows = [(cell[0], item) for cell, seen in found.items() for item in seen["items"]]
        if not rows:
            raise ParameterError("LSS needs facts in two of the set's labels.")
        judge = metric("lss", seed=bench.settings.seed)

        def score(some: Any) -> Any:
            return judge.compute(
                [item["after"] for _, item in some],
                [item["before"] for _, item in some],
                [item["base"] for _, item in some],
                [target for target, _ in some],
            )

        whole = score(rows)
        cells = whole.details["matrix"]
        bases = list(cells)
        targets = [label for label in bench.labels if any(label in row for row in cells.values())]
        per = {label: score([row for row in rows if row[0] == label]) for label in targets}
        return Outcome(
            values=whole.values,
            n=whole.n,
            intervals=whole.intervals,
            labels={
                label: {"value": each.value, "interval": each.interval, "n": each.n}
                for label, each in per.items()
            },
            parts=(
                parts.matrix(
                    "LSS",
                    bases,
                    targets,
                    [[cells[b].get(t, {}).get("lss") for t in targets] for b in bases],
                    row_name="prompt",
                    column_name="steered to",
                    note="Chance is about 50%.",
                ),
                parts.matrix(
                    "Mean shift in nats",
                    bases,
                    targets,
                    [[cells[b].get(t, {}).get("shift") for t in targets] for b in bases],
                    row_name="prompt",
                    column_name="steered to",
                    unit="nats",
                    diverging=True,
                ),
            ),
        )

    def _facts(self, bench: Bench, target: str) -> list[Fact]:
        by: dict[str, list[Fact]] = {}
        for fact in bench.material("facts").items[""]:
            spelled = fact.base_object != fact.target_object
            if fact.target == target and not same(fact.base, target) and spelled:
                by.setdefault(fact.base, []).append(fact)
        return [fact for some in by.values() for fact in thinned(some, self.count(bench))]
