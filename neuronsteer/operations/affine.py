"""The four operations of the literature: zero, scale, set, add."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from . import OPERATIONS, Operation, Values, percentile

#: Statistics that a row may carry and an operation may use as its value; percentiles (`p10`), too.
SOURCES = ("mean", "median", "max", "diffmean", "other_mean", "layer_mean")


def _values(rows: Values, site: str, value: str | float, factor: float) -> torch.Tensor:
    if isinstance(value, str):
        return rows.value(value, site).to(torch.float32) * factor
    return _constant(rows, float(value) * factor)


def _constant(rows: Values, number: float) -> torch.Tensor:
    # A number that 32 bits cannot hold becomes infinite, which is refused with its label and layer.
    return torch.full((len(rows),), number, dtype=torch.float64).to(torch.float32)


@OPERATIONS.register("zero")
@dataclasses.dataclass(frozen=True)
class Zero(Operation):
    """Switch the neurons off: `a -> 0` (LAPE's deactivation)."""

    name: ClassVar[str] = "zero"

    def affine(self, rows: Values, site: str) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG002
        """Return scale 0 and shift 0 for every row."""
        return torch.zeros(len(rows)), torch.zeros(len(rows))


@OPERATIONS.register("scale")
@dataclasses.dataclass(frozen=True)
class Scale(Operation):
    """Multiply the neurons by a factor: `a -> factor * a`."""

    name: ClassVar[str] = "scale"
    unbounded: ClassVar[bool] = True

    factor: float = 2.0

    def __post_init__(self) -> None:
        self.require_finite("factor")

    def affine(self, rows: Values, site: str) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG002
        """Return the factor as scale and shift 0 for every row."""
        return _constant(rows, float(self.factor)), torch.zeros(len(rows))


@dataclasses.dataclass(frozen=True)
class _Valued(Operation):
    """An operation with a value per neuron: a stored statistic or one number for all."""

    value: str | float = "mean"
    factor: float = 1.0

    def __post_init__(self) -> None:
        self.require_finite("factor")
        if not isinstance(self.value, str):
            self.require_finite("value")
        elif self.value not in SOURCES and percentile(self.value) is None:
            raise self.invalid(
                "value",
                f"expected a number, one of {', '.join(SOURCES)}, or a percentile such as p10",
            )

    @property
    def relative(self) -> bool:
        """Whether the value is taken from, or compared with, what is left."""
        return self.value in ("diffmean", "other_mean")


@OPERATIONS.register("set")
@dataclasses.dataclass(frozen=True)
class Set(_Valued):
    """Set the neurons to a value: `a -> factor * value` (replacement, patching)."""

    name: ClassVar[str] = "set"

    def affine(self, rows: Values, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale 0 and the value as shift for every row."""
        return torch.zeros(len(rows)), _values(rows, site, self.value, self.factor)


@OPERATIONS.register("add")
@dataclasses.dataclass(frozen=True)
class Add(_Valued):
    """Push the neurons by a value: `a -> a + factor * value`."""

    name: ClassVar[str] = "add"
    unbounded: ClassVar[bool] = True

    value: str | float = "diffmean"

    def affine(self, rows: Values, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale 1 and the value as shift for every row."""
        return torch.ones(len(rows)), _values(rows, site, self.value, self.factor)
