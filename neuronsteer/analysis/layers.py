"""Where in the model the neurons of each label are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from . import ANALYSES, Analysis, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..neuron_set import NeuronSet


@ANALYSES.register("layers")
@dataclasses.dataclass(frozen=True)
class Layers(Analysis):
    """Count the neurons of each label in every layer.

    Records: `label`, `layer`, `neurons`, `share` of the label's neurons, `density` (share of the
    layer's neurons). Facts, per label: `peak` layer, `depth` (mean layer from 0 for the first to 1
    for the last; 0.5 is what neurons spread evenly have) and `outer` (share in the first and last
    quarter of the layers; 0.5 if spread evenly).
    """

    name: ClassVar[str] = "layers"
    title: ClassVar[str] = "Neurons per layer"
    question: ClassVar[str] = "In which layers do the neurons of each label live?"
    needs: ClassVar[tuple[str, ...]] = ("neurons",)

    def run(self, neurons: NeuronSet) -> Result:
        """Count."""
        profile = neurons.layer_profile().tolist()
        widths, depth = neurons.width_per_layer, neurons.num_layers
        quarter = max(1, depth // 4)
        records = [
            {
                "label": label,
                "layer": layer,
                "neurons": count,
                "share": count / sum(counts) if sum(counts) else None,
                "density": count / widths[layer],
            }
            for label, counts in zip(neurons.labels, profile, strict=True)
            for layer, count in enumerate(counts)
        ]
        labels: dict[str, dict[str, float | int | None]] = {}
        for label, counts in zip(neurons.labels, profile, strict=True):
            total = sum(counts)
            mean = sum(i * n for i, n in enumerate(counts)) / total if total else None
            labels[label] = {
                "neurons": total,
                "peak": max(range(depth), key=counts.__getitem__) if total else None,
                "depth": None if mean is None or depth < 2 else mean / (depth - 1),
                "outer": (sum(counts[:quarter]) + sum(counts[depth - quarter :])) / total
                if total and depth >= 2
                else None,
            }
        return self.result(records, {"num_layers": depth, "labels": labels}, neurons)

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw a profile per label."""
        from ..plots import layer_profile

        profiles: dict[str, list[float | None]] = {}
        for row in result.rows:
            profiles.setdefault(row["label"], []).append(row["neurons"])
        return layer_profile(profiles, title=cls.title)
