"""Always active: neurons that are positive in every text of a label."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..neuron_set import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import responses
from ._ranking import median

if TYPE_CHECKING:
    from ..stats import Stats

SITE = "mlp.act"


@DETECTORS.register("always_active")
@dataclasses.dataclass(frozen=True)
class AlwaysActive(Detector):
    """Neurons whose gate is positive on average in (almost) every text of a label.

    The response of a neuron to a text is the mean of its gate activation over the text's tokens. A
    neuron belongs to every label in at least `share` of whose texts the response is above 0. Many
    neurons are active whatever the text; `max_members` leaves those out that belong to more labels.

    By default steering overwrites the gate activation with the largest or median response to the
    label's texts (columns `mlp.act.max` and `mlp.act.median`). A row's score is the smallest
    response to any text of the label.

    Args:
        share: Share of a label's texts in which the neuron must be positive.
        max_members: Leave neurons out that belong to more labels.
        patch: "max" or "median": what the gate is overwritten with.

    Paper: Rahmanisa et al. (2025), "Unveiling the Influence of Amplifying Language-Specific
    Neurons". In its code neurons of several labels are overwritten once per label and the last
    label wins; here the label that is steered to wins.
    """

    name: ClassVar[str] = "always_active"
    paper: ClassVar[str] = "Rahmanisa et al. 2025, Amplifying Language-Specific Neurons"
    cost: ClassVar[str] = "per-text responses in memory; seconds"

    share: float = 1.0
    max_members: int | None = None
    patch: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("share")
        self.require_at_least(1, "max_members")
        self.require_one_of("patch", ("max", "median"))

    @property
    def needs(self) -> tuple[Need, ...]:
        """One row of responses per text."""
        return (Need("responses", SITE),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each label by the rule in the class docstring."""
        rows, layer, index = responses(stats, SITE, self.title)
        # Counted, because a mean of booleans could round across the limit, as a product could.
        limits = [math.ceil(self.share * len(r) - 1e-9) for r in rows]
        member = torch.stack([(r > 0).sum(0) >= n for r, n in zip(rows, limits, strict=True)])
        if self.max_members is not None:
            member &= member.sum(0) <= self.max_members
        label, pick = member.nonzero(as_tuple=True)

        def of(reduce: Any) -> torch.Tensor:
            return torch.cat([reduce(r[:, m]) for r, m in zip(rows, member, strict=True)])

        return neuron_set(
            self,
            stats,
            label,
            layer[pick],
            index[pick],
            of(lambda r: r.amin(0)),
            site=SITE,
            values={
                f"{SITE}.max": of(lambda r: r.amax(0)),
                f"{SITE}.median": of(median),
                f"{SITE}.mean": of(lambda r: r.mean(0)),
            },
            operation={"name": "set", "value": self.patch, "site": SITE},
            results={"texts": {name: len(r) for name, r in zip(stats.labels, rows, strict=True)}},
        )
