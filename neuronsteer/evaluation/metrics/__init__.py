"""Metrics: one file per number that says whether steering worked, or what it broke.

Every metric has `compute`, which is pure: columns of texts or numbers in, a `Score` out. The same
columns are what the `evaluate` library passes. Metrics that read a model's probabilities also have
`measure`, which fills the columns with the model and a steerer and then computes. A new metric is a
new file in this folder that registers itself with `@METRICS.register("name")`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...errors import ParameterError, did_you_mean
from ...registry import Registry, create
from ..bootstrap import averaged
from ..json_values import named, plain


@dataclasses.dataclass(frozen=True)
class Score:
    """What a metric returns, the same shape for all of them and ready for JSON.

    Attributes:
        metric: Name of the metric.
        primary: Which of `values` is the metric's headline.
        higher_is_better: Whether more of it is better.
        n: How many items were scored.
        values: Every number by name. `None` where it is undefined, never a silent zero.
        intervals: Bootstrap confidence intervals of some of the values.
        details: Breakdowns: matrices, per language, per item.
        settings: What is needed to reproduce the numbers: identifier, tokenizer, seed.
    """

    metric: str
    primary: str
    higher_is_better: bool
    n: int
    values: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The headline number."""
        return self.values[self.primary]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval of the headline number."""
        return self.intervals.get(self.primary)

    def __getitem__(self, name: str) -> float | None:
        try:
            return self.values[name]
        except KeyError:
            raise ParameterError(
                f"The metric {self.metric!r} has no value {name!r}."
                f"{did_you_mean(name, self.values)} It has {', '.join(self.values)}."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the score as plain JSON types; what is not a finite number is `None`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain(fields)


@dataclasses.dataclass(frozen=True)
class Metric(ABC):
    """Base of all metrics. Fields are the parameters; they are written into the score's settings.

    Class attributes:
        name: What the registry and the reports call it.
        title: Readable name.
        paper: What to cite.
        primary: The value that stands for the metric.
        higher_is_better: Whether more of the primary value is better.
        columns: The arguments of `compute`, one entry per item, with their type: `string`,
            `strings` (a list per item), `float`, `floats` or `int`.
        optional: Further columns that may be left out.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    primary: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, str]] = {}
    optional: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def compute(self, *args: Any, **kwargs: Any) -> Score:
        """Return the score of these columns."""

    @property
    def needs_model(self) -> bool:
        """Whether the columns are probabilities, which `measure` reads off a model."""
        return hasattr(self, "measure")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def score(
        self,
        n: int,
        values: Mapping[str, float | None | Sequence[float | bool]],
        intervals: Mapping[str, tuple[float, float] | None] | None = None,
        details: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Score:
        """Return a `Score` of this metric; for plugins.

        Args:
            n: How many items were scored.
            values: Every number by name. A list, one number per item, stands for its mean and gets
                a bootstrap interval.
            intervals: Intervals of values that are not lists.
            details: Breakdowns.
            **settings: What is recorded beside the parameters.
        """
        means, found = averaged(values, seed=getattr(self, "seed", 0))
        return Score(
            self.name,
            self.primary,
            self.higher_is_better,
            n,
            means,
            {k: each for k, each in {**found, **(intervals or {})}.items() if each is not None},
            dict(details or {}),
            named(self.parameters() | settings),
        )


#: The first columns of metrics about interventions: whose neurons were changed, and what was read.
INTERVENTION: Mapping[str, str] = {"intervened": "string", "evaluated": "string"}

METRICS: Registry[type[Metric]] = Registry("metric", "neuronsteer.evaluation.metrics")


def metric(name: str | Metric, **parameters: Any) -> Metric:
    """Return the metric called `name`, with these parameters.

    Raises:
        UnknownNameError: If there is no such metric.
        ParameterError: If it has no such parameter, or a value is out of range.
    """
    return create(Metric, METRICS, name, parameters)


def aligned(metric: str, **columns: Sequence[Any] | None) -> int:
    """Return the common length of the columns; `None` is a column that was left out.

    Raises:
        ParameterError: If they differ in length, or are empty.
    """
    lengths: dict[str, int] = {}
    for name, each in columns.items():
        if isinstance(each, str):
            raise ParameterError(
                f"The metric {metric!r} got one string as {name}; it takes a list, one per item."
            )
        if each is not None:
            lengths[name] = len(each)
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ParameterError(f"The columns of {metric!r} differ in length ({found}).")
    n = next(iter(lengths.values()), 0)
    if n == 0:
        raise ParameterError(
            f"The metric {metric!r} got no items; a rate over nothing is not a number."
        )
    return n


def check_share(name: str, value: float) -> None:
    """Raise unless a parameter is a share."""
    if not 0.0 <= value <= 1.0:
        raise ParameterError(f"{name} must be in [0, 1]; got {value}.")


def check_choice(name: str, value: str, options: Sequence[str]) -> None:
    """Raise unless a parameter is one of its options."""
    if value not in options:
        raise ParameterError(f"{name} must be one of {', '.join(options)}; got {value!r}.")
