"""Contrastive attribution against a slow reference, and its statistics from collecting to rows."""

import numpy as np
import pytest
import torch

import neuronsteer as ns
from neuronsteer.detectors import detect, detector
from neuronsteer.errors import LabelError, ParameterError, StatsError
from neuronsteer.stats import Need, Stats, collect

from ..tiny_models import tiny_ids, tiny_model, tiny_tokenizer
from .material import rows_of


def stats_of(last, texts, widths=None):
    """`last`: `[labels, layers, width]`, sums over `texts[label]` texts."""
    names = tuple(f"l{k}" for k in range(len(last)))
    return Stats(
        labels=names,
        tokens=dict.fromkeys(names, 100),
        texts=dict(zip(names, texts, strict=True)),
        site_widths={"mlp.neuron": tuple(widths or (last.shape[2],) * last.shape[1])},
        arrays={Need("last", "mlp.neuron"): torch.tensor(last)},
    )


def reference(mean, rate, common, source, layers):
    """Return `{(label, layer, index): score}` and how many common neurons were left out."""
    labels, depth, width = mean.shape
    neurons = [(layer, i) for layer in range(depth) for i in range(width)]
    budget = max(1, round(rate * len(neurons)))

    def best(size, among):
        order = sorted(among, key=lambda n: (-size(n), n))
        return [n for n in order[:budget] if size(n) > 0]

    found, removed = {}, set()
    largest = [best(lambda n, k=k: abs(mean[k][n]), neurons) for k in range(labels)]
    for k in range(labels):
        against = [j for j in range(labels) if j != k]
        if source is not None and source != k:
            against = [source]

        def differs(n, k=k, against=against):
            return abs(mean[k][n] - sum(mean[j][n] for j in against) / len(against))

        for n in best(differs, [n for n in neurons if n[0] in layers]):
            members = sum(n in each for each in largest)
            if common is not None and members >= common * labels:
                removed.add(n)
            else:
                found[(k, *n)] = differs(n)
    return found, len(removed)


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    labels, layers, width = (int(rng.integers(2, high)) for high in (6, 4, 12))
    # Whole numbers, so that there are ties; a few neurons are large in every label.
    mean = rng.integers(-3, 4, size=(labels, layers, width)).astype(float)
    mean += 10 * (rng.random((layers, width)) < 0.1)
    texts = rng.integers(1, 5, size=labels)
    options = {
        "rate": float(rng.choice([0.05, 0.2, 1.0])),
        "common": [None, 0.5, 0.8, 1.0][rng.integers(4)],
    }
    source = int(rng.integers(labels)) if rng.random() < 0.5 else None
    layer = None if rng.random() < 0.5 else int(rng.integers(layers))
    if source is not None:
        options["source"] = f"l{source}"
    if layer is not None:
        options["layers"] = layer
    neurons = detect(
        stats_of(mean * texts[:, None, None], texts.tolist()), "contrastive", **options
    )
    chosen = range(layers) if layer is None else [layer]
    expected, removed = reference(mean, options["rate"], options["common"], source, chosen)
    assert rows_of(neurons) == set(expected)
    places = (neurons.label, neurons.layer, neurons.index)
    found = zip(*(column.tolist() for column in places), strict=True)
    for row, key in enumerate(found):
        assert float(neurons.score[row]) == pytest.approx(expected[key])
    assert neurons.method["results"]["common"] == removed


def test_what_is_large_in_every_label_is_left_out():
    mean = np.ones((3, 1, 10))
    mean[:, 0, 0] = 50, 60, 80  # large, whatever the label
    mean[0, 0, 4], mean[1, 0, 5], mean[2, 0, 6] = 9, 9, 9
    stats = stats_of(mean, (1, 1, 1))
    assert rows_of(detect(stats, "contrastive", rate=0.2)) == {(0, 0, 4), (1, 0, 5), (2, 0, 6)}
    kept = rows_of(detect(stats, "contrastive", rate=0.2, common=None))
    assert {(0, 0, 0), (2, 0, 0)} <= kept
    # Only one of three labels has neuron 4 among its largest.
    assert (0, 0, 4) not in rows_of(detect(stats, "contrastive", rate=0.2, common=0.3))


def test_layers_of_other_widths_have_no_neurons_beyond_them():
    mean = np.ones((2, 2, 5))
    mean[0, 0, 4] = 100  # beyond the first layer's width
    mean[0, 1, 4] = 2
    neurons = detect(stats_of(mean, (1, 1), widths=(3, 5)), "contrastive", rate=0.125, common=None)
    assert rows_of(neurons) == {(0, 1, 4), (1, 1, 4)}


def test_from_prompts_to_a_steered_model():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    texts = {"a": ["one two", "three four five"], "b": ["ñandú", "año año año"]}
    needs = detector("contrastive")
    stats = collect(model, tokenizer, texts, needs=needs, progress=False)
    neurons = detect(stats, "contrastive", rate=0.05, factor=3.0)
    assert neurons.operation == {"name": "scale", "factor": 3.0} and not neurons.values
    assert neurons.source is None and neurons.counts["a"]
    ids = tiny_ids()
    with torch.no_grad(), ns.attach(model, neurons) as steer:
        plain = model(ids).logits
        steer.to("a")
        assert not torch.equal(model(ids).logits, plain)
    more = collect(model, tokenizer, texts, needs=[*needs.needs, "sum@mlp.neuron"], progress=False)
    with ns.attach(model, detect(more, "contrastive", rate=0.05)) as steer:
        steer.to("a", operation="add", source="b")


def test_mistakes():
    stats = stats_of(np.ones((2, 1, 3)), (1, 1))
    for wrong in (
        {"rate": 0.0},
        {"rate": 2.0},
        {"common": 0.0},
        {"common": 1.5},
        {"factor": float("inf")},
        {"layers": "auto"},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            detect(stats, "contrastive", **wrong)
    with pytest.raises(LabelError, match="zz"):
        detect(stats, "contrastive", source="zz")
    with pytest.raises(StatsError, match="only l0"):
        detect(stats.only("l0"), "contrastive")
    counts = Stats.from_counts({"a": [[1]], "b": [[0]]}, {"a": 1, "b": 1})
    with pytest.raises(StatsError, match="'last' at 'mlp.neuron'"):
        detect(counts, "contrastive")
