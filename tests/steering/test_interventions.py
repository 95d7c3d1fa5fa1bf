"""Every intervention of the papers, as an operation with its source of values: by-hand tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronsteer.errors import ArtifactError, ParameterError
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.operations import operation
from neuronsteer.stats import Need, Stats
from neuronsteer.stats.reducers.quantile import BINS, edges
from neuronsteer.steering.compile import Compiler, State

WIDTH, TOKENS = 6, 400
SITES = ("mlp.act", "mlp.neuron")


@pytest.fixture(scope="module")
def values():
    """Values of every neuron at every token, `{site: [labels, layers, width, tokens]}`."""
    rng = np.random.default_rng(0)
    return {site: rng.normal(size=(2, 1, WIDTH, TOKENS)) * 3 for site in SITES}


@pytest.fixture(scope="module")
def stats(values):
    """What collecting these values would have left."""
    arrays = {}
    for site, found in values.items():
        bins = np.searchsorted(edges().numpy(), found.astype(np.float32), side="right")
        histogram = np.stack(
            [np.bincount(row, minlength=BINS) for row in bins.reshape(-1, TOKENS)]
        ).reshape(2, 1, WIDTH, BINS)
        arrays[Need("sum", site)] = torch.tensor(found.sum(-1))
        arrays[Need("max", site)] = torch.tensor(found.max(-1), dtype=torch.float32)
        arrays[Need("quantile", site)] = torch.tensor(histogram, dtype=torch.int32)
    return Stats(
        labels=("en", "fr"),
        tokens={"en": TOKENS, "fr": TOKENS},
        texts={"en": 1, "fr": 1},
        site_widths={site: (WIDTH,) for site in SITES},
        arrays=arrays,
        header={"model_type": "llama"},
    )


@pytest.fixture(scope="module")
def neurons(stats):
    """French neurons 0, 2 and 4; English 1 and 2."""
    bare = NeuronSet.from_rows(
        ("en", "fr"),
        [0, 0, 1, 1, 1],
        [0] * 5,
        [1, 2, 0, 2, 4],
        site="mlp.act",
        num_layers=1,
        width=WIDTH,
    )
    sources = ("mean", "means", "max", "median", "p10", "p90", "layer_mean")
    return bare.with_values(stats, *sources)


def table(neurons, label="fr", **state):
    """Return dense `(scale, shift, gain)` rows of the one layer."""
    key = ("mlp.neuron", 0)
    row = Compiler([neurons], True, {key: WIDTH}).compile(State(label, **state))[key]
    scale, shift, gain = torch.ones(WIDTH), torch.zeros(WIDTH), torch.zeros(WIDTH)
    scale[row.columns], shift[row.columns] = row.scale, row.shift
    if row.gain is not None:
        gain[row.columns] = row.gain
    return scale.numpy(), shift.numpy(), gain.numpy()


FRENCH = [0, 2, 4]


def dense(numbers, base=0.0):
    """Return `[width]` with numbers at the French neurons."""
    found = np.full(WIDTH, base, dtype=float)
    found[FRENCH] = numbers
    return found


def close(found, *expected, rtol=1e-5):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=1e-6)


class TestLanguageArithmetics:
    """Gurgurov et al.: on g, before the multiplication by u."""

    def test_additive(self, neurons, values):
        mean = values["mlp.act"][1, 0, FRENCH].mean(-1)
        spec = operation("add", value="mean", factor=0.7, site="mlp.act")
        close(table(neurons, operation=spec), np.ones(WIDTH), np.zeros(WIDTH), dense(0.7 * mean))

    def test_replacement(self, neurons, values):
        mean = values["mlp.act"][1, 0, FRENCH].mean(-1)
        spec = operation("set", value="mean", site="mlp.act")
        close(table(neurons, operation=spec), dense(0, 1), np.zeros(WIDTH), dense(mean))

    def test_difference_of_means(self, neurons, values):
        found = values["mlp.act"][:, 0, FRENCH].mean(-1)
        spec = operation("add", value="diffmean", site="mlp.act")
        expected = dense(found[1] - found[0])
        # The means of all labels are kept in 16 bits.
        made = table(neurons, operation=spec)
        close(made, np.ones(WIDTH), np.zeros(WIDTH), expected, rtol=2e-3)

    @pytest.mark.parametrize("constant", [0.0, -1.0, -1.5, -2.5])
    def test_deactivation_to_a_constant_precedes_addition(self, neurons, values, constant):
        mean = values["mlp.neuron"][1, 0, FRENCH].mean(-1)
        expected = dense(mean)
        expected[[1, 2]] += constant
        scale = np.ones(WIDTH)
        scale[[1, 2]] = 0
        found = table(
            neurons,
            operation=operation("add", value="mean"),
            away_from=("en",),
            away=operation("set", value=constant),
        )
        close(found, scale, expected, np.zeros(WIDTH))

    @pytest.mark.parametrize("factor", [-1.0, -0.1, 1.5, 10.0])
    def test_sign_inversion_and_other_factors(self, neurons, factor):
        found = table(neurons, operation=operation("scale", factor=factor))
        close(found, dense(factor, 1), np.zeros(WIDTH), np.zeros(WIDTH))

    def test_deactivation_to_the_mean_of_the_layer(self, neurons, values):
        mean = values["mlp.neuron"][1, 0].mean()
        found = table(neurons, operation=operation("set", value="layer_mean"))
        close(found, dense(0, 1), dense(mean), np.zeros(WIDTH))


class TestAmplifying:
    """Rahmanisa et al.: one operator and a number, or a statistic of the layer's output."""

    def test_fixed_numbers(self, neurons):
        for spec, scale, shift in (
            (operation("scale", factor=10), 10, 0),
            (operation("scale", factor=1.5), 1.5, 0),
            (operation("set", value=0), 0, 0),
            (operation("add", value=5), 1, 5),
        ):
            close(table(neurons, operation=spec), dense(scale, 1), dense(shift), np.zeros(WIDTH))

    def test_max_and_plus_max(self, neurons, values):
        top = values["mlp.neuron"][1, 0, FRENCH].max(-1)
        for name, scale in (("set", 0), ("add", 1)):
            found = table(neurons, operation=operation(name, value="max"))
            close(found, dense(scale, 1), dense(top), np.zeros(WIDTH))

    @pytest.mark.parametrize(("source", "q"), [("p10", 0.1), ("median", 0.5), ("p90", 0.9)])
    def test_percentiles(self, neurons, values, source, q):
        exact = np.quantile(values["mlp.neuron"][1, 0, FRENCH], q, axis=-1, method="lower")
        found = table(neurons, operation=operation("set", value=source))
        np.testing.assert_allclose(found[1][FRENCH], exact, rtol=0.1)

    def test_any_percentile_can_be_added(self, neurons, stats, values):
        spec = operation("set", value="p2.5")
        with pytest.raises(ArtifactError, match=r"with_values\(stats, 'p2.5'\)"):
            table(neurons, operation=spec)
        more = neurons.with_values(stats, "p2.5")
        exact = np.quantile(values["mlp.neuron"][1, 0, FRENCH], 0.025, axis=-1, method="lower")
        np.testing.assert_allclose(table(more, operation=spec)[1][FRENCH], exact, rtol=0.1)
        assert "mlp.act.p2.5" in more.values
        assert operation(spec.to_dict()) == spec

    def test_what_is_no_percentile_is_refused(self, neurons, stats):
        for name in ("p101", "p", "p-1", "p10.", "percentile"):
            with pytest.raises(ParameterError, match="percentile"):
                operation("set", value=name)
            with pytest.raises(ParameterError, match="percentile"):
                neurons.with_values(stats, name)

    def test_values_survive_saving(self, neurons, tmp_path):
        neurons.save_pretrained(tmp_path)
        assert NeuronSet.from_pretrained(tmp_path) == neurons

    def test_statistics_that_lack_it_say_what_to_collect(self, neurons, stats):
        from dataclasses import replace

        poor = replace(stats, arrays={k: v for k, v in stats.arrays.items() if k[0] == "sum"})
        with pytest.raises(ParameterError, match="quantile@mlp.act"):
            neurons.with_values(poor, "p10")
