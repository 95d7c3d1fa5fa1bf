"""LAPE: neurons whose activation probability differs most between labels."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch

from ..neuron_set import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import ascending, kth, require_several_labels, table
from ._probability import entropy as entropy_of

if TYPE_CHECKING:
    from ..stats import Stats


@DETECTORS.register("lape")
@dataclasses.dataclass(frozen=True)
class Lape(Detector):
    """Language activation probability entropy.

    With p[n, k] the share of label k's tokens on which neuron n is positive:

    1. the threshold is the `round(filter * M)`-th smallest of all M probabilities, pooled over
       neurons and labels; a neuron with no label strictly above it is excluded, as is one that
       never fires;
    2. of the others, the `round(rate * neurons)` with the lowest entropy of p[n] normalised to
       sum 1 are selected (natural logarithm; `neurons` counts all of the model's);
    3. a selected neuron belongs to every label with p strictly above the bar, the
       `round(bar * M)`-th smallest probability. Without any it is an orphan: counted, not stored.

    A row's score is minus the entropy. Ties go to the lower layer and index.

    Args:
        rate: Share of all neurons to select.
        filter: Quantile of the pooled probabilities that some label must exceed.
        bar: Quantile of the pooled probabilities that a label must exceed to own the neuron.
        per_label: Select this many for every label instead of `rate` of the model: of the neurons
            that pass filter and bar for the label, those of lowest entropy.
        exclusive: Keep only neurons with exactly one owner.
        max_members: Keep only neurons with at most this many owners. With `rate` this removes
            from the selection; with `per_label` the next best neurons fill the budget.
        site: Where positive values were counted.

    Paper: Tang et al. (2024), "Language-Specific Neurons: The Key to Multilingual Capabilities in
    Large Language Models". The released code selects the same neurons where nothing ties; ties are
    arbitrary there, and labels at the end of the list that have no neurons are dropped. `per_label`
    is Kargaran et al. (2025), on programming languages.
    """

    name: ClassVar[str] = "lape"
    paper: ClassVar[str] = "Tang et al. 2024, Language-Specific Neurons (arXiv:2402.16438)"

    rate: float = 0.01
    filter: float = 0.95
    bar: float = 0.95
    per_label: int | None = None
    exclusive: bool = False
    max_members: int | None = None
    site: str = "mlp.act"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("rate")
        self.require_share("filter", "bar", zero=True)
        self.require_at_least(1, "per_label", "max_members")
        if self.exclusive and self.max_members not in (None, 1):
            raise self.invalid(
                "max_members", "exclusive=True already means one owner. Give one of them"
            )

    @property
    def needs(self) -> tuple[Need, ...]:
        """Counts of positive values."""
        return (Need("count", self.site),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each label by the rule in the class docstring."""
        require_several_labels(stats, self.title)
        labels = stats.labels
        # [labels, neurons]
        p, layer, index = table(stats, self.site)

        threshold = kth(p, self.filter)
        bar = threshold if self.bar == self.filter else kth(p, self.bar)
        high = p.amax(0)
        passing = ((high > threshold) & (high > 0)).nonzero().flatten()
        # One row per neuron. `passing` ascends, so positions in it break ties by layer and index.
        probability = p[:, passing].T.contiguous()
        entropy = entropy_of(probability)
        order = ascending(entropy)
        member = probability > bar
        owners = member.sum(1)
        limit = 1 if self.exclusive else self.max_members or len(labels)

        if self.per_label is None:
            chosen = order[: round(self.rate * p.shape[1])]
            orphans = int((owners[chosen] == 0).sum())
            selected = len(chosen)
            member[owners > limit] = False
            rows, label = member[chosen].nonzero(as_tuple=True)
            rows = chosen[rows]
        else:
            member[owners > limit] = False
            picks = [order[member[order, k]][: self.per_label] for k in range(len(labels))]
            rows = torch.cat(picks)
            sizes = torch.tensor([len(pick) for pick in picks])
            label = torch.arange(len(labels)).repeat_interleave(sizes)
            orphans, selected = 0, len(rows.unique())
        return neuron_set(
            self,
            stats,
            label,
            layer[passing[rows]],
            index[passing[rows]],
            -entropy[rows],
            site=self.site,
            orphans=orphans,
            results={"threshold": threshold, "bar": bar, "selected": selected},
        )
