"""Neuron sets to push, and what the Hub tests have in common."""

from __future__ import annotations

import torch

from neuronsteer.neuron_set import NeuronSet

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
