"""Add a method of your own: one class, which `detect` and the contract tests then know."""

import dataclasses

import torch

import neuronsteer as ns
from neuronsteer.cli.models import load_model
from neuronsteer.detectors import DETECTORS, Detector, neuron_set
from neuronsteer.stats import Need, Stats


@DETECTORS.register("loudest")
@dataclasses.dataclass(frozen=True)
class Loudest(Detector):
    """Neurons that reach the highest values in a label.

    Args:
        per_label: How many for every label.

    Paper: none; an example.
    """

    name = "loudest"
    paper = "none; an example"
    needs = (Need("max", "mlp.neuron"),)
    per_label: int = 20

    def select(self, stats: Stats) -> ns.NeuronSet:
        high = stats.max("mlp.neuron")
        score, best = high.flatten(1).topk(self.per_label)
        label = torch.arange(len(high)).repeat_interleave(self.per_label)
        where = torch.unravel_index(best.flatten(), high.shape[1:])
        return neuron_set(self, stats, label, *where, score.flatten(), site="mlp.neuron")


if __name__ == "__main__":
    texts = {"en": ["The cat sleeps."] * 3, "fr": ["Le chat dort."] * 3}
    print(ns.detect(ns.collect(*load_model("demo"), texts), "loudest", per_label=5))
