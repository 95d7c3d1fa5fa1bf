"""The ternary taxonomy against a slow, obvious reference."""

import math

import numpy as np
import pytest

from neuronsteer.detectors import detect
from neuronsteer.detectors.ternary import classify
from neuronsteer.errors import ParameterError, StatsError

from .material import rows_of
from .test_lape import random_case, stats_of


def reference(counts, tokens, widths, rate, bar, lam, variant, kinds):
    """Return `(rows, orphans, lam, kinds per neuron)`, as methods.md words it."""
    labels = len(counts)
    neurons = [(layer, i) for layer, width in enumerate(widths) for i in range(width)]
    p = {
        n: [float(counts[k][n[0]][n[1]]) / float(tokens[k]) for k in range(labels)] for n in neurons
    }
    pooled = sorted(value for values in p.values() for value in values)
    tau = pooled[max(1, round(bar * len(pooled))) - 1]
    owners = {n: [k for k in range(labels) if p[n][k] > tau] for n in neurons}

    def score(n, weight):
        values = p[n] if sum(p[n]) else [1.0] * labels
        q = [value / sum(values) for value in values]
        entropy, premium = -sum(x * math.log(x) for x in q if x > 0), max(p[n])
        if variant == "released":
            entropy /= math.log(labels)
            premium /= sum(1 / k for k in range(1, labels + 1)) / labels
        return round(entropy - weight * premium, 9)

    def best(weight):
        return sorted(neurons, key=lambda n: score(n, weight))[: round(rate * len(neurons))]

    if lam is None:
        low, high = 0.0, 0.2
        while high - low > 1e-3:
            middle = (low + high) / 2
            if any(len(owners[n]) == labels for n in best(middle)):
                high = middle
            else:
                low = middle
        lam = low
    selected = best(lam)
    kind = {}
    for n in neurons:
        if len(owners[n]) == labels:
            kind[n] = "general"
        elif n in selected and owners[n]:
            kind[n] = "specific" if len(owners[n]) == 1 else "related"
    rows = {(k, *n) for n in kind if kind[n] in kinds.split("+") for k in owners[n]}
    return rows, sum(not owners[n] for n in selected), lam, kind


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_reference_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        counts, tokens, widths = random_case(rng)
        options = {
            "rate": float(rng.choice([0.05, 0.3, 1.0])),
            "bar": float(rng.choice([0.0, 0.5, 0.95, 1.0])),
            "lam": None if rng.random() < 0.5 else float(rng.choice([0.0, 0.05, 1.0])),
            "variant": str(rng.choice(["paper", "released"])),
            "kinds": str(rng.choice(["specific+related", "specific", "general+specific+related"])),
        }
        rows, orphans, lam, kind = reference(counts, tokens, widths, **options)
        neurons = detect(stats_of(counts, tokens, widths), "ternary", **options)
        results = neurons.method["results"]
        assert rows_of(neurons) == rows, (counts.tolist(), tokens.tolist(), widths, options)
        assert neurons.orphans == orphans
        assert results["lam"] == pytest.approx(lam)
        for name in ("specific", "related", "general"):
            assert results["kinds"][name] == sum(found == name for found in kind.values())


def test_without_a_weight_no_selected_neuron_is_general_if_that_can_be():
    # Neuron 0 is general and of rather low entropy; only a small weight keeps it out.
    p = np.array([[0.9, 0.02, 0.50], [0.3, 0.95, 0.50], [0.3, 0.02, 0.50]])
    counts = (p * 1000).astype(int)[:, None, :]
    neurons = detect(stats_of(counts, [1000] * 3), "ternary", rate=0.34, bar=0.2)
    assert neurons.method["results"]["general_selected"] == 0
    assert 0 < neurons.method["results"]["lam"] <= 0.2
    assert rows_of(neurons) == {(1, 0, 1)}


def test_neurons_that_never_fire_come_last():
    counts = np.zeros((3, 1, 10), dtype=int)
    counts[:, 0, 3] = [9, 1, 1]
    counts[:, 0, 7] = [1, 1, 1]
    neurons = detect(stats_of(counts, [10, 10, 10]), "ternary", rate=0.1, bar=0.9)
    assert rows_of(neurons) == {(0, 0, 3)}


def test_classify_splits_a_set():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1000, size=(4, 3, 40))
    stats = stats_of(counts, [1000] * 4)
    neurons = detect(stats, "ternary", rate=0.5, bar=0.6, kinds="specific+related+general")
    parts = classify(neurons)
    members = neurons.method["results"]["members"]
    for name, part in parts.items():
        assert part.counts == members[name]
        assert part.num_neurons == neurons.method["results"]["kinds"][name]
    assert set(parts["specific"].sharing()) == {1} and set(parts["general"].sharing()) == {4}
    assert sum(map(len, parts.values())) == len(neurons)


def test_two_labels_know_no_related():
    stats = stats_of(np.array([[[9, 1, 5]], [[1, 9, 5]]]), [10, 10])
    neurons = detect(stats, "ternary", rate=1.0, bar=0.4, kinds="specific+related+general")
    assert {name: len(part) for name, part in classify(neurons).items()} == {
        "specific": 2,
        "related": 0,
        "general": 2,
    }


def test_mistakes():
    stats = stats_of(np.ones((2, 1, 3)), [5, 5])
    for wrong in (
        {"rate": 0.0},
        {"bar": 1.5},
        {"lam": -1.0},
        {"variant": "code"},
        {"kinds": "specific+special"},
        {"kinds": "related+related"},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            detect(stats, "ternary", **wrong)
    with pytest.raises(StatsError, match="only l0"):
        detect(stats.only("l0"), "ternary")
