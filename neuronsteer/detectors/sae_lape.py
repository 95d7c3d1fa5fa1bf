"""LAPE over the features of sparse autoencoders."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..codecs import FEATURE_SITES, open_codec
from ..errors import NeuronSteerError
from ..hub import public_name
from ..neuron_set import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import ascending, entropy, require_several_labels, table

if TYPE_CHECKING:
    from ..stats import Stats

log = logging.getLogger(__name__)


@DETECTORS.register("sae_lape")
@dataclasses.dataclass(frozen=True)
class SaeLape(Detector):
    """Features of autoencoders that are active in one label only.

    With p[f, k] the share of label k's tokens on which feature f is active:

    1. a feature is kept if some label has it active, at some token, in at least `examples` of its
       texts, and some label (not necessarily the same) on more than `tokens` of its tokens;
    2. it belongs to every label with p at least `members` times its largest p;
    3. with `count`, only features that belong to exactly so many labels stay: 1 means specific;
    4. of those, each label keeps the `top` of lowest entropy of p normalised to sum 1, of the whole
       model and, with `top_per_layer`, of every layer; or of highest p, with `by="frequency"`.

    A row's score is minus the entropy, or p. Ties go to the lower layer and index.

    Features are rows like any other neurons, at the site that the codec reads. Steering adds their
    decoder rows to the residual stream, by default 0.4 times the largest value each feature has in
    the label; the set carries these rows, so that it needs no codec any more. Collect with
    `collect(…, codec=…, needs=detector("sae_lape").needs)`.

    Args:
        examples: Share of a label's texts in which the feature must be active.
        tokens: Share of a label's tokens that it must exceed.
        members: Share of its largest probability that makes a label a member.
        count: Number of labels that a feature must belong to; `None` keeps all.
        top: Features per label; `None` keeps all.
        top_per_layer: Features per label and layer; `None` keeps all.
        by: "entropy" or "frequency": what the best ones have.
        max_entropy: Leave out features of larger entropy (in nats).
        factor: How much of each feature's largest value steering adds.
        codec: Folder of the autoencoders, to take decoder rows from; by default what the statistics
            were collected with, if it is still there.
        site: What the codec reads: "sae.resid" or "sae.mlp".

    Paper: Andrylie et al. (2025), "Sparse Autoencoders Can Capture Language-Specific Concepts
    Across Diverse Languages". Its scripts use members=0.5, its command line 0.8. Labels without
    features, which its lists leave out so that they no longer align, stay here; the largest values
    are per label, not over all of them.
    """

    name: ClassVar[str] = "sae_lape"
    paper: ClassVar[str] = "Andrylie et al. 2025, SAE-LAPE (arXiv:2507.11230)"
    granularity: ClassVar[str] = "feature of an autoencoder"
    cost: ClassVar[str] = "encoding every token while collecting; then seconds"

    examples: float = 0.98
    tokens: float = 0.1
    members: float = 0.5
    count: int | None = 1
    top: int | None = None
    top_per_layer: int | None = None
    by: str = "entropy"
    max_entropy: float | None = None
    factor: float = 0.4
    codec: str | None = None
    site: str = "sae.resid"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("examples", "tokens", "members", zero=True)
        self.require_at_least(1, "count", "top", "top_per_layer")
        self.require_one_of("by", ("entropy", "frequency"))
        self.require_one_of("site", FEATURE_SITES)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name, the codec's folder without its place on this machine."""
        return {**super().parameters(), "codec": public_name(self.codec)}

    @property
    def needs(self) -> tuple[Need, ...]:
        """On how many tokens and in how many texts features are active, and how much at most."""
        return tuple(Need(reducer, self.site) for reducer in ("count", "texts", "max"))

    def select(self, stats: Stats) -> NeuronSet:
        """Return the features of each label by the rule in the class docstring."""
        require_several_labels(stats, self.title)
        p, layer, index = table(stats, self.site)
        texts = stats.get("texts", self.site).double()[:, layer, index]
        seen = torch.tensor([max(stats.texts[name], 1) for name in stats.labels]).double()
        often = (texts / seen[:, None] >= self.examples).any(0)
        high = p.amax(0)
        kept = often & (high > self.tokens) & (high > 0)
        member = (p >= self.members * high) & kept & (p > 0)
        owners = member.sum(0)
        if self.count is not None:
            member &= owners == self.count
        spread = torch.where(high > 0, entropy(p.T.contiguous()), torch.inf)
        if self.max_entropy is not None:
            member &= spread <= self.max_entropy
        picks = [
            self._best(
                member[k].nonzero().flatten(), spread if self.by == "entropy" else -p[k], layer
            )
            for k in range(len(stats.labels))
        ]
        label = torch.arange(len(picks)).repeat_interleave(torch.tensor([len(x) for x in picks]))
        rows = torch.cat(picks)
        score = -spread[rows] if self.by == "entropy" else p[label, rows]
        found = neuron_set(
            self,
            stats,
            label,
            layer[rows],
            index[rows],
            score,
            site=self.site,
            operation={"name": "add", "value": "max", "factor": self.factor},
            results={
                "kept": int(kept.sum()),
                "owners": {
                    str(n): int(((owners == n) & kept).sum())
                    for n in range(1, len(stats.labels) + 1)
                },
            },
        )
        return self._with_directions(found, stats)

    def _best(
        self, candidates: torch.Tensor, cost: torch.Tensor, layer: torch.Tensor
    ) -> torch.Tensor:
        ordered = candidates[ascending(cost[candidates])]
        if self.top_per_layer is not None:
            place = torch.zeros(len(ordered), dtype=torch.int64)
            for each in layer[ordered].unique().tolist():
                here = (layer[ordered] == each).nonzero().flatten()
                place[here] = torch.arange(len(here))
            ordered = ordered[place < self.top_per_layer]
        return ordered if self.top is None else ordered[: self.top]

    def _with_directions(self, found: NeuronSet, stats: Stats) -> NeuronSet:
        spec = self.codec or stats.header.get("codec")
        if not spec or not len(found):
            return found
        try:
            return open_codec(spec).with_directions(found)
        except (NeuronSteerError, OSError) as error:
            if self.codec is not None:
                raise
            log.warning(
                "The set has no decoder rows, which steering needs: %s Add them with "
                "codec.with_directions(neurons).",
                error,
            )
            return found
