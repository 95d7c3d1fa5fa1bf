"""Sparse residual dimensions: the few coordinates of the state in which languages differ."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from ..models.layer_choice import Layers
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import MEANS
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._directions import MASSIVE, SITE, addition, direction_layers, massive_coordinates
from ._sources import check_source, source_mean

if TYPE_CHECKING:
    from ..stats import Stats


@DETECTORS.register("dimensions")
@dataclasses.dataclass(frozen=True)
class Dimensions(Detector):
    """Sparse residual dimensions: few coordinates of the state in which a label differs most.

    A coordinate of the residual stream after a layer scores, for a label t and its source s,
    |mean_t - mean_s|. In every chosen layer the `per_label` best coordinates are selected for every
    label; one that does not differ is never selected, and ties go to the lower index. Adding
    `factor` times their differences is `diffmean` with all other coordinates left alone.

    A few coordinates of the residual stream are hundreds of times larger than all others, whatever
    the text, and their differences, though large, say little about the language. A coordinate is
    massive if the mean over the labels of |mean| is more than `massive` times the median of that
    number over its layer. Massive coordinates are never selected; `results` in the header lists
    them by layer.

    Args:
        per_label: How many coordinates to select for every label, in every chosen layer.
        rate: Select this share of a layer's coordinates for every label instead.
        massive: How many times the median of its layer the size of a coordinate must exceed for it
            to be massive; `None` leaves none out.
        layers: The layers, e.g. "0-3", 5 or [0, -1]; `None` means the one in the middle. "auto"
            chooses one layer from the means alone, by the rule of `diffmean`.
        source: What the scores compare with: a label, or "others", the mean of the other labels'
            means. The source label's own rows are compared with all others. A label is also what
            steering leaves by default; otherwise that is read off the prompt.
        factor: How much of the difference the default operation adds in every layer; `None` means
            2 / (n + 1) for n layers, as of `diffmean`.

    Paper: Zhong et al. (2025), "Language Lives in Sparse Dimensions" (arXiv:2510.07213). It
    overwrites the coordinates with a multiple of the label's mean where here the difference of the
    means is added (for the former use the operation "set" with "mean"), and takes differences from
    the model's own middle layer, or to parallel English text; here they are taken to the source.
    Leaving out massive coordinates is this project's addition.
    """

    name: ClassVar[str] = "dimensions"
    paper: ClassVar[str] = "Zhong et al. 2025, Sparse Dimensions (arXiv:2510.07213)"
    granularity: ClassVar[str] = "coordinate of the residual stream"
    chooses_layer: ClassVar[bool] = True

    per_label: int = 64
    rate: float | None = None
    massive: float | None = MASSIVE
    layers: Layers | None = None
    source: str = "others"
    factor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(1, "per_label", "massive")
        self.require_share("rate")
        self.require_finite("factor")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Sums of the states."""
        return (Need("sum", SITE),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the coordinates of each label by the rule in the class docstring."""
        check_source(stats, self.source, self.title)
        middle = (len(stats.site_widths[SITE]) - 1) // 2
        given = middle if self.layers is None else self.layers
        layers, results = direction_layers(stats, given, SITE, self.title)
        mean = stats.mean(SITE)
        left_out = torch.zeros(mean.shape[1:], dtype=torch.bool)
        if self.massive is not None:
            left_out = massive_coordinates(mean, self.massive)
        scores = (mean.double() - source_mean(stats, mean, self.source)).abs()
        scores = scores.masked_fill(left_out, 0.0)
        budget = self.per_label
        if self.rate is not None:
            budget = max(1, round(self.rate * scores.shape[-1]))
        label, layer, index = _best(scores, layers, budget)
        massive = {str(each): left_out[each].nonzero()[:, 0].tolist() for each in layers}
        return neuron_set(
            self,
            stats,
            label,
            layer,
            index,
            scores[label, layer, index],
            site=SITE,
            keep=(MEANS,),
            source=self.source,
            operation=addition(self.factor, layers),
            results={**results, "budget": budget, "massive": massive},
        )


def _best(
    scores: torch.Tensor, layers: list[int], budget: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return label, layer and index of the best of every label in each of the layers."""
    # Stable, so that equal scores stay in the order of the index.
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    taken = torch.zeros_like(scores, dtype=torch.bool)
    taken[..., :budget] = ordered[..., :budget] > 0
    kept = torch.zeros_like(taken).scatter(-1, order, taken)
    other = torch.ones(scores.shape[1], dtype=torch.bool)
    other[layers] = False
    kept[:, other] = False
    label, layer, index = kept.nonzero(as_tuple=True)
    return label, layer, index
