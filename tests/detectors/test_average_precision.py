"""Average precision against scikit-learn, unit by unit; and the sets made of it."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from neuronsteer.detectors import _ranking, detect
from neuronsteer.errors import ParameterError, StatsError
from neuronsteer.stats import Need, collect

from ..tiny_models import tiny_model, tiny_tokenizer
from .material import responding, rows_of


def slow(rows):
    """One label and unit after the other."""
    values = np.concatenate([part.numpy() for part in rows])
    owner = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    return np.array(
        [
            [average_precision_score(owner == k, values[:, n]) for n in range(values.shape[1])]
            for k in range(len(rows))
        ]
    )


@pytest.mark.parametrize("seed", range(40))
def test_equals_scikit_learn(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    labels, units = int(rng.integers(2, 6)), int(rng.integers(1, 12))
    rows = []
    for _ in range(labels):
        found = rng.normal(size=(int(rng.integers(1, 9)), units))
        kind = seed % 4
        if kind == 1:
            found = np.round(found)  # ties within and between labels, and both zeros
        elif kind == 2:
            found[:] = found[0, 0] if rng.random() < 0.5 else 0.0
        elif kind == 3:
            found[:, ::2] = np.round(found[:, ::2], 1)
        rows.append(torch.tensor(found, dtype=torch.float32))
    expected = slow(rows)
    assert np.allclose(_ranking.average_precision(rows).numpy(), expected, atol=1e-9)
    monkeypatch.setattr(_ranking, "_CHUNK", 1)  # one unit at a time
    assert np.allclose(_ranking.average_precision(rows).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_selects_the_best_and_the_worst(seed):
    rng = np.random.default_rng(seed)
    stats = responding(rng, int(rng.integers(2, 5)), ties=bool(seed % 2))
    budget, which = int(rng.integers(1, 20)), ("top", "bottom", "both")[seed % 3]
    neurons = detect(stats, "average_precision", per_label=budget, which=which)
    responses = stats.responses("mlp.neuron")
    precision = slow([responses[name].flatten(1) for name in stats.labels]).round(9)
    for k, name in enumerate(stats.labels):
        order = sorted(range(14), key=lambda n: -precision[k][n])
        best = order[:budget] if which != "bottom" else []
        worst = sorted(range(14), key=lambda n: precision[k][n])[:budget] if which != "top" else []
        rows = neurons.rows(name)
        assert {(0, n // 7, n % 7) for n in [*best, *worst]} == rows_of(rows)
        for row, (layer, i) in enumerate(zip(rows.layer, rows.index, strict=True)):
            unit = int(layer * 7 + i)
            expected = precision[k][unit]
            assert float(rows.values["mlp.neuron.ap"][row]) == pytest.approx(expected, abs=1e-6)
            score = expected if unit in best else 1 - expected
            assert float(rows.score[row]) == pytest.approx(score, abs=1e-6)
            middle = np.median(responses[name][:, layer, i].numpy())
            assert float(rows.value("median", "mlp.neuron")[row]) == pytest.approx(middle, abs=1e-6)
    assert neurons.operation == {"name": "set", "value": "median"}


@pytest.mark.parametrize("site", ["attn.v", "resid", "mlp.act"])
def test_any_site_of_a_model(site):
    texts = {"a": ["one two", "three four", "five"], "b": ["ñandú", "año"]}
    needs = [f"responses@{site}"]
    stats = collect(tiny_model(), tiny_tokenizer(), texts, needs=needs, progress=False)
    neurons = detect(stats, "average_precision", site=site, per_label=3)
    assert neurons.site == site and neurons.counts == {"a": 6, "b": 6}
    assert neurons.method["results"] == {"texts": {"a": 3, "b": 2}}


def test_padding_is_no_unit():
    stats = responding(np.random.default_rng(0), 2, width=5)
    stats = dataclasses.replace(stats, site_widths={"mlp.neuron": (2, 5)})
    neurons = detect(stats, "average_precision", per_label=100)
    assert neurons.layer_profile().tolist() == [[2, 5], [2, 5]]


def test_relations_are_the_same_rule():
    stats = responding(np.random.default_rng(1), 3, width=9)
    neurons = detect(stats, "relations", per_label=4)
    assert rows_of(neurons) == rows_of(detect(stats, "average_precision", per_label=4))
    assert neurons.operation == {"name": "zero"}
    assert neurons.method["name"] == "relations"


def test_mistakes():
    stats = responding(np.random.default_rng(2), 2)
    for wrong in ({"per_label": 0}, {"which": "middle"}, {"site": "mlp"}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            detect(stats, "average_precision", **wrong)
    with pytest.raises(StatsError, match="'responses' at 'mlp.act'"):
        detect(stats, "average_precision", site="mlp.act")
    with pytest.raises(StatsError, match="only l0"):
        detect(stats.only("l0"), "average_precision")
    stats.rows[Need("responses", "mlp.neuron")]["l1"] = torch.empty(0, 2, 7)
    with pytest.raises(StatsError, match="'l1' has none"):
        detect(stats, "average_precision")
