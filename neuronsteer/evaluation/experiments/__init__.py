"""Experiments: one file per question about a neuron set, answered beside its controls.

An experiment is cut into cells, the smallest pieces that are measured, written and resumed. It is
run for several arms: the set itself, and the controls. `run` observes one cell under the arm that
is attached; `judge` turns an arm's observations into numbers, without a model. A new experiment is
a new file in this folder that registers itself with `@EXPERIMENTS.register("name")`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ParameterError
from ...registry import Registry, create
from ..reports.parts import Part

if TYPE_CHECKING:
    from ._bench import Bench

#: What is measured in one piece: the names that tell it from the experiment's other cells.
Cell = tuple[str, ...]
#: What was observed in a cell, plain JSON.
Observation = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an experiment found for one arm.

    Attributes:
        values: Every number by name; `None` where it is undefined.
        n: How many items were judged.
        intervals: Bootstrap intervals of some of the values.
        labels: The headline per label, where that means something: `value`, `interval`, `n`.
        parts: What a report shows of the arm: matrices, charts, samples.
        settings: What the numbers cannot be reproduced without.
    """

    values: Mapping[str, float | None]
    n: int
    intervals: Mapping[str, tuple[float, float] | None] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    parts: Sequence[Part] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Experiment(ABC):
    """Base of all experiments. Fields are the parameters.

    Class attributes:
        name: What the registry, reports and the command line call it.
        title: What a person calls it.
        question: What it answers, in one sentence.
        definition: How the headline number is made.
        primary: The value that stands for it.
        higher_is_better: Whether more of it is better.
        units: What values are counted in that are no shares.
        material: The kinds of data it reads; the first one must be there.
        unsteered: Whether the arm without any set means something here.
        directions: Whether directions (the diffmean control), which have no neurons of their own
            to switch off, can take part.
        seeds: At most so many random sets take part; `None` is all that were asked for.
        spoken: Whether labels must be languages that the identifier can hear.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    question: ClassVar[str] = ""
    definition: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    primary: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    units: ClassVar[Mapping[str, str]] = {}
    material: ClassVar[tuple[str, ...]] = ("prompts",)
    unsteered: ClassVar[bool] = True
    directions: ClassVar[bool] = True
    seeds: ClassVar[int | None] = None
    spoken: ClassVar[bool] = True

    #: Items per label; the run's own limit, where there is one, comes first.
    items: int = 12

    def __post_init__(self) -> None:
        """Refuse a number of items below one."""
        if self.items < 1:
            raise ParameterError(f"The experiment {self.name!r} needs items ≥ 1; got {self.items}.")

    @abstractmethod
    def cells(self, bench: Bench) -> list[Cell]:
        """Return the cells, in the order in which they are measured."""

    @abstractmethod
    def run(self, bench: Bench, cell: Cell) -> dict[str, Any]:
        """Measure one cell under the arm that is attached to the bench."""

    @abstractmethod
    def judge(self, bench: Bench, found: Mapping[Cell, Observation]) -> Outcome:
        """Return what an arm's observations amount to."""

    def cells_of_arm(self, bench: Bench, arm: str) -> list[Cell]:
        """Return the cells that an arm is measured in; without a set, often fewer will do."""
        del arm
        return self.cells(bench)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def count(self, bench: Bench) -> int:
        """Return how many items per label are taken."""
        return self.items if bench.settings.limit is None else bench.settings.limit


EXPERIMENTS: Registry[type[Experiment]] = Registry(
    "experiment", "neuronsteer.evaluation.experiments"
)


def experiment(spec: str | Experiment | Mapping[str, Any], **parameters: Any) -> Experiment:
    """Return the experiment called `spec`, with these parameters.

    Raises:
        UnknownNameError: If there is no such experiment.
        ParameterError: If it has no such parameter.
    """
    return create(Experiment, EXPERIMENTS, spec, parameters)
