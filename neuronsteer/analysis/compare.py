"""Two models, checkpoints or methods side by side: counts and overlap per kind of neuron."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..detectors import detect
from ..detectors.ternary import KINDS, classify
from ..errors import ParameterError
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import same_space
from . import ANALYSES, Analysis, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..stats import Stats

ALL = "all"


@ANALYSES.register("compare")
@dataclasses.dataclass(frozen=True)
class Compare(Analysis):
    """Count specific, related and general neurons in two sets, and what they have in common.

    Takes two neuron sets, or two statistics (then `ternary` finds the neurons in both, all three
    kinds). "Before" is the first, "after" the second: a base model and its aligned version, two
    checkpoints, two methods. A neuron is specific if one label of its set owns it, related if
    several, general if all do.

    Overlap is only there where neuron i of one is neuron i of the other: the same shape, and then
    it is the caller who knows that both come from the same initialisation. Otherwise it is `None`
    and the counts stand alone.

    Records, per `label` (and `all`, where a neuron counts once) and `kind` (and `all`): `before`,
    `after`, `both`, `jaccard`, `kept` (both / before: the paper's overlap), `chance` (kept if the
    second set were random, with as many neurons in each layer). Facts: `totals`, `sharing` of both,
    `moved` (neurons of each kind before → kind after, or `gone`, `new`), `layers` (neurons of both
    per layer), `comparable`.

    Args:
        rate: With statistics: share of all neurons that `ternary` selects.
        lam: With statistics: its weight of the largest probability. Found in the first and used
            for both, if it is not given.
        variant: With statistics: its score, "paper" or "released".

    Paper: Zhang et al. (2025), "How does Alignment Enhance LLMs' Multilingual Capabilities? A
    Language Neurons Perspective" (arXiv:2505.21505).
    """

    name: ClassVar[str] = "compare"
    title: ClassVar[str] = "Before and after: kinds of neurons"
    question: ClassVar[str] = "What did training, or another method, change in the neurons?"
    needs: ClassVar[tuple[str, ...]] = ("neurons", "other")
    paper: ClassVar[str] = "Zhang et al. 2025, Language Neurons and Alignment (arXiv:2505.21505)"

    rate: float = 0.01
    lam: float | None = None
    variant: str = "paper"

    def run(self, neurons: NeuronSet | Stats, other: NeuronSet | Stats) -> Result:
        """Compare the first, "before", with the second, "after"."""
        before, after = self._sets(neurons, other)
        comparable = (
            same_space(before.site, after.site) and before.width_per_layer == after.width_per_layer
        )
        mine, theirs = classify(before), classify(after)
        labels = tuple(dict.fromkeys(before.labels + after.labels))
        records: list[dict[str, Any]] = []
        for label in (*labels, ALL):
            for kind in (*KINDS, ALL):
                left = _keys(before if kind == ALL else mine[kind], label)
                right = _keys(after if kind == ALL else theirs[kind], label)
                records.append(
                    {
                        "label": label,
                        "kind": kind,
                        "before": None if left is None else len(left),
                        "after": None if right is None else len(right),
                        **_common(left, right, after if comparable else None),
                    }
                )
        facts = {
            "comparable": comparable,
            "totals": {"before": before.num_neurons, "after": after.num_neurons},
            "orphans": {"before": before.orphans, "after": after.orphans},
            "sharing": {"before": before.sharing(), "after": after.sharing()},
            "moved": _moved(mine, theirs) if comparable else None,
            "layers": {
                name: each.neurons_per_layer()
                for name, each in (("before", before), ("after", after))
            },
        }
        return self.result(records, facts, before, after)

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the counts of each kind before and after, and what was kept."""
        from ..plots import bars

        rows = [row for row in result.rows if row["label"] == ALL and row["kind"] != ALL]
        kept = [
            f"{row['kind']} {row['kept']:.0%} (by chance {row['chance']:.0%})"
            for row in rows
            if row["kept"] is not None
        ]
        return bars(
            {when: {row["kind"]: row[when] for row in rows} for when in ("before", "after")},
            title=cls.title,
            value_name="neurons",
            form=",.0f",
            note=f"Kept: {', '.join(kept)}." if kept else None,
        )

    def _sets(
        self, neurons: NeuronSet | Stats, other: NeuronSet | Stats
    ) -> tuple[NeuronSet, NeuronSet]:
        if isinstance(neurons, NeuronSet) and isinstance(other, NeuronSet):
            return neurons, other
        if isinstance(neurons, NeuronSet) or isinstance(other, NeuronSet):
            raise ParameterError(
                "compare got a neuron set and statistics; give two of the same kind."
            )
        kinds = "+".join(KINDS)
        before = detect(
            neurons, "ternary", kinds=kinds, rate=self.rate, lam=self.lam, variant=self.variant
        )
        # Another weight would be another definition of the kinds.
        lam = before.method["results"]["lam"]
        return before, detect(
            other, "ternary", kinds=kinds, rate=self.rate, lam=lam, variant=self.variant
        )


def _keys(neurons: NeuronSet, label: str) -> torch.Tensor | None:
    """Return the distinct neurons of a label, or `None` if the set has no such label."""
    if label == ALL:
        return neurons.neuron_keys().unique()
    return neurons.rows(label).neuron_keys() if label in neurons.labels else None


def _common(
    left: torch.Tensor | None, right: torch.Tensor | None, shape: NeuronSet | None
) -> dict[str, float | int | None]:
    if left is None or right is None or shape is None:
        return {"both": None, "jaccard": None, "kept": None, "chance": None}
    both = int(torch.isin(left, right).sum())
    either = len(left) + len(right) - both
    widths = torch.tensor(shape.width_per_layer, dtype=torch.float64)
    counts = [
        (each // shape.width).bincount(minlength=shape.num_layers).double()
        for each in (left, right)
    ]
    expected = float((counts[0] * counts[1] / widths).sum())
    return {
        "both": both,
        "jaccard": both / either if either else None,
        "kept": both / len(left) if len(left) else None,
        "chance": expected / len(left) if len(left) else None,
    }


def _moved(before: dict[str, NeuronSet], after: dict[str, NeuronSet]) -> dict[str, dict[str, int]]:
    left = {kind: found.neuron_keys().unique() for kind, found in before.items()}
    right = {kind: found.neuron_keys().unique() for kind, found in after.items()}
    moved: dict[str, dict[str, int]] = {}
    for kind, mine in left.items():
        into = {to: int(torch.isin(mine, theirs).sum()) for to, theirs in right.items()}
        moved[kind] = {**into, "gone": len(mine) - sum(into.values())}
    moved["new"] = {
        to: len(theirs) - sum(moved[kind][to] for kind in left) for to, theirs in right.items()
    }
    return moved
