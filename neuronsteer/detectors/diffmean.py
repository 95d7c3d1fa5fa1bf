"""Differences of means as directions: the strong baseline that selects nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from ..models import SITES
from ..models.layer_choice import ALL, Layers
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import MEANS, OTHERS
from ..stats.needs import Need
from . import AUTO, DETECTORS, Detector, neuron_set
from ._directions import LEFT_OUT, SITE, addition, direction_layers, massive_coordinates
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
    residual stream after the layer; at `mlp.neuron` they are all neurons. A row's score is the size
    of its difference.

    This is what `detect` does by default: a small part of the vector in many layers, without the
    massive coordinates of the residual stream. Of what was tried on gemma-3-270m it steers best
    (`benchmarks/all_pairs.py`); for other models that has to be measured. It does not tell which
    neurons matter, and a method that does must be compared with it.

    A vector that is added in one layer goes on to all later ones, so that n layers take a smaller
    factor each. With `layers="all"` it is ReCoVeR (arXiv:2509.14814), which in addition gives every
    state its former length back. In gemma-3-270m that made no difference: with factor 0.1, 16 of 16
    short texts were fluent and in the language with it as without it, and with larger factors both
    broke the text (`benchmarks/norm_matters.py`).

    Args:
        site: `"resid"`, `"mlp.neuron"`, or any other site whose sums were collected.
        layers: The layers, e.g. "0-3", 5 or [0, -1]. `None` means all of them, except at `resid`
            every second one (0, 2, 4, …), which steered gemma-3-270m as well as all and takes half
            the space. "auto", at `resid`, chooses one layer from the means alone. In every layer,
            coordinates whose mean size (the mean over the labels of |mean|) is more than 20 times
            the layer's median are left out. Labels are apart by the root mean square distance of
            their means from the mean of the means, divided by the mean length of their means. Of
            the layers in which they are apart by at most 1.25 times the least, the middle one is
            chosen, of an even number the lower. `results` keeps the measure of every layer.
        source: What the scores compare with: a label, or "others", the mean of the other labels'
            means. The source label's own rows are compared with all others. A label is also what
            steering leaves by default; otherwise that is read off the prompt.
        factor: How much of the difference the default operation adds in every layer. `None` means,
            at `resid`, 2 / (n + 1) for n layers: after the last one the state has then moved by
            about one difference. Elsewhere it means 1.
        massive: At `resid`, how many times the median of its layer the size of a coordinate must
            exceed for it to be left out (see `dimensions`); `None` leaves none out.

    Paper: Marks and Tegmark (2023), "The Geometry of Truth"; for languages CLaS-Bench
    (arXiv:2601.08331), and Gurgurov et al. (2025), "Language Arithmetics", within selected neurons.
    The latter's code takes means of the gate's activation; here `mlp.neuron` is what enters the
    down projection, so that the direction is the one in which the model's state moves. Leaving out
    massive coordinates is this project's addition.
    """

    name: ClassVar[str] = "diffmean"
    paper: ClassVar[str] = "Marks and Tegmark 2023 (arXiv:2310.06824); CLaS-Bench 2026"
    granularity: ClassVar[str] = "direction"
    chooses_layer: ClassVar[bool] = True

    site: str = "resid"
    layers: Layers | None = None
    source: str = OTHERS
    factor: float | None = None
    massive: float | None = LEFT_OUT

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_of("site", SITES)
        self.require_at_least(1, "massive")
        self.require_finite("factor")
        if self.layers == AUTO and self.site != SITE:
            raise self.invalid("layers", f"'auto' chooses a layer of {SITE!r} only")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Sums of the values."""
        return (Need("sum", self.site),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return a row for every unit of the chosen layers and every label."""
        check_source(stats, self.source, self.title)
        given = self.layers
        if given is None:
            given = range(0, len(stats.site_widths[SITE]), 2) if self.site == SITE else ALL
        chosen, results = direction_layers(stats, given, self.site, self.title)
        mean = stats.mean(self.site)
        _, layer, index = places(stats, self.site)
        kept = torch.isin(layer, torch.tensor(chosen))
        if self.site == SITE and self.massive is not None:
            left_out = massive_coordinates(mean, self.massive)
            kept &= ~left_out[layer, index]
            results["massive"] = {str(k): left_out[k].nonzero()[:, 0].tolist() for k in chosen}
        layer, index, count = layer[kept], index[kept], len(stats.labels)
        label = torch.arange(count).repeat_interleave(len(layer))
        place = (label, layer.repeat(count), index.repeat(count))
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
            operation=addition(self.factor, chosen, self.site),
            results=results,
        )
