"""Average precision: units whose response tells the texts of a label from all others."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from ..models import SITES
from ..neuron_set import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import require_several_labels, responses
from ._ranking import average_precision, median

if TYPE_CHECKING:
    from ..stats import Stats


@DETECTORS.register("average_precision")
@dataclasses.dataclass(frozen=True)
class AveragePrecision(Detector):
    """Units that rank a label's texts first, or last, by their mean response.

    The response of a unit to a text is its mean over the text's tokens. For every label the texts
    of the label are the positives and all others the negatives, and a unit's average precision says
    how well its response ranks the positives first. The `per_label` best and, with `which="both"`,
    the `per_label` worst units of all layers are selected: the worst respond *less* in the label.

    By default steering sets a selected unit to the median of its responses to the label's texts
    (column `<site>.median`); `<site>.ap` keeps the average precision. A row's score is the average
    precision p of a best unit and 1 - p of a worst one. Ties go to the lower layer and index, and a
    unit that would be both is a best one.

    Args:
        per_label: How many best units, and how many worst, for every label.
        which: "top", "bottom" or "both".
        site: Where the responses were collected.

    Paper: Kojima et al. (2024), "On the Multilingual Ability of Decoder-based Pre-trained Language
    Models". Their code looks at the output of every linear layer at once, before activations; here
    a set is about one site, and `mlp.neuron` is the default. Its responses include the BOS token,
    which the default token policy here leaves out. It ranks the texts of one unit after the other;
    of equal responses the numbers are the same.
    """

    name: ClassVar[str] = "average_precision"
    paper: ClassVar[str] = "Kojima et al. 2024, Multilingual Ability (arXiv:2404.02431)"
    granularity: ClassVar[str] = "unit of any site"
    cost: ClassVar[str] = "per-text responses in memory; about 10 s for 1,000 texts of a 7B model"

    per_label: int = 1000
    which: str = "both"
    site: str = "mlp.neuron"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(1, "per_label")
        self.require_one_of("which", ("top", "bottom", "both"))
        self.require_one_of("site", SITES)

    @property
    def needs(self) -> tuple[Need, ...]:
        """One row of responses per text."""
        return (Need("responses", self.site),)

    #: What steering does with the selected units.
    operation: ClassVar[dict[str, str]] = {"name": "set", "value": "median"}

    def select(self, stats: Stats) -> NeuronSet:
        """Return the units of each label by the rule in the class docstring."""
        require_several_labels(stats, self.title)
        rows, layer, index = responses(stats, self.site, self.title)
        precision = average_precision(rows)
        picks, scores, middles = [], [], []
        for k, found in enumerate(precision):
            chosen, score = self._best(found)
            picks.append(chosen)
            scores.append(score)
            middles.append(median(rows[k][:, chosen]))
        label = torch.arange(len(picks)).repeat_interleave(torch.tensor([len(p) for p in picks]))
        pick = torch.cat(picks)
        return neuron_set(
            self,
            stats,
            label,
            layer[pick],
            index[pick],
            torch.cat(scores),
            site=self.site,
            values={
                f"{self.site}.median": torch.cat(middles),
                f"{self.site}.ap": precision[label, pick],
            },
            operation=dict(self.operation),
            results={"texts": {name: len(r) for name, r in zip(stats.labels, rows, strict=True)}},
        )

    def _best(self, precision: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = min(self.per_label, len(precision))
        none = torch.empty(0, dtype=torch.int64)
        best = worst = none
        if self.which != "bottom":
            best = precision.argsort(descending=True, stable=True)[:count]
        if self.which != "top":
            worst = precision.argsort(stable=True)[:count]
            worst = worst[~torch.isin(worst, best)]
        return torch.cat([best, worst]), torch.cat([precision[best], 1 - precision[worst]])
