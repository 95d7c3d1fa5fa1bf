"""What the analyses are tried on: random sets, random counts, tiny models, made-up languages."""

from __future__ import annotations

import random

import numpy as np
import torch

from neuronsteer.neuron_set import NeuronSet
from neuronsteer.stats import Need, Stats

LANGUAGES = ("en", "fr", "ja")
# Few letters each, so that a random byte-level model reads them differently.
ALPHABETS = {"en": "the cat sat ", "fr": "été où ça va ", "ja": "猫は庭で寝る"}


def lines(label: str, count: int = 16, length: int = 40, seed: int = 0) -> list[str]:
    rng = random.Random(f"{label}{seed}")
    return ["".join(rng.choices(ALPHABETS[label], k=length)) for _ in range(count)]


def corpora(count: int = 16, length: int = 40, seed: int = 0) -> dict[str, list[str]]:
    return {label: lines(label, count, length, seed) for label in LANGUAGES}


def random_set(
    seed: int = 0,
    labels: tuple[str, ...] = ("en", "de", "fr", "es", "zh"),
    layers: int = 6,
    width: int = 30,
    share: float = 0.2,
    widths: tuple[int, ...] = (),
    **header,
) -> NeuronSet:
    rng = np.random.default_rng(seed)
    drawn = rng.random((len(labels), layers, width)) < share
    if widths:
        drawn &= np.arange(width) < np.array(widths)[:, None]
    label, layer, index = np.nonzero(drawn)
    return NeuronSet.from_rows(
        labels,
        label.tolist(),
        layer.tolist(),
        index.tolist(),
        site="mlp.act",
        num_layers=layers,
        width=width,
        widths=widths or None,
        **header,
    )


def owned(neurons: NeuronSet) -> dict[str, set[tuple[int, int]]]:
    """Return label -> its neurons, as plain Python sets."""
    found: dict[str, set[tuple[int, int]]] = {label: set() for label in neurons.labels}
    rows = zip(neurons.label.tolist(), neurons.layer.tolist(), neurons.index.tolist(), strict=True)
    for label, layer, index in rows:
        found[neurons.labels[label]].add((layer, index))
    return found


def random_counts(
    seed: int = 0, labels=("en", "de", "fr"), layers=6, width=60, tokens=100
) -> Stats:
    rng = np.random.default_rng(seed)
    share = rng.random((len(labels), layers, width)) ** 3
    counts = torch.tensor(rng.binomial(tokens, share))
    return Stats(
        labels=tuple(labels),
        tokens=dict.fromkeys(labels, tokens),
        texts=dict.fromkeys(labels, 4),
        site_widths={"mlp.act": (width,) * layers},
        arrays={Need("count", "mlp.act"): counts},
        header={"model_type": "llama", "base_model": "org/base"},
    )
