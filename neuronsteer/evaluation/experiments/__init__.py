"""Experiments: one file per question about a neuron set, answered beside its controls.

An experiment is divided into cases, the smallest pieces that are measured, saved and resumed. Every
case is measured under several treatments of the model: the set itself, and the controls. `run`
observes one case under the treatment that is attached; `score` turns a treatment's observations
into numbers, without a model. A new experiment is a new file in this folder that registers itself
with `@EXPERIMENTS.register("name")`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ParameterError
from ...registry import Registry, create
from ..bootstrap import averaged, interval, mean
from ..metrics import Score
from ..reports.blocks import Block

if TYPE_CHECKING:
    from ..readers import EvaluationData
    from ._model_under_test import ModelUnderTest

#: The names that tell a case from the experiment's other cases.
Case = tuple[str, ...]
#: What was observed in a case, plain JSON.
Observation = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What an experiment found for one treatment.

    Attributes:
        values: Every number by name; `None` where it is undefined.
        n: How many items were scored.
        intervals: Bootstrap intervals of some of the values.
        labels: The headline per label, where that means something: `value`, `interval`, `n`.
        blocks: What a report shows of the treatment: matrices, charts, samples.
    """

    values: Mapping[str, float | None]
    n: int
    intervals: Mapping[str, tuple[float, float] | None] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    blocks: Sequence[Block] = ()


@dataclasses.dataclass(frozen=True)
class Experiment(ABC):
    """Base of all experiments. Fields are the parameters.

    Class attributes:
        name: What the registry, reports and the command line call it.
        title: Readable name.
        question: What it answers, in one sentence.
        definition: How the headline number is made.
        primary: The value that stands for it.
        higher_is_better: Whether more of it is better.
        units: What values are counted in, if they are not shares.
        reads: The kinds of data it reads; the first one must be there.
        unsteered: Whether the treatment without any set means something here.
        directions: Whether directions (the diffmean control), which have no neurons of their own
            to switch off, can take part.
        seeds: At most so many random sets take part; `None` is all that were asked for.
        baselines: Treatments that are compared with in this experiment only.
        by_default: Whether it is among the experiments of a run that names none.
        identifies: Whether it identifies languages of texts: labels must then be languages that the
            identifier knows.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    question: ClassVar[str] = ""
    definition: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    primary: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    units: ClassVar[Mapping[str, str]] = {}
    reads: ClassVar[tuple[str, ...]] = ("prompts",)
    unsteered: ClassVar[bool] = True
    directions: ClassVar[bool] = True
    seeds: ClassVar[int | None] = None
    baselines: ClassVar[tuple[str, ...]] = ()
    by_default: ClassVar[bool] = True
    identifies: ClassVar[bool] = True

    #: Items per label; the run's own limit, where there is one, comes first.
    items: int = 12

    def __post_init__(self) -> None:
        """Refuse a number of items below one."""
        if self.items < 1:
            raise ParameterError(f"The experiment {self.name!r} needs items ≥ 1; got {self.items}.")

    @abstractmethod
    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the cases, in the order in which they are measured."""

    @abstractmethod
    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Measure one case under the treatment that is attached."""

    @abstractmethod
    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return the numbers of one treatment, from its observations."""

    def case_numbers(self, case: Case, seen: Observation) -> Mapping[str, Any]:
        """Return what an experiment tracker is told about one case; nothing, unless it is a point.

        Args:
            case: The case.
            seen: What was observed.
        """
        del case, seen
        return {}

    def cases_of_treatment(self, tested: ModelUnderTest, treatment: str) -> list[Case]:
        """Return the cases of one treatment; without a set, fewer often suffice."""
        del treatment
        return self.cases(tested)

    def check(self, tested: ModelUnderTest) -> None:
        """Raise if it cannot be measured here: before all the work, not after.

        Raises:
            NeuronSteerError: What is missing. Where the experiment was not asked for by name, it is
                left out, and the message becomes a note.
        """
        del tested

    def kinds(self, data: EvaluationData) -> tuple[str, ...]:
        """Return the kinds of data that it reads where there is this data."""
        del data
        return self.reads

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def count(self, tested: ModelUnderTest) -> int:
        """Return how many items per label are taken."""
        return self.items if tested.settings.limit is None else tested.settings.limit

    def finding(
        self,
        tested: ModelUnderTest,
        n: int,
        values: Mapping[str, float | None | Sequence[float | bool]],
        labels: Mapping[str, Sequence[float | bool] | Score | Mapping[str, Any]],
        *blocks: Block,
        intervals: Mapping[str, tuple[float, float] | None] | None = None,
    ) -> Finding:
        """Return a `Finding`; for plugins.

        Args:
            tested: Whose seed the bootstraps take.
            n: How many items were scored.
            values: Every number by name. A list, one number per item, stands for its mean and gets
                a bootstrap interval.
            labels: The headline per label: as a list, as a score of a metric, or spelled out as
                `value`, `interval`, `n`. Labels without items are left out.
            *blocks: What a report shows beside the numbers.
            intervals: Intervals of values that are not lists.
        """
        seed = tested.settings.seed
        means, found = averaged(values, seed=seed)
        return Finding(
            means,
            n,
            {**found, **(intervals or {})},
            {label: _headline(each, seed) for label, each in labels.items() if each},
            blocks,
        )


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


def _headline(found: Sequence[float | bool] | Score | Mapping[str, Any], seed: int) -> Any:
    if isinstance(found, Score):
        return {"value": found.value, "interval": found.interval, "n": found.n}
    if isinstance(found, Mapping):
        return found
    return {"value": mean(found), "interval": interval(found, seed=seed), "n": len(found)}
