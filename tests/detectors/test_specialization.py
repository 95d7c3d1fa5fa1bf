"""Cumulative mass, against a slow reference on the values themselves."""

import numpy as np
import pytest
import torch

from neuronsteer.detectors import detect
from neuronsteer.errors import ParameterError, StatsError
from neuronsteer.stats import Need, Stats
from neuronsteer.stats.reducers.quantile import BINS, edges

from .material import rows_of


def stats_of(values):
    """`values`: `[labels, layers, width, tokens]`."""
    bins = torch.bucketize(torch.tensor(values, dtype=torch.float32), edges(), right=True)
    histogram = torch.nn.functional.one_hot(bins, BINS).sum(-2).to(torch.int32)
    names = tuple(f"l{k}" for k in range(len(values)))
    return Stats(
        labels=names,
        tokens=dict.fromkeys(names, values.shape[-1]),
        texts=dict.fromkeys(names, 1),
        site_widths={"mlp.neuron": (values.shape[2],) * values.shape[1]},
        arrays={Need("quantile", "mlp.neuron"): histogram},
    )


def reference(values, mass, threshold, shared):
    labels, layers, width, tokens = values.shape
    counts = (np.abs(values) >= threshold).sum(-1)
    taken = {}
    for k in range(labels):
        for layer in range(layers):
            order = sorted(range(width), key=lambda i: -counts[k, layer, i])
            total, so_far = counts[k, layer].sum(), 0
            for i in order:
                if so_far >= mass * total or not counts[k, layer, i]:
                    break
                taken.setdefault((layer, i), []).append(k)
                so_far += counts[k, layer, i]
    rows = {
        (k, *n): counts[k][n] / tokens
        for n, found in taken.items()
        for k in found
        if shared or len(found) < labels
    }
    return rows, sum(len(found) == labels for found in taken.values())


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 12)), 12)
    values = (rng.normal(size=shape) * rng.random((*shape[:-1], 1)) ** 3).astype(np.float32)
    threshold = float(rng.choice([0.125, 0.5, 2**-0.25]))
    mass, shared = float(rng.choice([0.5, 0.9, 1.0])), bool(rng.random() < 0.3)
    options = {"mass": mass, "shared": shared, "threshold": threshold}
    neurons = detect(stats_of(values), "specialization", **options)
    rows, everywhere = reference(values, mass, threshold, shared)
    assert rows_of(neurons) == set(rows)
    found = zip(neurons.label.tolist(), neurons.layer.tolist(), neurons.index.tolist(), strict=True)
    for row, key in enumerate(found):
        assert float(neurons.score[row]) == pytest.approx(rows[key])
    assert neurons.method["results"]["in_all_labels"] == everywhere
    assert neurons.method["results"]["threshold"] == pytest.approx(threshold)


@pytest.mark.parametrize("top", [0.01, 0.05, 0.5])
def test_the_threshold_is_the_lowest_boundary_that_leaves_few_enough(top):
    values = np.random.default_rng(0).normal(size=(3, 2, 20, 50)).astype(np.float32)
    results = detect(stats_of(values), "specialization", top=top).method["results"]
    beyond = (np.abs(values) >= results["threshold"]).mean()
    assert beyond <= top and results["active"] == pytest.approx(beyond)
    lower = results["threshold"] / 2**0.25
    assert (np.abs(values) >= lower).mean() > top


def test_mistakes():
    stats = stats_of(np.ones((2, 1, 3, 4)))
    for wrong in ({"mass": 0.0}, {"top": 2.0}, {"threshold": 0.0}, {"threshold": 65.0}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            detect(stats, "specialization", **wrong)
    with pytest.raises(StatsError, match="only l0"):
        detect(stats.only("l0"), "specialization")
