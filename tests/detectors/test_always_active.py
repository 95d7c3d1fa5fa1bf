"""Neurons that are positive in every text, against a slow reference."""

import math

import numpy as np
import pytest

import neuronsteer as ns
from neuronsteer.detectors import detect
from neuronsteer.errors import ParameterError, StatsError
from neuronsteer.stats import collect

from ..tiny_models import tiny_ids, tiny_model, tiny_tokenizer
from .material import responding, rows_of


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    labels = int(rng.integers(1, 5))
    stats = responding(rng, labels, texts=4, site="mlp.act", ties=bool(seed % 2))
    share = float(rng.choice([1.0, 0.5, 0.75]))
    limit = None if seed % 3 else 1
    neurons = detect(
        stats, "always_active", share=share, max_members=limit, patch=["max", "median"][seed % 2]
    )
    responses = {name: part.numpy() for name, part in stats.responses("mlp.act").items()}
    owners = {
        (layer, i): [
            k
            for k, name in enumerate(stats.labels)
            if sum(text[layer, i] > 0 for text in responses[name])
            >= math.ceil(share * len(responses[name]))
        ]
        for layer in range(2)
        for i in range(7)
    }
    expected = {(k, *n) for n, found in owners.items() for k in found}
    if limit:
        expected = {(k, *n) for k, *n in expected if len(owners[tuple(n)]) <= limit}
    assert rows_of(neurons) == expected
    for row in range(len(neurons)):
        k, layer, i = (int(c[row]) for c in (neurons.label, neurons.layer, neurons.index))
        mine = responses[stats.labels[k]][:, layer, i]
        for source, value in (("max", mine.max()), ("median", np.median(mine))):
            assert float(neurons.values[f"mlp.act.{source}"][row]) == pytest.approx(value, abs=1e-6)
        assert float(neurons.score[row]) == pytest.approx(mine.min(), abs=1e-6)


def test_patches_the_gate_of_a_model():
    texts = {"a": ["one two", "three four"], "b": ["ñandú", "año"]}
    needs = ["responses@mlp.act"]
    model = tiny_model()
    stats = collect(model, tiny_tokenizer(), texts, needs=needs, progress=False)
    neurons = detect(stats, "always_active", patch="median")
    assert neurons.operation == {"name": "set", "value": "median", "site": "mlp.act"}
    before = model(tiny_ids()).logits
    with ns.attach(model, neurons) as steer:
        steer.to("a")
        assert not before.equal(model(tiny_ids()).logits)


def test_mistakes():
    stats = responding(np.random.default_rng(0), 2)
    for wrong in ({"share": 0.0}, {"max_members": 0}, {"patch": "mean"}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            detect(stats, "always_active", **wrong)
    with pytest.raises(StatsError, match="'responses' at 'mlp.act'"):
        detect(stats, "always_active")
