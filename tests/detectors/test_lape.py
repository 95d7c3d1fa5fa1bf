"""LAPE against a slow, obvious reference, and against a transcription of the released script."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from neuronsteer.detectors import DETECTORS, detect, detector
from neuronsteer.errors import ParameterError, StatsError, UnknownNameError
from neuronsteer.stats import Need, Stats


def stats_of(counts, tokens, widths=None):
    """`counts`: integer array [labels, layers, width]; `tokens`: one number per label."""
    names = [f"l{k}" for k in range(len(counts))]
    counts = np.array(counts)
    for layer, width in enumerate(widths or []):
        counts[:, layer, width:] = 0
    return Stats.from_counts(
        dict(zip(names, counts, strict=True)),
        {name: int(tokens[k]) for k, name in enumerate(names)},
        model_type="llama",
        base_model="org/base",
        **({"widths": widths} if widths else {}),
    )


def with_values(stats, generator):
    """The same statistics with sums and maxima at both MLP sites."""
    shape = stats.get("count", "mlp.act").shape
    arrays = {
        Need(reducer, site): torch.randn(shape, generator=generator, dtype=torch.float64)
        for reducer in ("sum", "max")
        for site in ("mlp.act", "mlp.neuron")
    }
    widths = {site: stats.widths for site in ("mlp.act", "mlp.neuron")}
    return dataclasses.replace(stats, arrays={**stats.arrays, **arrays}, site_widths=widths)


def rows_of(neurons):
    columns = (neurons.label, neurons.layer, neurons.index)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def reference(counts, tokens, widths, rate=0.01, filter=0.95, bar=0.95, per_label=None, limit=None):
    """Return `(rows, orphans)`, one neuron after the other, as methods.md words it."""
    labels = len(counts)
    neurons = [(layer, i) for layer, width in enumerate(widths) for i in range(width)]
    p = {
        (layer, i): [float(counts[k][layer][i]) / float(tokens[k]) for k in range(labels)]
        for layer, i in neurons
    }
    pooled = sorted(value for values in p.values() for value in values)

    def percentile(share):
        return pooled[max(1, round(share * len(pooled))) - 1]

    threshold, bar = percentile(filter), percentile(bar)
    entropy = {}
    for neuron in neurons:
        total = sum(p[neuron])
        if total > 0 and any(value > threshold for value in p[neuron]):
            q = np.array([value for value in p[neuron] if value > 0]) / total
            # Rounded: what is equal on paper must be equal here, and go by index.
            entropy[neuron] = round(float(-(q * np.log(q)).sum()), 9)
    owners = {n: [k for k in range(labels) if p[n][k] > bar] for n in entropy}
    # sorted() is stable, and `entropy` is in the order of layer and index.
    ranking = sorted(entropy, key=lambda n: entropy[n])
    allowed = [n for n in ranking if limit is None or len(owners[n]) <= limit]
    if per_label is not None:
        rows = set()
        for k in range(labels):
            mine = [n for n in allowed if k in owners[n]][:per_label]
            rows |= {(k, *n) for n in mine}
        return rows, 0
    selected = ranking[: round(rate * len(neurons))]
    rows = {(k, *n) for n in selected if n in allowed for k in owners[n]}
    return rows, sum(not owners[n] for n in selected)


def random_case(rng):
    labels = int(rng.integers(2, 21)) if rng.random() < 0.5 else int(rng.integers(2, 5))
    layers, width = int(rng.integers(1, 5)), int(rng.integers(2, 18))
    # Few tokens make ties; equal token numbers make more.
    high = int(rng.choice([2, 5, 30, 10**6]))
    tokens = rng.integers(1, high + 1, size=labels)
    if rng.random() < 0.5:
        tokens[:] = tokens[0]
    share = rng.random((labels, layers, width)) ** rng.choice([1, 4])
    counts = np.floor(share * (tokens[:, None, None] + 1)).astype(np.int64)
    kind = rng.random()
    if kind < 0.3:
        counts[:, rng.random((layers, width)) < 0.4] = 0  # dead everywhere
    elif kind < 0.5:  # the same neuron again, labels permuted: equal entropy
        counts[:, :, width // 2] = counts[rng.permutation(labels), :, 0]
    elif kind < 0.55:
        counts[:] = tokens[:, None, None] // 2
    counts = np.minimum(counts, tokens[:, None, None])
    widths = [width] * layers
    if rng.random() < 0.3:
        widths = [int(rng.integers(1, width + 1)) for _ in range(layers)]
        widths[int(rng.integers(layers))] = width
    return counts, tokens, widths


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_reference_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    for _ in range(500):
        counts, tokens, widths = random_case(rng)
        options = {
            "rate": float(rng.choice([0.01, 0.05, 0.2, 0.5, 1.0])),
            "filter": float(rng.choice([0.0, 0.5, 0.8, 0.95, 1.0])),
        }
        options["bar"] = options["filter"] if rng.random() < 0.5 else float(rng.random())
        if rng.random() < 0.4:
            options["per_label"] = int(rng.integers(1, 6))
        limit = int(rng.integers(1, 4)) if rng.random() < 0.4 else None
        expected, orphans = reference(counts, tokens, widths, limit=limit, **options)
        if limit == 1 and rng.random() < 0.5:
            options["exclusive"] = True
        elif limit is not None:
            options["max_members"] = limit
        neurons = detect(stats_of(counts, tokens, widths), "lape", **options)
        assert rows_of(neurons) == expected, (counts.tolist(), tokens.tolist(), widths, options)
        assert neurons.orphans == orphans
        assert len(neurons.labels) == len(counts)


def test_equals_the_released_script_where_nothing_ties():
    """`identify.py` of the LAPE repository in NumPy, on continuous probabilities."""
    rng = np.random.default_rng(7)
    for labels in (2, 7, 10):
        tokens = rng.integers(9 * 10**6, 10**7, size=labels)
        counts = (rng.random((labels, 6, 200)) ** 3 * tokens[:, None, None]).astype(np.int64)
        p = np.moveaxis(counts / tokens[:, None, None], 0, -1)  # [layers, width, labels]
        q = p / p.sum(-1, keepdims=True)
        entropy = -(q * np.where(q > 0, np.log(np.where(q > 0, q, 1)), 0)).sum(-1)
        flat = np.sort(p.ravel())
        threshold = flat[round(len(flat) * 0.95) - 1]
        entropy[(p > threshold).sum(-1) == 0] = np.inf
        best = np.argsort(entropy.ravel())[: round(entropy.size * 0.01)]
        layer, index = np.unravel_index(best, entropy.shape)
        expected = {
            (k, int(a), int(b))
            for a, b in zip(layer, index, strict=True)
            for k in range(labels)
            if p[a, b, k] > threshold
        }
        neurons = detect(stats_of(counts, tokens), "lape")
        assert rows_of(neurons) == expected
        assert sum(neurons.sharing().values()) == len(best)
        exact = {(a, b): -h for (a, b), h in np.ndenumerate(entropy)}
        for a, b, score in zip(neurons.layer, neurons.index, neurons.score, strict=True):
            assert float(score) == pytest.approx(exact[int(a), int(b)], abs=1e-6)


def test_dead_neurons_are_never_selected():
    counts = np.zeros((3, 2, 10), dtype=np.int64)
    counts[0, 1, 4] = 5
    neurons = detect(stats_of(counts, [10, 10, 10]), "lape", rate=1.0, filter=0.0, bar=0.0)
    assert rows_of(neurons) == {(0, 1, 4)}


def test_equal_probabilities_select_nothing_but_keep_the_labels():
    neurons = detect(stats_of(np.full((4, 2, 10), 5), [10] * 4), "lape", rate=0.5)
    assert len(neurons) == 0
    assert neurons.labels == ("l0", "l1", "l2", "l3")
    assert neurons.counts == {"l0": 0, "l1": 0, "l2": 0, "l3": 0}
    assert neurons.sharing() == {} and neurons.orphans == 0


def test_ties_go_to_the_lower_layer_and_index():
    counts = np.zeros((3, 2, 6), dtype=np.int64)
    # On paper all four have the same entropy; naive sums differ in the last digit.
    counts[:, 0, 3], counts[:, 0, 5] = (1, 3, 6), (6, 1, 3)
    counts[:, 1, 0], counts[:, 1, 2] = (3, 6, 1), (2, 6, 12)
    neurons = detect(stats_of(counts, [30] * 3), "lape", rate=2 / 12, filter=0.2, bar=0.2)
    assert {row[1:] for row in rows_of(neurons)} == {(0, 3), (0, 5)}


def test_orphans_are_counted_when_the_bar_is_above_the_filter():
    counts = np.random.default_rng(0).integers(0, 100, (3, 2, 50))
    neurons = detect(stats_of(counts, [100] * 3), "lape", rate=0.5, filter=0.5, bar=0.99)
    summary = neurons.summary()
    assert summary["orphans"] > 0
    selected = neurons.method["results"]["selected"]
    assert sum(summary["sharing"].values()) + summary["orphans"] == selected == 50


def test_padding_of_ragged_layers_counts_nowhere():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100, (3, 2, 16))
    neurons = detect(
        stats_of(counts, [100] * 3, widths=[8, 16]), "lape", rate=0.3, filter=0.7, bar=0.7
    )
    expected, _ = reference(counts, [100] * 3, [8, 16], rate=0.3, filter=0.7, bar=0.7)
    assert rows_of(neurons) == expected and len(expected) > 0
    assert neurons.width_per_layer == (8, 16)


def test_experts_that_no_token_reached_are_not_active():
    """Two experts of four neurons; probabilities are shares of the tokens routed to an expert."""
    counts = torch.zeros(2, 1, 8, dtype=torch.int64)
    counts[0, 0, 1], counts[1, 0, 6] = 3, 5
    stats = dataclasses.replace(
        stats_of(counts, [10, 10]),
        routed={"mlp.act": torch.tensor([[[4, 0]], [[0, 5]]])},
        header={
            "model_type": "mixtral",
            "experts": {"mlp.act": [{"num_experts": 2, "expert_width": 4}]},
        },
    )
    assert stats.probabilities().isnan().any()
    neurons = detect(stats, "lape", rate=1.0, filter=0.5, bar=0.5)
    assert rows_of(neurons) == {(0, 0, 1), (1, 0, 6)}
    assert neurons.value("prob", "mlp.act").tolist() == [0.75, 1.0]


def test_exclusive_keeps_neurons_with_one_owner():
    counts = np.random.default_rng(0).integers(0, 100, (4, 2, 50))
    stats = stats_of(counts, [100] * 4)
    everything = detect(stats, "lape", rate=0.5, filter=0.5, bar=0.5)
    exclusive = detect(stats, "lape", rate=0.5, filter=0.5, bar=0.5, exclusive=True)
    assert exclusive.sharing() == {1: everything.sharing()[1]}
    assert set(detect(stats, "lape", rate=0.5, filter=0.5, bar=0.5, max_members=2).sharing()) <= {
        1,
        2,
    }


def test_equal_budgets():
    counts = np.random.default_rng(0).integers(0, 100, (4, 3, 80))
    neurons = detect(stats_of(counts, [100] * 4), "lape", per_label=7, filter=0.5, bar=0.5)
    assert set(neurons.counts.values()) == {7}


def test_rows_carry_every_statistic_there_is():
    counts = np.random.default_rng(0).integers(0, 100, (3, 2, 40))
    stats = stats_of(counts % 50, [100, 50, 70])
    bare = detect(stats, "lape", rate=0.2)
    assert set(bare.values) == {"mlp.act.prob"} and bare.operation == {"name": "zero"}
    stats = with_values(stats, torch.Generator().manual_seed(0))
    neurons = detect(stats, "lape", rate=0.2)
    assert set(neurons.values) == {
        *(f"mlp.act.{s}" for s in ("means", "max", "prob")),
        *(f"mlp.neuron.{s}" for s in ("means", "max")),
    }
    assert neurons.operation == {"name": "set", "value": "mean"}
    where = (neurons.label, neurons.layer, neurons.index)
    mean, other = stats.mean("mlp.neuron")[where], stats.other_mean("mlp.neuron")[where]
    near = {"rtol": 1e-3, "atol": 1e-3}  # the means of neurons are kept in 16 bits
    assert torch.allclose(neurons.value("mean", "mlp.neuron"), mean, **near)
    assert torch.allclose(neurons.value("diffmean", "mlp.neuron"), mean - other, **near)
    assert neurons.value("max", "mlp.act").equal(stats.max("mlp.act")[where].float())
    assert neurons.value("prob", "mlp.act").equal(stats.probabilities()[where].float())


def test_the_random_control_can_take_its_own_statistics():
    stats = stats_of(np.random.default_rng(0).integers(0, 100, (3, 2, 40)), [100] * 3)
    control = detect(stats, "lape", rate=0.2).random_like(0, stats=stats)
    where = (control.label, control.layer, control.index)
    assert control.value("prob", "mlp.act").equal(stats.probabilities()[where].float())


def test_header_says_how_it_was_made():
    stats = stats_of(np.random.default_rng(0).integers(0, 50, (3, 2, 40)), [100, 50, 70])
    neurons = detect(stats, "lape", rate=0.05)
    assert neurons.method["name"] == "lape"
    assert neurons.method["parameters"]["rate"] == 0.05
    assert neurons.calibration["l1"]["tokens"] == 50
    assert (neurons.site, neurons.model_type, neurons.base_model) == (
        "mlp.act",
        "llama",
        "org/base",
    )


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": 1.5}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"filter": -0.1}, "filter"),
        ({"bar": 2}, "bar"),
        ({"per_label": 0}, "per_label"),
        ({"max_members": 0}, "max_members"),
        ({"exclusive": True, "max_members": 2}, "max_members"),
        ({"rate": "0.1"}, "rate='0.1'; expected float"),
        ({"rate": True}, "rate=True"),
        ({"exclusive": "yes"}, "exclusive='yes'; expected bool"),
        ({"per_label": 1.5}, "per_label=1.5; expected int or None"),
        ({"site": None}, "site=None"),
        ({"raet": 0.1}, "Did you mean 'rate'"),
    ],
)
def test_bad_parameters_are_named(parameters, field):
    with pytest.raises(ParameterError, match=field):
        detector("lape", **parameters)


def test_what_lape_cannot_work_with():
    counts = np.ones((2, 1, 4), dtype=np.int64)
    with pytest.raises(StatsError, match="compares labels"):
        detect(stats_of(counts[:1], [10]), "lape")
    with pytest.raises(StatsError, match="'count' at 'mlp.neuron'"):
        detect(stats_of(counts, [10, 10]), "lape", site="mlp.neuron")
    with pytest.raises(UnknownNameError, match="Did you mean 'lape'"):
        detect(stats_of(counts, [10, 10]), method="lap")


def test_registered_and_described():
    assert "lape" in DETECTORS
    chosen = detector("lape")
    assert chosen.needs == (Need("count", "mlp.act"),)
    assert chosen.needs[0] == ("count", "mlp.act")
    assert detector(chosen, rate=0.5).parameters()["rate"] == 0.5
    assert "2402.16438" in chosen.paper


def test_a_seven_billion_model_takes_seconds():
    generator = torch.Generator().manual_seed(0)
    generator, tokens = torch.Generator().manual_seed(0), 10**7
    counts = {
        f"l{k}": (torch.rand(32, 14336, generator=generator) ** 6 * tokens).long()
        for k in range(10)
    }
    stats = Stats.from_counts(counts, dict.fromkeys(counts, tokens))
    start = time.process_time()
    neurons = detect(stats, "lape")
    # CPU time of one thread, with room for a busy machine; an idle one needs about two seconds.
    assert time.process_time() - start < 10
    assert sum(neurons.sharing().values()) == round(0.01 * 32 * 14336)
