"""Ternary taxonomy: neurons that are specific to a label, related to several, or general."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..neuron_set import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import ascending, entropy, kth, require_several_labels, table

if TYPE_CHECKING:
    from ..stats import Stats

SPECIFIC, RELATED, GENERAL = KINDS = ("specific", "related", "general")

# The search of the released code.
_HIGHEST, _TOLERANCE = 0.2, 1e-3


@DETECTORS.register("ternary")
@dataclasses.dataclass(frozen=True)
class Ternary(Detector):
    """Entropy with a premium on high probability, and as many owners as there are.

    With p[n, k] the share of label k's tokens on which neuron n is positive, K the number of labels
    and H the entropy of p[n] normalised to sum 1 (a neuron that never fires counts as uniform, so
    it comes last):

    1. the score is H - lam * max p, and the `round(rate * neurons)` lowest are selected;
    2. the bar is the `round(bar * M)`-th smallest of all M probabilities; a neuron belongs to the
       N labels with p strictly above it: N = 1 makes it specific, 1 < N < K related, N = K general.
       Selected neurons without a label are orphans: counted, not stored (without a percentile
       filter before the selection, as LAPE has, there can be many);
    3. without a given `lam`, it is the largest one in [0, 0.2], found by bisection to 0.001, with
       which no selected neuron is general.

    General neurons are therefore looked for among all neurons, not among the selected. `results` in
    the header holds lam, the bar and how many neurons of each kind there are, per label; `classify`
    splits a set into the three kinds. A row's score is minus the score above. Ties go to the lower
    layer and index.

    The paper counts response tokens only: collect with `response_only=True` for that.

    Args:
        rate: Share of all neurons to select.
        bar: Quantile of the pooled probabilities that a label must exceed to own a neuron.
        lam: Weight of the largest probability; `None` searches for it.
        variant: "paper" uses the score above; "released" the one of the code,
            H / ln K - lam * max p / (H_K / K) with H_K the K-th harmonic number.
        kinds: What the set holds, joined by "+": "specific+related" is what the paper masks.
        site: Where positive values were counted.

    Paper: Zhang et al. (2025), "How does Alignment Enhance LLMs' Multilingual Capabilities? A
    Language Neurons Perspective". The released code normalises both terms, which the paper does not
    say (`variant="released"`), and has K = 10 written into its search.
    """

    name: ClassVar[str] = "ternary"
    paper: ClassVar[str] = "Zhang et al. 2025, Language Neurons and Alignment (arXiv:2505.21505)"

    rate: float = 0.01
    bar: float = 0.95
    lam: float | None = None
    variant: str = "paper"
    kinds: str = "specific+related"
    site: str = "mlp.act"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("rate")
        self.require_share("bar", zero=True)
        self.require_at_least(0, "lam")
        self.require_one_of("variant", ("paper", "released"))
        given = self.kinds.split("+")
        if len(set(given)) < len(given) or not set(given) <= set(KINDS):
            raise self.invalid("kinds", f"expected some of {', '.join(KINDS)}, joined by '+'")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Counts of positive values."""
        return (Need("count", self.site),)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each label by the rule in the class docstring."""
        require_several_labels(stats, self.title)
        p, layer, index = table(stats, self.site)
        labels, neurons = p.shape
        bar = kth(p, self.bar)
        member = p > bar
        owners = member.sum(0)
        high = p.amax(0)
        spread, premium = self._terms(p.T.contiguous(), high)

        def best(lam: float) -> torch.Tensor:
            return ascending(spread - lam * premium)[: round(self.rate * neurons)]

        lam = self.lam
        if lam is None:
            lam = _largest(lambda value: bool((owners[best(value)] < labels).all()))
        chosen = best(lam)
        selected = torch.zeros(neurons, dtype=torch.bool)
        selected[chosen] = True
        kind = {
            SPECIFIC: selected & (owners == 1),
            RELATED: selected & (owners > 1) & (owners < labels),
            GENERAL: owners == labels,
        }
        kept = torch.stack([kind[name] for name in self.kinds.split("+")]).any(0)
        rows, label = (member & kept).T.nonzero(as_tuple=True)
        return neuron_set(
            self,
            stats,
            label,
            layer[rows],
            index[rows],
            -(spread - lam * premium)[rows],
            site=self.site,
            orphans=int((owners[chosen] == 0).sum()),
            results={
                "lam": lam,
                "bar": bar,
                "selected": len(chosen),
                "general_selected": int((selected & kind[GENERAL]).sum()),
                "owners": _histogram(owners[selected & (owners > 0)]),
                "kinds": {name: int(found.sum()) for name, found in kind.items()},
                "members": {
                    name: dict(
                        zip(stats.labels, (member & kind[name]).sum(1).tolist(), strict=True)
                    )
                    for name in KINDS
                },
            },
        )

    def _terms(self, p: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = p.shape[1]
        spread = torch.where(high > 0, entropy(p), math.log(labels))
        if self.variant == "paper":
            return spread, high
        harmonic = sum(1 / k for k in range(1, labels + 1))
        return spread / math.log(labels), high / (harmonic / labels)


def classify(neurons: NeuronSet) -> dict[str, NeuronSet]:
    """Return the rows of a set by how many of its labels own the neuron.

    Works for sets of any method; their labels should be all that were compared.

    Returns:
        `"specific"` (one label), `"related"` (several) and `"general"` (all of them).
    """
    _, inverse, count = neurons.neuron_keys().unique(return_inverse=True, return_counts=True)
    owners, labels = count[inverse], len(neurons.labels)
    masks: dict[str, Any] = {
        SPECIFIC: owners == 1,
        RELATED: (owners > 1) & (owners < labels),
        GENERAL: (owners == labels) & (owners > 1),
    }
    return {name: neurons.take(mask, neurons.labels) for name, mask in masks.items()}


def _largest(fits: Any) -> float:
    """Return the largest weight that fits, by the bisection of the released code."""
    low, high = 0.0, _HIGHEST
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _histogram(values: torch.Tensor) -> dict[str, int]:
    found, counts = values.unique(return_counts=True)
    return {str(v): c for v, c in zip(found.tolist(), counts.tolist(), strict=True)}
