"""Contrastive neuron attribution: neurons that differ at the end of a label's prompts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from ..models.layer_choice import ALL, Layers, chosen_layers
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import OTHERS
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import places
from ._sources import check_source, source_mean

if TYPE_CHECKING:
    from ..stats import Stats

SITE = "mlp.neuron"


@DETECTORS.register("contrastive")
@dataclasses.dataclass(frozen=True)
class Contrastive(Detector):
    """Neurons that differ most at the last token of the prompts, without those that always matter.

    For a label t and its source s, neuron n scores |last_t[n] - last_s[n]|, where last is the mean,
    over the texts of a label, of the neuron's value at the text's last counted token: what enters
    the down projection. The share `rate` of all neurons of the model that score best is selected
    for every label; a neuron that does not differ is never selected. Ties go to the lower layer and
    index.

    Some neurons are large whatever the prompt is. A neuron is common if it is in the same share
    `rate` of all neurons by |last| in at least the share `common` of the labels, neutral ones that
    the statistics hold included. Common neurons are taken out of what was selected, and not
    replaced; `results` in the header counts them.

    The texts have to be prompts: where a model would begin to answer. By default steering
    multiplies the neurons by `factor`, as the paper does: 0 switches them off, above 1 amplifies
    them. To add the difference of means instead, collect "sum@mlp.neuron", too, and steer with the
    operation "add".

    The paper finds that multiplying them changes what instruction-tuned models do, and in base
    models hardly more than the topic. In gemma-3-270m, a base model, with statistics of plain
    sentences, multiplying by 2 or by 4 forced the language in none of 16 texts, adding the
    difference in a quarter of them.

    Args:
        rate: Share of all neurons to select for every label.
        common: Share of the labels in which a neuron must be among the largest for it to be left
            out; `None` leaves none out.
        source: What the scores compare with: a label, or "others", the mean of the other labels'
            means. The source label's own neurons are compared with all others.
        factor: What the default operation multiplies by.
        layers: The layers to select from, e.g. "0-3", 5 or [0, -1]; "all" by default. `rate`
            remains a share of all neurons of the model.

    Paper: Herring, Naviasky and Malhotra (2026), "Targeted Neuron Modulation via Contrastive Pair
    Search" (arXiv:2605.12290). It contrasts two sets of prompts; here a label is one set, and the
    other labels the other. It leaves out what is among the largest in most of many unrelated
    prompts, one by one; here what is so in most labels, by their means, because the statistics keep
    sums over texts.
    """

    name: ClassVar[str] = "contrastive"
    paper: ClassVar[str] = "Herring et al. 2026, Targeted Neuron Modulation (arXiv:2605.12290)"

    rate: float = 0.001
    common: float | None = 0.8
    source: str = OTHERS
    factor: float = 2.0
    layers: Layers = ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("rate", "common")
        self.require_finite("factor")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Sums of the values at the texts' last tokens."""
        return (Need("last", SITE),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each label by the rule in the class docstring."""
        check_source(stats, self.source, self.title)
        texts = torch.tensor([max(1, stats.texts[name]) for name in stats.labels])
        last = stats.get("last", SITE).double() / texts[:, None, None]
        real, layer, index = places(stats, SITE)
        scores = (last - source_mean(stats, last, self.source)).abs()[:, real]
        budget = max(1, round(self.rate * len(layer)))
        left_out = torch.zeros(len(layer), dtype=torch.bool)
        if self.common is not None:
            shares = _largest(last.abs()[:, real], budget).double().mean(0)
            left_out = shares >= self.common
        layers = chosen_layers(self.layers, stats.num_layers, self.title)
        allowed = torch.isin(layer, torch.tensor(layers))
        selected = _largest(scores.where(allowed, 0.0), budget)
        removed = int((selected.any(0) & left_out).sum())
        label, at = (selected & ~left_out).nonzero(as_tuple=True)
        return neuron_set(
            self,
            stats,
            label,
            layer[at],
            index[at],
            scores[label, at],
            site=SITE,
            source=self.source,
            operation={"name": "scale", "factor": self.factor},
            results={"budget": budget, "common": removed},
        )


def _largest(values: torch.Tensor, budget: int) -> torch.Tensor:
    """Return the mask of the largest numbers above 0 of every row, `budget` at most."""
    # Stable, so that equal numbers stay in the order of layer and index.
    ordered, order = values.sort(dim=1, descending=True, stable=True)
    taken = ordered > 0
    taken[:, budget:] = False
    return torch.zeros_like(taken).scatter(1, order, taken)
