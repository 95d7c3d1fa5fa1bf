"""Effect: neurons whose change of mean moves the residual stream most; for steering."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

import torch

from ..columns import MLP_SITES
from ..errors import ParameterError, StatsError, unknown_label
from ..neuronset import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set

if TYPE_CHECKING:
    from ..stats import Stats

SITE = "mlp.neuron"
OTHERS = "others"


@DETECTORS.register("effect")
@dataclasses.dataclass(frozen=True)
class Effect(Detector):
    """How far a neuron pushes the model from the source's typical state to the label's.

    For a label t and its source s, neuron n scores |mean_t[n] - mean_s[n]| times the length of n's
    column of the down projection: the distance by which the residual stream moves when the neuron's
    value is shifted by the difference of the means. The best of all layers together are selected,
    as many for every label; a neuron that does not differ is never selected. Ties go to the lower
    layer and index.

    The set's default operation is to add `factor` times that difference, which every row carries
    (`mlp.neuron.mean` minus `mlp.neuron.other_mean`, the latter being the mean of the source).

    This is the selector for sets that *steer*: 1 % of the neurons, chosen like this, turned a toy
    model round where as many of the lowest entropy did nothing. To *describe* which neurons are
    active for which label only, use `lape`.

    Args:
        rate: Share of all neurons to select for every label.
        per_label: Select this many for every label instead.
        source: What is steered away from: a label, or "others", the mean of the other labels'
            means. The source label's own neurons are compared with all others.
        normalise: "std" divides the difference by the tokens' standard deviation (the root of the
            mean of the variances within label and source), as an effect size does; "none" does not.
        norms: Multiply by the column's length. Without, layers with large activations win.
        factor: How much of the difference the default operation adds.

    Paper: none; this project's own. It differs from the "diffmean" operation of Gurgurov et al.
    (2025), "Language Arithmetics", in choosing neurons by the same quantity that it adds.
    """

    name: ClassVar[str] = "effect"
    paper: ClassVar[str] = "neuronsteer 2026 (this project)"

    rate: float = 0.01
    per_label: int | None = None
    source: str = OTHERS
    normalise: str = "none"
    norms: bool = True
    factor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate <= 1:
            raise ParameterError(f"Effect got rate={self.rate}; it is a share, above 0 up to 1.")
        if self.per_label is not None and self.per_label < 1:
            raise ParameterError(f"Effect got per_label={self.per_label}; expected at least 1.")
        if self.normalise not in ("none", "std"):
            raise ParameterError(
                f"Effect got normalise={self.normalise!r}; expected 'none' or 'std'."
            )
        if not math.isfinite(self.factor):
            raise ParameterError(f"Effect got factor={self.factor}; it must be finite.")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Sums of the values, and what they are scaled by."""
        found = [Need("sum", SITE)]
        if self.normalise == "std":
            found.append(Need("sumsq", SITE))
        if self.norms:
            found.append(Need("norm", SITE))
        return tuple(found)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each label by the rule in the class docstring."""
        scores = self.scores(stats)
        count = len(stats.labels)
        widths = torch.tensor(stats.site_widths[SITE])
        real = torch.arange(scores.shape[-1]) < widths[:, None]
        layer, index = real.nonzero(as_tuple=True)
        budget = self.per_label or max(1, round(self.rate * len(layer)))
        picks: list[torch.Tensor] = []
        for k in range(count):
            flat = scores[k][real]
            # Stable, so that equal scores stay in the order of layer and index.
            best = flat.argsort(descending=True, stable=True)[:budget]
            picks.append(best[flat[best] > 0])
        rows = torch.cat(picks)
        label = torch.arange(count).repeat_interleave(torch.tensor([len(p) for p in picks]))
        place = (label, layer[rows], index[rows])
        return neuron_set(
            self,
            stats,
            *place,
            scores[place],
            site=SITE,
            values={
                f"{site}.other_mean": self._source_mean(stats, stats.mean(site))[place]
                for site in MLP_SITES
                if stats.has("sum", site)
            },
            operation={"name": "add", "value": "diffmean", "factor": self.factor},
            results={"budget": budget},
        )

    def scores(self, stats: Stats) -> torch.Tensor:
        """Return the score of every neuron for every label, float64 `[labels, layers, width]`."""
        if len(stats.labels) < 2:
            raise StatsError(
                f"Effect compares labels, but these statistics hold only "
                f"{', '.join(stats.labels)}. Collect at least one more label, or merge statistics."
            )
        if self.source != OTHERS and self.source not in stats.labels:
            raise unknown_label(self.source, stats.labels, "these statistics")
        mean = stats.mean(SITE).double()
        found = (mean - self._source_mean(stats, mean)).abs()
        if self.normalise == "std":
            variance = stats.std(SITE).double().square()
            spread = ((variance + self._source_mean(stats, variance)) / 2).sqrt()
            # Without any spread there is no token on which the neuron does something.
            found = torch.where(spread > 0, found / spread, 0.0)
        if self.norms:
            found = found * stats.norms(SITE).double()
        return found

    def _source_mean(self, stats: Stats, each: torch.Tensor) -> torch.Tensor:
        """Return, for every label, the mean of `each` `[labels, …]` over its source labels."""
        total = each.double().sum(0, keepdim=True)
        others = (total - each.double()) / (len(stats.labels) - 1)
        if self.source == OTHERS:
            return others
        at = stats.labels.index(self.source)
        found = each[at].double().expand_as(others).clone()
        found[at] = others[at]
        return found
