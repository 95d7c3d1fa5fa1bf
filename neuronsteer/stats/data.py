"""The fields of `Stats`, which files, merging and published counts share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .needs import Need, canonical


@dataclass(frozen=True, eq=False)
class StatsData:
    """Statistics of neurons per label.

    Attributes:
        labels: The labels, in the order of the first dimension of every tensor.
        tokens: Counted tokens per label.
        texts: Texts per label (blocks are not texts).
        site_widths: Site → number of neurons per layer. Where layers differ, tensors are as wide
            as the widest and the rest is padding (zeros).
        arrays: Need → `[labels, layers, width, ...]` on the CPU.
        rows: Need → label → per-text responses `[texts, layers, width]`.
        routed: Site → tokens per expert `[labels, layers, experts]`; mixture-of-experts only.
        weight_measures: Need → `[layers, width]` measured on the weights, the same for every label.
        header: Facts about model, policy and data; JSON-plain.
    """

    labels: tuple[str, ...]
    tokens: dict[str, int]
    texts: dict[str, int]
    site_widths: dict[str, tuple[int, ...]]
    arrays: dict[Need, Tensor] = field(default_factory=dict)
    rows: dict[Need, dict[str, Tensor]] = field(default_factory=dict)
    routed: dict[str, Tensor] = field(default_factory=dict)
    weight_measures: dict[Need, Tensor] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[Need, ...]:
        """What was collected, in the order of the sites."""
        return canonical((*self.arrays, *self.rows, *self.weight_measures))

    @property
    def calibration(self) -> dict[str, Any]:
        """Label → corpus, tokens, texts and hash of what was read."""
        return self.header.get("calibration", {})
