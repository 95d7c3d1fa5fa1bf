"""How many labels own a neuron, beside what chance alone would give."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from . import ANALYSES, Analysis, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..neuron_set import NeuronSet


@ANALYSES.register("sharing")
@dataclasses.dataclass(frozen=True)
class Sharing(Analysis):
    """Count neurons by their number of owners.

    Records: `owners`, `neurons`, `share` of all neurons in the set, and `chance`: how many neurons
    of that many owners there would be if every label had drawn as many neurons as it has, in each
    layer, at random and independently. Facts: `neurons`, `orphans`, `shared` (share with more than
    one owner), `shared_by_chance`, `exclusive` per label.
    """

    name: ClassVar[str] = "sharing"
    title: ClassVar[str] = "How many labels own a neuron"
    question: ClassVar[str] = "Are the neurons of a label its own, or shared with others?"
    needs: ClassVar[tuple[str, ...]] = ("neurons",)

    def run(self, neurons: NeuronSet) -> Result:
        """Count."""
        found = neurons.sharing()
        total = sum(found.values())
        expected = _by_chance(neurons.layer_profile().tolist(), neurons.width_per_layer)
        records = [
            {
                "owners": owners,
                "neurons": found.get(owners, 0),
                "share": found.get(owners, 0) / total if total else None,
                "chance": expected[owners],
            }
            for owners in range(1, len(neurons.labels) + 1)
        ]
        by_chance = sum(expected[1:])
        return self.result(
            records,
            {
                "neurons": total,
                "orphans": neurons.orphans,
                "shared": sum(n for k, n in found.items() if k > 1) / total if total else None,
                "shared_by_chance": sum(expected[2:]) / by_chance if by_chance else None,
                "exclusive": neurons.exclusive_counts(),
            },
            neurons,
        )

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the histogram, found and expected."""
        from ..plots import sharing

        last = max(
            (row["owners"] for row in result.rows if row["neurons"] or row["chance"] >= 0.5),
            default=1,
        )
        kept = [row for row in result.rows if row["owners"] <= last]
        found = {row["owners"]: row["neurons"] for row in kept}
        chance = {row["owners"]: round(row["chance"]) for row in kept}
        return sharing({"found": found, "by chance": chance}, title=cls.title)


def _by_chance(profile: list[list[int]], widths: tuple[int, ...]) -> list[float]:
    """Return the expected number of neurons with 0, 1, … owners: a Poisson binomial per layer."""
    expected = [0.0] * (len(profile) + 1)
    for layer, width in enumerate(widths):
        owners = [1.0] + [0.0] * len(profile)
        for counts in profile:
            p = counts[layer] / width
            owners = [
                owners[m] * (1 - p) + (owners[m - 1] * p if m else 0.0) for m in range(len(owners))
            ]
        expected = [total + width * share for total, share in zip(expected, owners, strict=True)]
    return expected
