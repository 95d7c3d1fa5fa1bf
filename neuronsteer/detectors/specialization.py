"""Specialisation: the fewest neurons that make up most of a layer's activity."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from ..neuron_set import NeuronSet
from ..stats.needs import Need
from ..stats.reducers.quantile import edges
from . import DETECTORS, Detector, neuron_set
from ._probability import require_several_labels

if TYPE_CHECKING:
    from ..stats import Stats

SITE = "mlp.neuron"


@DETECTORS.register("specialization")
@dataclasses.dataclass(frozen=True)
class Specialization(Detector):
    """Neurons that make up a layer's activity in a label, without those that do so in all labels.

    A neuron is active on a token when the size of its value at the down projection's input is at
    least a threshold. Per label and layer, neurons are taken in the order of how often they are
    active until together they make up `mass` of all the layer's activations; those that are taken
    in every label are left out. A row's score is the share of the label's tokens on which the
    neuron is active. Ties go to the lower index.

    Args:
        mass: Share of a layer's activations that the neurons must make up.
        threshold: Smallest size that counts, rounded up to a boundary of the histogram (four per
            power of two). `None` takes the smallest boundary above which at most `top` of all
            values of all labels lie.
        top: Share of all values that count as activations, without `threshold`.
        shared: Keep the neurons that are taken in every label, too.

    Paper: Trinley et al. (2025), "What Language(s) Does Aya-23 Think In?". Its code counts values
    that are not exactly 0, which for gated activations is nearly all of them, so that counts equal
    token counts and the order is arbitrary; hence the threshold here.
    """

    name: ClassVar[str] = "specialization"
    paper: ClassVar[str] = "Trinley et al. 2025, What Language(s) Does Aya-23 Think In"
    cost: ClassVar[str] = "histograms: 516 bytes per neuron and label; seconds"

    mass: float = 0.9
    threshold: float | None = None
    top: float = 0.05
    shared: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("mass", "top")
        largest = float(edges()[-1])
        if self.threshold is not None and not 0 < self.threshold <= largest:
            raise self.invalid("threshold", f"expected a number above 0 up to {largest:g}")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Histograms of the values."""
        return (Need("quantile", SITE),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each label by the rule in the class docstring."""
        require_several_labels(stats, self.title)
        histogram = stats.get("quantile", SITE)
        # Boundary b is the b-th positive one; active is what lies beyond it, on either side.
        positive = edges()[len(edges()) // 2 :]
        level = self._level(histogram, positive)
        active = _beyond(histogram, level, len(positive))
        member = torch.stack([_carrying(counts, self.mass) for counts in active])
        everywhere = member.all(0)
        if not self.shared:
            member &= ~everywhere
        label, layer, index = member.nonzero(as_tuple=True)
        tokens = torch.tensor([stats.tokens[name] for name in stats.labels])
        return neuron_set(
            self,
            stats,
            label,
            layer,
            index,
            active[label, layer, index] / tokens[label],
            site=SITE,
            results={
                "threshold": float(positive[level]),
                "active": float(active.sum() / histogram.sum(dtype=torch.int64)),
                "in_all_labels": int(everywhere.sum()),
            },
        )

    def _level(self, histogram: torch.Tensor, positive: torch.Tensor) -> int:
        if self.threshold is not None:
            return int((positive < self.threshold * (1 - 1e-6)).sum())
        pooled = histogram.flatten(0, -2).sum(0, dtype=torch.int64)
        limit = self.top * int(pooled.sum())
        for level in range(len(positive)):
            if int(_beyond(pooled, level, len(positive))) <= limit:
                return level
        return len(positive) - 1


def _beyond(histogram: torch.Tensor, level: int, count: int) -> torch.Tensor:
    """Return how many values are at least boundary `level` in size, of `[..., bins]`."""
    # Bins: below the lowest boundary, between each pair of neighbours, above the highest.
    low = histogram[..., : count - level].sum(-1, dtype=torch.int64)
    return low + histogram[..., count + level + 1 :].sum(-1, dtype=torch.int64)


def _carrying(counts: torch.Tensor, mass: float) -> torch.Tensor:
    """Return the mask of the fewest neurons per layer `[layers, width]` that make up `mass`."""
    ordered, order = counts.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    taken = (before < mass * counts.sum(1, keepdim=True)) & (ordered > 0)
    return torch.zeros_like(taken).scatter(1, order, taken)
