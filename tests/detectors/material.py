"""Statistics made of numbers, for detectors that read more than counts."""

from __future__ import annotations

import numpy as np
import torch

from neuronsteer.stats import REDUCERS, Need, Stats

MLP = ("mlp.act", "mlp.neuron")


def valued(rng, labels=3, layers=2, width=7, tokens=10, widths=None, ties=False):
    """Return statistics with sums, sums of squares and maxima at both MLP sites, and norms."""
    names = tuple(f"l{k}" for k in range(labels))
    widths = tuple(widths or (width,) * layers)
    real = np.arange(max(widths)) < np.array(widths)[:, None]
    shape = (labels, len(widths), max(widths))
    arrays = {}
    for site in MLP:
        values = rng.normal(size=(*shape, tokens))
        if ties:
            values = np.round(values * rng.integers(0, 2, size=(1, *shape[1:], 1)))
        values = values * real[..., None]
        arrays[Need("count", site)] = torch.tensor((values > 0).sum(-1))
        arrays[Need("sum", site)] = torch.tensor(values.sum(-1))
        arrays[Need("sumsq", site)] = torch.tensor((values**2).sum(-1))
        arrays[Need("max", site)] = torch.tensor(values.max(-1), dtype=torch.float32)
    norms = rng.integers(1, 3, size=shape[1:]) if ties else rng.random(shape[1:])
    return Stats(
        labels=names,
        tokens=dict.fromkeys(names, tokens),
        texts=dict.fromkeys(names, 1),
        site_widths=dict.fromkeys(MLP, widths),
        arrays=arrays,
        weight_measures={
            Need("norm", "mlp.neuron"): torch.tensor(norms * real, dtype=torch.float32)
        },
        header={"model_type": "llama", "base_model": "org/base"},
    )


def responding(rng, labels=3, texts=6, layers=2, width=7, site="mlp.neuron", ties=False):
    """Return statistics with one row of responses per text; labels differ in their texts."""
    names = tuple(f"l{k}" for k in range(labels))
    rows = {}
    for name in names:
        count = int(rng.integers(1, texts + 1))
        found = rng.normal(size=(count, layers, width))
        rows[name] = torch.tensor(np.round(found) if ties else found, dtype=torch.float32)
    return Stats(
        labels=names,
        tokens={name: 5 * len(rows[name]) for name in names},
        texts={name: len(rows[name]) for name in names},
        site_widths={site: (width,) * layers},
        rows={Need("responses", site): rows},
        header={"model_type": "llama", "base_model": "org/base"},
    )


def folded(name, documents):
    """Return what a reducer keeps of one number per document, `[labels, documents, layers, width]`.

    In two parts, as two processes would.
    """
    reducer = REDUCERS.get(name)
    found = []
    for label in documents:
        total = reducer.start(label.shape[1:], torch.device("cpu"), total=True)
        for part in (label[::2], label[1::2]):
            stage = reducer.start(label.shape[1:], torch.device("cpu"), total=False)
            for layer in range(label.shape[1]):
                reducer.fold(part[:, layer], stage[layer])
            reducer.merge(total, stage)
        found.append(total)
    return torch.stack(found)


def measured(documents, *names, site="mlp.neuron", widths=None):
    """Return statistics of numbers per document, `[labels, documents, layers, width]`."""
    labels = tuple(f"l{k}" for k in range(len(documents)))
    layers, width = documents.shape[2:]
    return Stats(
        labels=labels,
        tokens=dict.fromkeys(labels, 10 * documents.shape[1]),
        texts=dict.fromkeys(labels, documents.shape[1]),
        site_widths={site: tuple(widths or (width,) * layers)},
        arrays={Need(name, site): folded(name, documents) for name in names},
        header={"model_type": "llama", "base_model": "org/base"},
    )


def rows_of(neurons):
    """Return the rows as a set of `(label, layer, index)`."""
    columns = (neurons.label, neurons.layer, neurons.index)
    return set(zip(*(column.tolist() for column in columns), strict=True))
