"""Directions: every unit has a row, and adding them moves the model by the difference of means."""

import numpy as np
import pytest
import torch

import neuronsteer as ns
from neuronsteer.detectors import detect
from neuronsteer.errors import LabelError, ParameterError, StatsError
from neuronsteer.stats import Need, Stats, collect

from ..tiny_models import HIDDEN, tiny_ids, tiny_model, tiny_tokenizer
from .material import valued
from .test_dimensions import stats_of

TEXTS = {"a": ["one two", "three four"], "b": ["ñandú año"], "c": ["42 43 44", "0 0"]}


@pytest.fixture(scope="module")
def stats():
    needs = ["sum@resid", "sum@mlp.neuron", "max@mlp.neuron"]
    return collect(tiny_model(layers=3), tiny_tokenizer(), TEXTS, needs=needs, progress=False)


@pytest.mark.parametrize("source", ["others", "b"])
@pytest.mark.parametrize("site", ["resid", "mlp.neuron"])
def test_rows_are_the_difference_of_means(stats, site, source):
    neurons = detect(stats, "diffmean", site=site, source=source, layers=(0, -1), factor=2.0)
    width = HIDDEN if site == "resid" else stats.width
    assert neurons.counts == dict.fromkeys("abc", 2 * width)
    assert neurons.site == site and sorted(set(neurons.layer.tolist())) == [0, 2]
    assert list(neurons.values) == [f"{site}.means"] and neurons.means_of == ("a", "b", "c")
    assert neurons.source == ("b" if source == "b" else "prompt")
    mean = (stats.get("sum", site) / torch.tensor([[[stats.tokens[n]]] for n in "abc"])).numpy()
    for k, name in enumerate("abc"):
        away = [j for j in range(3) if j != k] if source == "others" or name == "b" else [1]
        expected = (mean[k] - mean[away].mean(0))[[0, 2]].reshape(-1)
        rows = neurons.rows(name)
        left = () if source == "others" or name == "b" else ("b",)
        found = rows.leaving(*left).value("diffmean", site).numpy()
        # The means of neurons are kept in 16 bits.
        np.testing.assert_allclose(found, expected, atol=1e-5 if site == "resid" else 1e-3)
        np.testing.assert_allclose(rows.score.numpy(), np.abs(expected), atol=1e-5)
    assert neurons.operation == {"name": "add", "value": "diffmean", "factor": 2.0}


def test_all_layers_of_neurons_and_every_second_one_of_the_residual_stream(stats):
    found = detect(stats, "diffmean", site="mlp.neuron")
    assert set(found.layer.tolist()) == {0, 1, 2} and found.operation["factor"] == 1.0
    neurons = detect(stats)
    assert set(neurons.layer.tolist()) == {0, 2} and neurons.site == "resid"
    assert neurons.method["name"] == "diffmean" and neurons.method["results"]["layers"] == [0, 2]


@pytest.mark.parametrize(("layers", "factor"), [(1, 1.0), ("0,2", 2 / 3), ("all", 0.5)])
def test_more_layers_take_a_smaller_factor(stats, layers, factor):
    neurons = detect(stats, "diffmean", layers=layers)
    assert neurons.operation == {"name": "add", "value": "diffmean", "factor": factor}


def test_massive_coordinates_are_left_alone():
    values = np.ones((2, 1, 8))
    values[:, 0, 3] = 5.1
    values[:, 0, 6] = 4.9
    values[1] *= 1.01
    stats = stats_of(values)
    assert detect(stats).index.tolist() == 2 * [0, 1, 2, 4, 5, 6, 7]
    assert detect(stats).method["results"]["massive"] == {"0": [3]}
    assert len(detect(stats, massive=4.5)) == 2 * 6
    assert len(detect(stats, massive=None)) == 2 * 8
    with pytest.raises(ParameterError, match="massive"):
        detect(stats, massive=0.5)


def test_widths_may_differ():
    stats = valued(np.random.default_rng(0), 2, widths=[3, 5])
    assert detect(stats, "diffmean", site="mlp.neuron").layer_profile().tolist() == [[3, 5], [3, 5]]


def test_the_same_steerer_adds_it_where_it_was_measured(stats, tmp_path):
    model = tiny_model(layers=3)
    detect(stats, "diffmean", layers=(1,)).save_pretrained(tmp_path)
    neurons = ns.NeuronSet.from_pretrained(tmp_path)
    ids = tiny_ids()
    seen = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad(), ns.attach(model, neurons) as steer:
        seen.clear()
        model(ids)
        steer.to("a", strength=1.5, source="others")
        model(ids)
    before, after = seen[:3], seen[3:]
    expected = 1.5 * neurons.rows("a").value("diffmean", "resid")
    assert torch.equal(after[1], before[1])
    assert torch.allclose(after[2] - before[2], expected.expand_as(after[2]), atol=1e-4)


def test_a_schedule_switches_directions(stats):
    model, ids = tiny_model(layers=3), tiny_ids()
    with ns.attach(model, detect(stats, "diffmean", factor=20.0)) as steer:
        options = {"max_new_tokens": 8, "do_sample": False}
        outs = []
        for schedule in ("a", "b", "a,4:b"):
            steer.to(ns.Schedule.parse(schedule), source="others")
            outs.append(model.generate(ids, **options)[:, ids.shape[1] :])
    assert torch.equal(outs[2][:, :4], outs[0][:, :4])
    assert not torch.equal(outs[2], outs[0])


def test_mistakes(stats):
    with pytest.raises(ParameterError, match="residual"):
        detect(stats, "diffmean", site="residual")
    for layers in ((3,), (-4,), (), ("1",)):
        with pytest.raises(ParameterError, match="layers"):
            detect(stats, "diffmean", layers=layers)
    with pytest.raises(ParameterError, match="factor"):
        detect(stats, "diffmean", factor=float("nan"))
    with pytest.raises(LabelError, match="zz"):
        detect(stats, "diffmean", source="zz")
    with pytest.raises(StatsError, match="only a"):
        detect(stats.only("a"), "diffmean")
    counts = Stats.from_counts({"a": [[1, 2]], "b": [[2, 1]]}, {"a": 3, "b": 3})
    assert Need("sum", "resid") not in counts.needs
    with pytest.raises(StatsError, match="'sum' at 'resid'"):
        detect(counts, "diffmean")
