"""Sparse residual dimensions against a slow reference; massive coordinates; the layer by itself."""

import json
import math

import numpy as np
import pytest
import torch

import neuronsteer as ns
from neuronsteer.detectors import detect
from neuronsteer.errors import LabelError, ParameterError, StatsError
from neuronsteer.stats import Need, Stats, collect

from ..tiny_models import HIDDEN, tiny_ids, tiny_model, tiny_tokenizer
from .material import rows_of


def stats_of(mean, tokens=None):
    """`mean`: `[labels, layers, width]`."""
    mean = np.asarray(mean, dtype=float)
    names = tuple(f"l{k}" for k in range(len(mean)))
    counts = np.asarray(tokens if tokens is not None else [10] * len(mean))
    return Stats(
        labels=names,
        tokens=dict(zip(names, counts.tolist(), strict=True)),
        texts=dict.fromkeys(names, 1),
        site_widths={"resid": (mean.shape[2],) * mean.shape[1]},
        arrays={Need("sum", "resid"): torch.tensor(mean * counts[:, None, None])},
    )


def massive_by_hand(mean, layer, times):
    labels, _, width = mean.shape
    size = [sum(abs(mean[k, layer, i]) for k in range(labels)) / labels for i in range(width)]
    # The lower one of the middle two, as torch has it.
    median = sorted(size)[(width - 1) // 2]
    return [i for i in range(width) if size[i] > times * median > 0]


def apart_by_hand(mean, layer):
    labels, _, width = mean.shape
    left = [i for i in range(width) if i not in massive_by_hand(mean, layer, 20)]
    centre = {i: sum(mean[k, layer, i] for k in range(labels)) / labels for i in left}
    squares = [sum((mean[k, layer, i] - centre[i]) ** 2 for i in left) for k in range(labels)]
    lengths = [math.sqrt(sum(mean[k, layer, i] ** 2 for i in left)) for k in range(labels)]
    return math.sqrt(sum(squares) / labels) / (sum(lengths) / labels)


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    labels, layers, width = (int(rng.integers(2, high)) for high in (5, 4, 20))
    # Whole numbers, so that there are ties; some coordinates are far larger than all others.
    mean = rng.integers(-4, 5, size=(labels, layers, width)).astype(float)
    mean += 300 * (rng.random((layers, width)) < 0.1)
    source = int(rng.integers(labels)) if rng.random() < 0.5 else None
    times = [None, 5.0, 20.0][rng.integers(3)]
    budget = int(rng.integers(1, width + 3))
    options = {"layers": "all", "massive": times, "per_label": budget}
    if source is not None:
        options["source"] = f"l{source}"
    if rng.random() < 0.3:
        options["rate"] = float(rng.choice([0.1, 0.5, 1.0]))
        budget = max(1, round(options["rate"] * width))
    neurons = detect(stats_of(mean, rng.integers(1, 9, labels)), "dimensions", **options)
    expected = {}
    for layer in range(layers):
        massive = [] if times is None else massive_by_hand(mean, layer, times)
        assert neurons.method["results"]["massive"][str(layer)] == massive
        for k in range(labels):
            against = [j for j in range(labels) if j != k]
            if source is not None and source != k:
                against = [source]
            score = {
                i: abs(mean[k, layer, i] - sum(mean[j, layer, i] for j in against) / len(against))
                for i in range(width)
                if i not in massive
            }
            order = sorted(score, key=lambda i, score=score: (-score[i], i))
            expected |= {(k, layer, i): score[i] for i in order[:budget] if score[i] > 0}
    assert rows_of(neurons) == set(expected)
    columns = (neurons.label, neurons.layer, neurons.index)
    for row, key in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        assert float(neurons.score[row]) == pytest.approx(expected[key])


def test_a_massive_coordinate_is_listed_and_left_out():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(3, 3, 50))
    mean[:, 1, 7] = 900, 950, 700
    results = detect(stats_of(mean), "dimensions", per_label=5).method["results"]
    assert results == {"layers": [1], "budget": 5, "massive": {"1": [7]}}
    assert 7 not in detect(stats_of(mean), "dimensions", per_label=5).index
    kept = detect(stats_of(mean), "dimensions", per_label=5, massive=None)
    assert kept.method["results"]["massive"] == {"1": []} and kept.counts["l2"] == 5
    assert [int((kept.index[kept.label == k] == 7).sum()) for k in range(3)] == [1, 1, 1]


def test_nothing_is_massive_where_most_coordinates_are_zero():
    mean = np.zeros((2, 1, 9))
    mean[0, 0, 2], mean[1, 0, 5] = 3, 4
    neurons = detect(stats_of(mean), "dimensions")
    assert neurons.method["results"]["massive"] == {"0": []}
    assert rows_of(neurons) == {(k, 0, i) for k in (0, 1) for i in (2, 5)}


def test_rows_are_those_of_diffmean():
    texts = {"a": ["one two", "three four"], "b": ["ñandú año"], "c": ["42 43 44", "0 0"]}
    model, ids = tiny_model(layers=3), tiny_ids()
    stats = collect(model, tiny_tokenizer(), texts, needs=["sum@resid"], progress=False)
    few = detect(stats, "dimensions", per_label=4, source="b", factor=1.5)
    assert few.counts == dict.fromkeys("abc", 4) and few.site == "resid"
    assert few.operation == {"name": "add", "value": "diffmean", "factor": 1.5}
    assert few.source == "b" and few.means_of == ("a", "b", "c")
    dense = detect(stats, "diffmean", source="b", layers=1, massive=None)
    assert rows_of(few) <= rows_of(dense)
    # With all coordinates it does what diffmean does.
    whole = detect(stats, "dimensions", per_label=HIDDEN, massive=None, source="b")
    outs = []
    for neurons in (whole, dense, few):
        with torch.no_grad(), ns.attach(model, neurons) as steer:
            steer.to("a")
            outs.append(model(ids).logits)
    assert torch.allclose(outs[0], outs[1], atol=1e-5)
    assert not torch.allclose(outs[2], outs[1], atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_the_layer_is_in_the_middle_of_where_labels_are_least_apart(seed):
    rng = np.random.default_rng(seed)
    labels, layers = int(rng.integers(2, 5)), int(rng.integers(1, 12))
    shared = rng.normal(size=(1, layers, 30))
    own = rng.normal(size=(labels, layers, 30)) * rng.choice([0.3, 0.33, 1.0], size=(layers, 1))
    mean = shared + own
    mean[:, :, 3] += 500 * (rng.random(layers) < 0.5)
    apart = [apart_by_hand(mean, layer) for layer in range(layers)]
    near = [layer for layer in range(layers) if apart[layer] <= 1.25 * min(apart)]
    expected = near[(len(near) - 1) // 2]
    for method in ("diffmean", "dimensions"):
        neurons = detect(stats_of(mean), method, layers=" auto ")
        assert neurons.layer.unique().tolist() == [expected]
        results = json.loads(json.dumps(neurons.method["results"]))
        assert results["layers"] == [expected]
        assert results["apart"] == pytest.approx(apart, abs=1e-3)
        assert neurons.method["parameters"]["layers"] == "auto"
        same = detect(stats_of(mean), method, layers=expected)
        assert rows_of(same) == rows_of(neurons)


def test_a_layer_without_values_is_never_chosen():
    mean = np.zeros((2, 3, 4))
    mean[:, 1] = [[1, 2, 3, 4], [4, 3, 2, 1]]
    neurons = detect(stats_of(mean), "diffmean", layers="auto")
    assert neurons.layer.unique().tolist() == [1]
    assert neurons.method["results"]["apart"][::2] == [None, None]
    with pytest.raises(StatsError, match="every mean in these statistics is 0"):
        detect(stats_of(0 * mean), "dimensions", layers="auto")


def test_mistakes():
    stats = stats_of(np.arange(12.0).reshape(2, 1, 6))
    for wrong in (
        {"per_label": 0},
        {"rate": 0.0},
        {"massive": 0.5},
        {"massive": float("nan")},
        {"factor": float("nan")},
        {"layers": "automatic"},
        {"layers": (3,)},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            detect(stats, "dimensions", **wrong)
    with pytest.raises(ParameterError, match="layers='auto'; 'auto' chooses a layer of 'resid'"):
        detect(stats, "diffmean", site="mlp.neuron", layers="auto")
    with pytest.raises(ParameterError, match="layers='auto'"):
        detect(stats, "effect", layers="auto")
    with pytest.raises(LabelError, match="zz"):
        detect(stats, "dimensions", source="zz")
    with pytest.raises(StatsError, match="only l0"):
        detect(stats.only("l0"), "dimensions")
