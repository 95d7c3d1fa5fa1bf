"""Differences of means as directions: the strong baseline that selects nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from ..models import SITES
from ..models.layer_choice import Layers, chosen_layers
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import MEANS, OTHERS
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import places
from ._sources import check_source, source_mean

if TYPE_CHECKING:
    from ..stats import Stats


@DETECTORS.register("diffmean")
@dataclasses.dataclass(frozen=True)
class DiffMean(Detector):
    """For every layer the vector from the source's mean state to the label's.

    Every unit of the chosen layers gets a row, for every label, so that adding `factor` times the
    rows' difference of means adds the whole vector. At `resid` the units are the coordinates of the
    residual stream after the layer, and a vector that is added in one layer goes on to all later
    ones; at `mlp.neuron` they are all neurons. A row's score is the size of its difference.

    It does not tell which neurons matter; it is what a method that does must be compared with.

    Args:
        site: `"resid"`, `"mlp.neuron"`, or any other site whose sums were collected.
        layers: The layers, e.g. "0-3", 5 or [0, -1]. `None` means all of them, except at `resid`
            the one in the middle: each layer's vector contains those of the layers before it.
        source: What the scores compare with: a label, or "others", the mean of the other labels'
            means. The source label's own rows are compared with all others. A label is also what
            steering leaves by default; otherwise that is read off the prompt.
        factor: How much of the difference the default operation adds.

    Paper: Marks and Tegmark (2023), "The Geometry of Truth"; for languages CLaS-Bench
    (arXiv:2601.08331), and Gurgurov et al. (2025), "Language Arithmetics", within selected neurons.
    The latter's code takes means of the gate's activation; here `mlp.neuron` is what enters the
    down projection, so that the direction is the one in which the model's state moves.
    """

    name: ClassVar[str] = "diffmean"
    paper: ClassVar[str] = "Marks and Tegmark 2023 (arXiv:2310.06824); CLaS-Bench 2026"
    granularity: ClassVar[str] = "direction"

    site: str = "resid"
    layers: Layers | None = None
    source: str = OTHERS
    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_of("site", SITES)
        self.require_finite("factor")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Sums of the values."""
        return (Need("sum", self.site),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return a row for every unit of the chosen layers and every label."""
        check_source(stats, self.source, self.title)
        chosen = self._layers(stats)
        _, layer, index = places(stats, self.site)
        kept = torch.isin(layer, torch.tensor(chosen))
        layer, index, count = layer[kept], index[kept], len(stats.labels)
        label = torch.arange(count).repeat_interleave(len(layer))
        place = (label, layer.repeat(count), index.repeat(count))
        mean = stats.mean(self.site)
        score = (mean.double() - source_mean(stats, mean, self.source)).abs()[place]
        return neuron_set(
            self,
            stats,
            *place,
            score,
            site=self.site,
            # Dense rows: every further column would cost as much as the direction itself.
            keep=(MEANS,),
            source=self.source,
            operation={"name": "add", "value": "diffmean", "factor": self.factor},
            results={"layers": chosen},
        )

    def _layers(self, stats: Stats) -> list[int]:
        total = len(stats.site_widths[self.site])
        if self.layers is None:
            # The output of layer (L - 1) // 2 is halfway through the model.
            return [(total - 1) // 2] if self.site == "resid" else list(range(total))
        return chosen_layers(self.layers, total, self.title)
