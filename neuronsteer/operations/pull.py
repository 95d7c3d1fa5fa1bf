"""Pull: towards the mean of the label, and by some of the difference of means beyond."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from . import OPERATIONS, Operation, Values


@OPERATIONS.register("pull")
@dataclasses.dataclass(frozen=True)
class Pull(Operation):
    """Pull the neurons: `a -> a + share * (value - a) + factor * diffmean`.

    Between "set", which discards the neuron's own value, and "add", which pushes on although
    the text is in the language already. A neuron far from the label's mean is moved far, one that
    is there is moved by `factor` only; so with the same success, text of the label suffers less.

    With `value="other_mean"` and a negative factor it does the opposite: away from the label, to
    what its neurons do elsewhere. That is what a minus means for sets that pull (`"fr - en"`).

    Args:
        value: What to pull to: "mean", the label's, or "other_mean", its source's.
        share: Which part of the way, 0 to 1.
        factor: How much of the difference of means (the label's minus its source's) on top.
    """

    name: ClassVar[str] = "pull"
    unbounded: ClassVar[bool] = True

    value: str = "mean"
    share: float = 0.5
    factor: float = 0.5

    def __post_init__(self) -> None:
        self.require_one_of("value", ("mean", "other_mean"))
        self.require_share("share", zero=True)
        self.require_finite("factor")

    @property
    def relative(self) -> bool:
        """Always: it moves by the difference to what is left."""
        return True

    def affine(self, rows: Values, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is left of the neuron as scale, mean and difference as shift."""
        shift = self.factor * rows.value("diffmean", site).to(torch.float32)
        if self.share:
            shift = shift + self.share * rows.value(self.value, site).to(torch.float32)
        return torch.full((len(rows),), 1 - self.share), shift
