"""CRANE: units whose relevance for the model's predictions has heavy tails within a label."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..errors import StatsError
from ..models import SITES
from ..neuron_set import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import places, require_several_labels

if TYPE_CHECKING:
    from ..stats import Stats

_RULES = ("z", "top_p", "margin")
_REDUCERS = {"paper": "relevance_moments", "released": "row_gradient_moments"}
_DRAWS = 10


@DETECTORS.register("crane")
@dataclasses.dataclass(frozen=True)
class Crane(Detector):
    """Units that are very relevant for some texts of a label and hardly for others.

    The relevance of a unit for a text is its value times the gradient of the mean logit of the
    text's own next tokens, summed over the text's counted tokens: one backward pass per text. The
    statistic is the excess kurtosis of a unit's relevance over the texts of a label, and z is how
    many standard deviations it lies above the mean over all units of the label. A unit is taken for
    a label by one of three rules:

    - "z": z is above `threshold`;
    - "top_p": it is among the share `rate` of all units with the highest z;
    - "margin": z is above `threshold` and exceeds the unit's z in every other label by `margin`.

    Labels share units freely in the first two. A unit whose relevance never varies has no kurtosis
    and is never taken. A row's score is z. Ties go to the lower layer and index. The default
    operation is to set the units to zero.

    `results` in the header holds, per label, the selected units' share of all relevance (sum over
    units of the mean square) beside that of as many random units of the same layers (mean and
    standard deviation of 10 draws): what has heavy tails need not matter more than chance.

    The approximation: layer-wise relevance propagation is a backward pass with changed rules. Value
    times gradient is its epsilon rule for linear layers; the changed rules for norms, activations
    and attention are left out. A gated neuron stands for three units of the paper: by the gradient,
    its row of the up projection and its column of the down projection have the same relevance, and
    the propagation rule gives the gate's row a fixed share of it.

    Args:
        rule: "z", "top_p" or "margin".
        threshold: What z must exceed, for "z" and "margin".
        rate: Share of all units for "top_p".
        margin: How far z must lie above that of any other label.
        site: Where the units are.
        variant: "paper" as above; "released" takes the sum of a weight row's gradient for its
            relevance, without the activation: the up projection's row at "mlp.neuron", the gate's
            at "mlp.act".

    Paper: Le and Li (2026), "CRANE". The code that was read is a fork of AttnLRP that shares its
    metric, languages and benchmarks. It patches the model's backward pass by propagation rules,
    pools rows of all three projections for z, and adds rows of the down projection, which are
    coordinates of the residual stream and no neurons. Its comparisons with other methods are not
    matched in size, and random units scored above its own in one of three languages.
    """

    name: ClassVar[str] = "crane"
    paper: ClassVar[str] = "Le and Li 2026, CRANE"
    granularity: ClassVar[str] = "unit of any site"
    cost: ClassVar[str] = "about 2 forward passes per text, with gradients"

    rule: str = "z"
    threshold: float = 1.0
    rate: float = 0.01
    margin: float = 1.0
    site: str = "mlp.neuron"
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_of("rule", ("z", "top_p", "margin"))
        self.require_finite("threshold")
        self.require_share("rate")
        self.require_at_least(0, "margin")
        self.require_one_of("variant", _REDUCERS)
        self.require_one_of("site", SITES)

    @property
    def needs(self) -> tuple[Need, ...]:
        """Moments of the relevance over texts."""
        return (Need(_REDUCERS[self.variant], self.site),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the units of each label by the rule in the class docstring."""
        if self.rule == "margin":
            require_several_labels(stats, f"{self.title} with rule='margin'")
        few = [name for name in stats.labels if stats.texts[name] < 4]
        if few:
            raise StatsError(
                f"{self.title} takes the kurtosis over texts, but label {few[0]!r} has only "
                f"{stats.texts[few[0]]}; expected at least 4, and hundreds to be of use."
            )
        real, layer, index = places(stats, self.site)
        moments = stats.get(self.needs[0].reducer, self.site)[:, real]
        texts = torch.tensor([stats.texts[name] for name in stats.labels])
        z = standardised(kurtosis(moments, texts))
        member = self._members(z)
        label, pick = member.nonzero(as_tuple=True)
        return neuron_set(
            self,
            stats,
            label,
            layer[pick],
            index[pick],
            z[label, pick],
            site=self.site,
            operation={"name": "zero"},
            results={"relevance": _control(stats.labels, moments, member, layer)},
        )

    def _members(self, z: torch.Tensor) -> torch.Tensor:
        if self.rule == "top_p":
            count = max(1, round(self.rate * z.shape[1]))
            best = z.argsort(dim=1, descending=True, stable=True)[:, :count]
            chosen = torch.zeros_like(z, dtype=torch.bool).scatter(1, best, True)
            return chosen & z.isfinite()
        member = z > self.threshold
        if self.rule == "margin":
            for k in range(len(z)):
                others = torch.cat([z[:k], z[k + 1 :]]).amax(0)
                member[k] &= z[k] - others >= self.margin
        return member


def kurtosis(moments: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return the excess kurtosis for sums of powers `[labels, units, 4]` of `count` numbers.

    The plain estimate: fourth central moment over squared variance, minus 3. NaN where nothing
    varies.
    """
    one, two, three, four = (moments / count[:, None, None]).unbind(-1)
    variance = two - one.square()
    central = four - 4 * one * three + 6 * one.square() * two - 3 * one**4
    # What is left of equal numbers is rounding.
    varies = variance > 1e-10 * two
    return torch.where(varies, central / variance.square() - 3, torch.nan)


def standardised(values: torch.Tensor) -> torch.Tensor:
    """Return z-scores within each label, over the units that have a number; -inf for the others."""
    known = ~values.isnan()
    count = known.sum(1, keepdim=True).clamp(min=1)
    mean = values.nan_to_num(nan=0.0).sum(1, keepdim=True) / count
    gap = torch.where(known, values - mean, 0.0)
    spread = (gap.square().sum(1, keepdim=True) / count).sqrt()
    z = torch.where(spread > 0, gap / spread, 0.0)
    return torch.where(known, z, -torch.inf)


def _control(
    labels: tuple[str, ...], moments: torch.Tensor, member: torch.Tensor, layer: torch.Tensor
) -> dict[str, Any]:
    """Return what share of all relevance the selected and random units have, per label."""
    found: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)
    for k, name in enumerate(labels):
        square = moments[k, :, 1]
        total = float(square.sum())
        if total <= 0 or not bool(member[k].any()):
            continue
        counts = torch.bincount(layer[member[k]], minlength=int(layer.max()) + 1)
        draws: list[float] = []
        for _ in range(_DRAWS):
            drawn = 0.0
            for each, size in enumerate(counts.tolist()):
                units = (layer == each).nonzero().flatten()
                pick = torch.randperm(len(units), generator=generator)[:size]
                drawn += float(square[units[pick]].sum())
            draws.append(drawn / total)
        spread = torch.tensor(draws)
        found[name] = {
            "selected": float(square[member[k]].sum()) / total,
            "random": float(spread.mean()),
            "random_std": float(spread.std()),
        }
    return found
