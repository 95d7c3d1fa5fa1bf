"""Sweep: which operation, how much of it, on how many neurons, steers most at the least damage?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import NeuronSteerError, ParameterError
from ...neuron_set import NeuronSet
from ...operations import operation
from ..bootstrap import mean
from ..metrics.scoring import mean_nll
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import ModelUnderTest, Treatment
from ._scored_texts import ScoredText

#: The operation that the set's header names.
OWN = "own"


@dataclass(frozen=True)
class _Setting:
    """One point of the sweep."""

    operation: str | dict[str, Any]
    strength: float
    rate: float

    @property
    def case(self) -> Case:
        spec = self.operation
        said = spec if isinstance(spec, str) else json.dumps(spec, sort_keys=True)
        return (said, f"{self.strength:g}", f"{self.rate:g}")

    @classmethod
    def of(cls, case: Case) -> _Setting:
        said, strength, rate = case
        spec = json.loads(said) if said.startswith("{") else said
        return cls(spec, float(strength), float(rate))

    @property
    def title(self) -> str:
        return f"{self.group} × {self.strength:g}, {self.rate:.0%} of the neurons"

    @property
    def group(self) -> str:
        spec = self.operation
        if isinstance(spec, str):
            return spec
        rest = [
            f"{v:g}" if isinstance(v, float) else str(v) for k, v in spec.items() if k != "name"
        ]
        return " ".join([str(spec.get("name")), *rest])


@EXPERIMENTS.register("sweep")
@dataclass(frozen=True)
class Sweep(Experiment):
    """Forcing from one language to all others, over operations, strengths and rates.

    Args:
        items: Prompts, and held-out texts per target.
        tokens: New tokens per prompt.
        source: Language of the prompts; default: English if there are prompts in it, else the
            first.
        operations: Operations; `own` is the set's.
        strengths: How much of each. Only operations that add can go beyond 1.
        rates: Shares of every label's neurons that are kept, the highest scores first.
    """

    name: ClassVar[str] = "sweep"
    title: ClassVar[str] = "Sweep"
    question: ClassVar[str] = "Which operation, how strong, on how many neurons?"
    definition: ClassVar[str] = (
        "Best point: the highest product of success and fluency of any setting. Success is the "
        "share of continuations in the target language. Fluency is the share that does not "
        "stutter, times how well the target's own held-out text is still predicted: its "
        "perplexity without steering over that with it, at most 1."
    )
    paper: ClassVar[str] = "Rahmanisa et al. 2025, Amplifying Language-Specific Neurons"
    primary: ClassVar[str] = "best"
    units: ClassVar[Mapping[str, str]] = {"settings": "settings"}
    reads: ClassVar[tuple[str, ...]] = ("prompts", "texts")
    unsteered: ClassVar[bool] = False
    directions: ClassVar[bool] = False
    seeds: ClassVar[int | None] = 1

    items: int = 4
    tokens: int = 32
    source: str | None = None
    operations: tuple[str | dict[str, Any], ...] = (
        OWN,
        {"name": "set", "value": "mean"},
        {"name": "set", "value": "max"},
        {"name": "scale", "factor": 4.0},
    )
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    rates: tuple[float, ...] = (0.25, 1.0)

    def __post_init__(self) -> None:
        """Refuse an empty sweep, and rates that keep nothing."""
        super().__post_init__()
        for name in ("operations", "strengths", "rates"):
            value: Any = getattr(self, name)
            # From JSON and the command line they are lists, or one entry.
            given = tuple(value) if isinstance(value, list | tuple) else (value,)
            object.__setattr__(self, name, given)
            if not given:
                raise ParameterError(f"A sweep without {name} measures nothing.")
        if not all(0 < rate <= 1 for rate in self.rates):
            raise ParameterError(f"Rates are shares of the set, above 0 to 1; got {self.rates}.")
        if not all(math.isfinite(strength) for strength in self.strengths):
            raise ParameterError(f"Strengths are numbers; got {self.strengths}.")

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the settings that are possible with this set."""
        found = [
            _Setting(spec, float(strength), float(rate)).case
            for spec in self.operations
            for strength in self.strengths
            for rate in self.rates
            if _possible(tested.neurons, spec, float(strength), tested.labels[0])
        ]
        if not found:
            raise ParameterError(
                "None of the sweep's operations can be done with this set: it lacks the values "
                f"they need. It has {', '.join(tested.neurons.values) or 'none'}."
            )
        return list(dict.fromkeys(found))

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Generate to every target under one setting, and read every target's own text."""
        setting = _Setting.of(case)
        spec = None if setting.operation == OWN else setting.operation
        source = self._source(tested)
        prompts: list[str] = tested.items("prompts", source, self.count(tested))
        targets = [label for label in tested.labels if label != source]
        pairs = [(prompt, target) for target in targets for prompt in prompts]
        with tested.under(Treatment(tested.treatment.name, _part(tested, setting.rate))):
            items = tested.continuations(
                [prompt for prompt, _ in pairs],
                [target for _, target in pairs],
                self.tokens,
                key=(self.name,),
                operation=spec,
                strength=setting.strength,
            )
            losses = {
                target: self._loss(tested, target, spec, setting.strength) for target in targets
            }
        return {"items": items, "losses": losses}

    def case_numbers(self, case: Case, seen: Observation) -> dict[str, Any]:
        """Return the setting, and where it lies between success and fluency."""
        setting = _Setting.of(case)
        point = _point(setting, seen)
        return {
            "operation": setting.group,
            "strength": setting.strength,
            "rate": setting.rate,
            "success": point["x"],
            "fluency": point["y"],
            "degeneration": point["degeneration"],
            "perplexity_ratio": point["perplexity_ratio"],
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return the best point, the frontier and all points."""
        points = [_point(_Setting.of(case), seen) for case, seen in found.items()]
        if not points:
            raise ParameterError("The sweep measured no setting.")
        for point in points:
            point["best"] = not any(
                (o["x"] >= point["x"] and o["y"] > point["y"])
                or (o["x"] > point["x"] and o["y"] >= point["y"])
                for o in points
            )
        order = sorted(points, key=lambda p: p["x"] * p["y"], reverse=True)
        rows = [
            [
                p["label"],
                f"{p['x']:.1%}",
                f"{p['y']:.1%}",
                f"{p['degeneration']:.1%}",
                f"{p['perplexity_ratio']:.2f}",
                "yes" if p["best"] else "",
            ]
            for p in order
        ]
        return self.finding(
            tested,
            sum(len(seen["items"]) for seen in found.values()),
            {
                "best": order[0]["x"] * order[0]["y"],
                "success_at_best": order[0]["x"],
                "fluency_at_best": order[0]["y"],
                "settings": float(len(points)),
            },
            {},
            blocks.scatter(
                "Success and fluency",
                points,
                x_name="success: identified as the target language",
                y_name="fluency",
                note=f"Prompts in {self._source(tested)}. The dashed line joins the settings "
                "that no other one beats in both.",
            ),
            blocks.table(
                "All settings, best first",
                [
                    "setting",
                    "success",
                    "fluency",
                    "stutters",
                    "perplexity of the target's text, times unsteered",
                    "on the frontier",
                ],
                rows,
            ),
        )

    def _source(self, tested: ModelUnderTest) -> str:
        there = tested.data.get("prompts").labels
        if self.source is not None:
            if self.source not in there:
                raise ParameterError(
                    f"The sweep should start from {self.source!r}, but prompts are in "
                    f"{', '.join(there)}."
                )
            return self.source
        return "en" if "en" in there else there[0]

    def _loss(
        self, tested: ModelUnderTest, target: str, operation: Any, strength: float
    ) -> tuple[float, float]:
        """Return nats per token of a target's own text, steered to it and not."""
        texts: list[str] = tested.items("texts", target, self.count(tested))
        before, after = tested.before_and_after(
            (self.name, target, len(texts)),
            target,
            lambda: mean_nll(
                tested.model, tested.tokenizer, texts, batch_size=tested.settings.batch_size
            ),
            operation,
            strength,
        )
        return after, before


def _point(setting: _Setting, seen: Observation) -> dict[str, Any]:
    """Return one point of the scatter plot."""
    texts = [ScoredText(item) for item in seen["items"]]
    changes = [after - before for after, before in seen["losses"].values()]
    kept = mean([min(1.0, math.exp(-change)) for change in changes])
    steady = 1 - (mean([each.bad for each in texts]) or 0.0)
    return {
        "x": mean([each.hit for each in texts]) or 0.0,
        "y": steady * (1.0 if kept is None else kept),
        "label": setting.title,
        "group": setting.group,
        "perplexity_ratio": math.exp(min(mean(changes) or 0.0, 50.0)),
        "degeneration": 1 - steady,
    }


def _possible(neurons: NeuronSet, spec: str | dict[str, Any], strength: float, label: str) -> bool:
    try:
        chosen = operation(neurons.operation if spec == OWN else spec)
        chosen.blended(neurons.rows(label), chosen.site_for(neurons.site), strength)
    except NeuronSteerError:
        return False
    return True


def _part(tested: ModelUnderTest, rate: float) -> NeuronSet | None:
    """Return the attached treatment with the best share of every label's neurons."""
    attached = tested.treatment.neurons
    if rate == 1 or attached is None:
        return attached
    kept: Sequence[NeuronSet] = [
        tested.neurons.only(label).top(max(round(rate * count), 1))
        for label, count in tested.neurons.counts.items()
    ]
    part = kept[0]
    for each in kept[1:]:
        part = part | each
    kind, _, seed = tested.treatment.name.partition(":")
    # Random neurons have no scores: they are drawn again, as many as are left.
    return part.random_like(int(seed)) if kind == "random" else part
