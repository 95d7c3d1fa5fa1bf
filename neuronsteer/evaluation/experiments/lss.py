"""LSS: do facts lean towards the target language when it is switched on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ...languages import same
from ..metrics import metric
from ..metrics.lss import Fact, log_odds
from ..readers import thinned
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import ModelUnderTest


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
        "prompt's language) rises when the target is switched on. A change unrelated to "
        "languages scores about one half; an unsteered model scores 0."
    )
    paper: ClassVar[str] = "Rahmanisa et al. 2025, Amplifying Language-Specific Neurons"
    primary: ClassVar[str] = "lss"
    units: ClassVar[Mapping[str, str]] = {"shift": "nats", "excluded": "facts"}
    reads: ClassVar[tuple[str, ...]] = ("facts",)
    # Nothing shifts where nothing is attached.
    unsteered: ClassVar[bool] = False
    identifies: ClassVar[bool] = False

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the targets that facts are about."""
        there = {fact.target for fact in tested.data.get("facts").items[""]}
        return [(label,) for label in tested.labels if label in there]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Return the log-odds of every fact of a target, without and with steering."""
        facts = self._facts(tested, case[0])

        before, after = tested.before_and_after(
            (self.name, *case),
            case[0],
            lambda: log_odds(
                tested.model, tested.tokenizer, facts, batch_size=tested.settings.batch_size
            ),
        )
        return {
            "items": [
                {"base": fact.base, "before": a, "after": b}
                for fact, a, b in zip(facts, before, after, strict=True)
            ]
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return the metric over all facts, and over those of each target."""
        rows = [(case[0], item) for case, seen in found.items() for item in seen["items"]]
        if not rows:
            raise ParameterError("LSS needs facts in two of the set's labels.")
        scorer = metric("lss", seed=tested.settings.seed)

        def score(some: Any) -> Any:
            return scorer.compute(
                [item["after"] for _, item in some],
                [item["before"] for _, item in some],
                [item["base"] for _, item in some],
                [target for target, _ in some],
            )

        whole = score(rows)
        matrix = whole.details["matrix"]
        bases = list(matrix)
        targets = [label for label in tested.labels if any(label in row for row in matrix.values())]
        return self.finding(
            tested,
            whole.n,
            whole.values,
            {label: score([row for row in rows if row[0] == label]) for label in targets},
            blocks.matrix(
                "LSS",
                bases,
                targets,
                [[matrix[b].get(t, {}).get("lss") for t in targets] for b in bases],
                row_name="prompt",
                column_name="steered to",
                note="Chance is about 50%.",
            ),
            blocks.matrix(
                "Mean shift in nats",
                bases,
                targets,
                [[matrix[b].get(t, {}).get("shift") for t in targets] for b in bases],
                row_name="prompt",
                column_name="steered to",
                unit="nats",
                diverging=True,
            ),
            intervals=whole.intervals,
        )

    def _facts(self, tested: ModelUnderTest, target: str) -> list[Fact]:
        by: dict[str, list[Fact]] = {}
        for fact in tested.data.get("facts").items[""]:
            spelled = fact.base_object != fact.target_object
            if fact.target == target and not same(fact.base, target) and spelled:
                by.setdefault(fact.base, []).append(fact)
        return [fact for some in by.values() for fact in thinned(some, self.count(tested))]
