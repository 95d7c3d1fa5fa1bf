"""Effect: neurons whose change of mean moves the residual stream most; for steering."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..models.layer_choice import ALL, Layers, chosen_layers
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import OTHERS
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import places, require_several_labels
from ._sources import check_source, source_mean

if TYPE_CHECKING:
    from ..stats import Stats

SITE = "mlp.neuron"
#: As a source: the largest of the differences to the other labels.
ANY = "any"


@DETECTORS.register("effect")
@dataclasses.dataclass(frozen=True)
class Effect(Detector):
    """How far a neuron pushes the model from the source's typical state to the label's.

    For a label t and its source s, neuron n scores |mean_t[n] - mean_s[n]| times the length of n's
    column of the down projection: the distance by which the residual stream moves when the neuron's
    value is shifted by the difference of the means. The best of all layers together are selected,
    as many for every label; a neuron that does not differ is never selected. Ties go to the lower
    layer and index.

    The set's default operation is to add `factor` times the difference to what is left. Every row
    carries the means of all labels, so that one set steers from each of them to each other.

    This is the selector for sets that *steer*. The share and factor it takes depend on the model,
    and too much of either breaks the text: compare with `diffmean` and with random neurons
    (`examples/04_compare_methods.py`) before relying on it. To *describe* which neurons are
    active for which label only, use `lape`.

    Where to push matters as much as which neurons. In the package's demo model, 5 % of the neurons
    force a language in 99 % of generations and raise the perplexity on text of that language by
    65 %; 10 %, taken from the first two of six layers only, in 97 %, and by 16 %
    (`benchmarks/demo_sweep.py`). What holds for other models has to be measured.

    Args:
        rate: Share of all neurons to select for every label.
        per_label: Select this many for every label instead.
        source: What the scores compare with: a label; "others", the mean of the other labels'
            means; or "any", whichever other label it differs from most. The neurons of a label that
            is left are among the latter; of the mean of eleven labels they are a small part. The
            source label's own neurons are compared with all others. A label is also what steering
            leaves by default; otherwise that is read off the prompt.
        normalise: "std" divides the difference by the tokens' standard deviation (the root of the
            mean of the variances within label and source), as an effect size does; "none" does not.
        norms: Multiply by the column's length. Without, layers with large activations win.
        attribution: "norm" as above. "output" multiplies the difference by what the column does to
            the logits of the label's tokens, more than to those of the source's tokens, in place of
            its length: the direct path from the neuron to the output. Neurons that push away from
            the label are not selected. In the one model where both were measured they steered
            alike, so the default is the cheaper one.
        factor: How much of the difference the default operation adds.
        share: Above 0, the default operation is "pull": it also moves the neurons this part of the
            way to the label's mean, which spares text that is in the language already.
        layers: The layers to select from, e.g. "0-3", 5 or [0, -1]; "all" by default. `rate`
            remains a share of all neurons of the model.

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
    attribution: str = "norm"
    factor: float = 2.0
    share: float = 0.0
    layers: Layers = ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("rate")
        self.require_at_least(1, "per_label")
        self.require_one_of("normalise", ("none", "std"))
        self.require_one_of("attribution", ("norm", "output"))
        self.require_finite("factor")
        self.require_share("share", zero=True)

    @property
    def needs(self) -> tuple[Need, ...]:
        """Sums of the values, and what they are scaled by."""
        found = [Need("sum", SITE)]
        if self.normalise == "std":
            found.append(Need("sumsq", SITE))
        if self.attribution == "output":
            found.append(Need("attribution", SITE))
        elif self.norms:
            found.append(Need("norm", SITE))
        return tuple(found)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each label by the rule in the class docstring."""
        scores = self.scores(stats)
        count = len(stats.labels)
        real, layer, index = places(stats, SITE)
        budget = self.per_label or max(1, round(self.rate * len(layer)))
        layers = chosen_layers(self.layers, stats.num_layers, self.title)
        allowed = torch.isin(layer, torch.tensor(layers))
        picks: list[torch.Tensor] = []
        for k in range(count):
            flat = scores[k][real].where(allowed, 0.0)
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
            source=self.source,
            operation=self._operation(),
            results={"budget": budget},
        )

    def _operation(self) -> dict[str, Any]:
        if self.share:
            return {"name": "pull", "share": self.share, "factor": self.factor}
        return {"name": "add", "value": "diffmean", "factor": self.factor}

    def scores(self, stats: Stats) -> torch.Tensor:
        """Return the score of every neuron for every label, float64 `[labels, layers, width]`."""
        if self.source != ANY:
            check_source(stats, self.source, self.title)
            return self._against(stats, self.source)
        require_several_labels(stats, self.title)
        best = torch.zeros_like(stats.mean(SITE), dtype=torch.float64)
        for k, label in enumerate(stats.labels):
            found = self._against(stats, label)
            found[k] = 0.0  # the label itself, which is compared with the others there
            best = torch.maximum(best, found)
        return best

    def _against(self, stats: Stats, source: str) -> torch.Tensor:
        mean = stats.mean(SITE).double()
        found = mean - source_mean(stats, mean, source)
        if self.normalise == "std":
            variance = stats.std(SITE).double().square()
            spread = ((variance + source_mean(stats, variance, source)) / 2).sqrt()
            # Without any spread there is no token on which the neuron does something.
            found = torch.where(spread > 0, found / spread, 0.0)
        if self.attribution == "output":
            tokens = torch.tensor([stats.tokens[name] for name in stats.labels])
            towards = stats.get("attribution", SITE).double() / tokens[:, None, None]
            return (found * (towards - source_mean(stats, towards, source))).clamp(min=0)
        found = found.abs()
        return found * stats.norms(SITE).double() if self.norms else found
