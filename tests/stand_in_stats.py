"""The part of `Stats` that detectors use, made of plain tensors."""

import dataclasses

import torch


@dataclasses.dataclass
class StandInStats:
    counts: dict[str, torch.Tensor]
    tokens: dict[str, int]
    widths: tuple[int, ...]
    extra: dict[tuple[str, str], torch.Tensor] = dataclasses.field(default_factory=dict)
    model_type: str | None = "llama"
    base_model: str | None = "org/base"
    revision: str | None = None

    def __post_init__(self):
        self.labels = tuple(self.counts)
        self.num_layers = len(self.widths)
        self.d_ff = max(self.widths)
        self.texts = dict.fromkeys(self.labels, 1)

    def has(self, reducer, site):
        return (reducer, site) == ("count", "mlp.act") or (reducer, site) in self.extra

    def probabilities(self, site="mlp.act"):
        share = [c.double() / self.tokens[k] for k, c in self.counts.items()]
        return torch.stack(share)

    def mean(self, site):
        return self.extra["sum", site]

    def max(self, site):
        return self.extra["max", site]

    def other_mean(self, site):
        mean = self.mean(site)
        return (mean.sum(0, keepdim=True) - mean) / (len(mean) - 1)
