"""PLND: units that matter in every document of a label, but not in every label."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

import torch

from ..errors import ParameterError
from ..neuron_set import NeuronSet
from ..stats.needs import Need
from . import DETECTORS, Detector, neuron_set
from ._probability import require_several_labels

if TYPE_CHECKING:
    from ..stats import Stats

#: Where units can be measured; one set is about one of them.
SITES = ("mlp.neuron", "attn.q", "attn.k", "attn.v", "attn.o")
UNDERSTANDING, REASONING, GENERATION = STAGES = ("understanding", "reasoning", "generation")

_REDUCERS = {
    "paper": ("importance_min", "importance_rank"),
    "released": ("released_min", "released_rank"),
}


@DETECTORS.register("plnd")
@dataclasses.dataclass(frozen=True)
class Plnd(Detector):
    """Units whose absence would change their layer's output in all documents of a label.

    The importance of a unit for a document is the length of the change of the MLP's or attention's
    output, over the document's counted tokens, when the unit is off (set to zero). A unit is taken
    for a label when it is among the `top` most important of its layer in every document, or has an
    importance of at least `epsilon` in every document. Units that are taken for all labels are left
    out. A unit that changes nothing in some document is never taken.

    Collecting keeps, per unit, the smallest importance and the worst rank over the documents, so
    that `top` and `epsilon` can be chosen afterwards and memory does not grow with the documents.
    Importance comes from one forward pass, for all units at once. The more documents there are, the
    fewer units are in all of them: a label without rows needs a larger `top`.

    A set is about one site. The paper switches off all kinds of units together: collect the needs
    of every site, detect one set per site, `[detect(stats, "plnd", site=site) for site in SITES]`,
    and give the list to `attach`, which steers all of them at once. The default operation is to set
    the units to zero. A row's score is 1 - worst rank / width, or with `epsilon` the smallest
    importance, which every row carries as `<site>.importance`. Ties go to the lower index.

    Args:
        share: Share of a layer's units that are the most important ones of a document.
        top: Take this many per layer instead.
        epsilon: Take units of at least this importance instead.
        site: "mlp.neuron" (a row of the up and gate projections and a column of the down
            projection), "attn.q", "attn.k", "attn.v" or "attn.o".
        stage: Layers that are kept: "understanding" (the first), "reasoning" (those between) or
            "generation" (the last), joined by "+"; "all" keeps every layer.
        first: Number of layers of the understanding stage; by default a quarter.
        last: Number of layers of the generation stage; by default an eighth, at least one.
        common: Keep the units that are taken for all labels, too.
        variant: "paper" measures importance as above; "released" the code's shortcuts: the sum of
            |u| for MLP neurons, the change of attention weights with an unscaled product for
            queries and keys, the sum of absolute values passed on for values.

    Paper: Zhao et al. (2024), "How do Large Language Models Handle Multilingualism?". The released
    code ranks by the shortcuts of `variant="released"`, where one list serves up and down
    projection and one queries and keys; it has no epsilon, skips documents that do not fit in
    memory, and takes fixed numbers (1,000 to 12,000 of a layer) that fit 7B models only. Queries
    and keys are measured here with the rotation of positions and the norms of heads, which the
    paper's formula leaves out, at 12 tokens of each document.
    """

    name: ClassVar[str] = "plnd"
    paper: ClassVar[str] = "Zhao et al. 2024, How do LLMs Handle Multilingualism (arXiv:2402.18815)"
    granularity: ClassVar[str] = "neuron, or unit of an attention projection"
    cost: ClassVar[str] = "1.1 forward passes per document; 2.7 for attn.q, 5 for attn.k"

    share: float = 0.2
    top: int | None = None
    epsilon: float | None = None
    site: str = "mlp.neuron"
    stage: str = "all"
    first: int | None = None
    last: int | None = None
    common: bool = False
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_share("share")
        self.require_at_least(1, "top")
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise self.invalid("epsilon", "expected a number above 0")
        if self.epsilon is not None and self.top is not None:
            raise self.invalid(
                "epsilon", f"top={self.top} is another rule for the same thing. Give one of them"
            )
        self.require_one_of("site", SITES)
        self.require_one_of("variant", _REDUCERS)
        if not set(self.stage.split("+")) <= {*STAGES, "all"}:
            raise self.invalid(
                "stage", f"expected 'all' or some of {', '.join(STAGES)}, joined by '+'"
            )
        self.require_at_least(0, "first", "last")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Smallest importance and worst rank over the documents."""
        return tuple(Need(reducer, self.site) for reducer in _REDUCERS[self.variant])

    def select(self, stats: Stats) -> NeuronSet:
        """Return the units of each label by the rule in the class docstring."""
        if not self.common:
            require_several_labels(stats, self.title)
        least, rank = (stats.get(need.reducer, need.site) for need in self.needs)
        widths = torch.tensor(stats.site_widths[self.site])
        seen = least.isfinite() & (least > 0)
        if self.epsilon is not None:
            member = seen & (least >= self.epsilon)
        else:
            most = self._most(widths)
            member = seen & (rank >= 0) & (rank < most[:, None])
        everywhere = member.all(0)
        if not self.common:
            member = member & ~everywhere
        kept = self._layers(len(widths))
        member[:, [layer for layer in range(len(widths)) if layer not in kept]] = False
        place = label, layer, index = member.nonzero(as_tuple=True)
        score = least[place]
        if self.epsilon is None:
            score = 1 - rank[place] / widths[layer]
        return neuron_set(
            self,
            stats,
            label,
            layer,
            index,
            score,
            site=self.site,
            values={f"{self.site}.importance": least[place]},
            operation={"name": "zero"},
            results={
                "documents": {name: stats.texts[name] for name in stats.labels},
                "in_all_labels": int(everywhere.sum()),
                "layers": kept,
            },
        )

    def _most(self, widths: torch.Tensor) -> torch.Tensor:
        if self.top is not None:
            return torch.full_like(widths, self.top)
        return (self.share * widths).round().to(widths.dtype).clamp(min=1)

    def _layers(self, total: int) -> list[int]:
        wanted = set(self.stage.split("+"))
        if "all" in wanted:
            return list(range(total))
        parts = stages(total, self.first, self.last)
        return sorted(layer for name in wanted for layer in parts[name])


def stages(num_layers: int, first: int | None = None, last: int | None = None) -> dict[str, range]:
    """Return the layers of each stage of the paper's workflow: `{stage: range}`.

    Args:
        num_layers: Number of layers of the model.
        first: Layers that understand; by default a quarter (8 of 32 in the paper).
        last: Layers that generate; by default an eighth, at least one (4 of 32 in the paper).

    Raises:
        ParameterError: If the model has fewer layers.
    """
    first = max(1, num_layers // 4) if first is None else first
    last = max(1, num_layers // 8) if last is None else last
    if first < 0 or last < 0 or first + last > num_layers:
        raise ParameterError(
            f"{first} layers that understand and {last} that generate do not fit into a model of "
            f"{num_layers} layers."
        )
    return {
        UNDERSTANDING: range(first),
        REASONING: range(first, num_layers - last),
        GENERATION: range(num_layers - last, num_layers),
    }
