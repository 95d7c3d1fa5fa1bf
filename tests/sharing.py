"""Neuron sets and statistics to share, for the Hub tests."""

from __future__ import annotations

import torch

from neuronsteer.neuron_set import NeuronSet
from neuronsteer.stats import Stats

LABELS = ("en", "fr", "ja")


def make_set(seed: int = 0, rows: int = 60, **header) -> NeuronSet:
    """A small set with statistics, different for every seed."""
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(LABELS) * 4 * 32, generator=rng)[:rows]
    return NeuronSet.from_rows(
        LABELS,
        label=chosen // 128,
        layer=chosen // 32 % 4,
        index=chosen % 32,
        score=torch.rand(rows, generator=rng),
        values={"mlp.neuron.mean": torch.randn(rows, generator=rng)},
        site="mlp.act",
        num_layers=4,
        width=32,
        **{
            "model_type": "llama",
            "base_model": "org/base",
            "method": {"name": "lape", "parameters": {"rate": 0.01}},
            "operation": {"name": "set", "value": "mean"},
            **header,
        },
    )


def make_stats(seed: int = 0) -> Stats:
    """Small statistics, different for every seed."""
    rng = torch.Generator().manual_seed(seed)
    counts = {label: torch.randint(0, 90, (4, 32), generator=rng) for label in LABELS}
    return Stats.from_counts(counts, dict.fromkeys(LABELS, 100), model_type="llama")


def same_stats(one: Stats, other: Stats) -> bool:
    """Whether two statistics hold the same numbers."""
    same = one.summary() == other.summary() and set(one.arrays) == set(other.arrays)
    return same and all(torch.equal(one.arrays[need], other.arrays[need]) for need in one.arrays)
