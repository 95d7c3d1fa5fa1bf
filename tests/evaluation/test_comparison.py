"""Methods side by side: the numbers are those of plain Python sets."""

import json
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from neuronsteer.detectors import detect
from neuronsteer.errors import ParameterError, StatsError, UnknownNameError
from neuronsteer.evaluation.comparison import compare
from neuronsteer.neuron_set import NeuronSet

from ..detectors.material import rows_of, valued


@pytest.fixture(scope="module")
def stats():
    return valued(np.random.default_rng(0), labels=3, layers=3, width=40, tokens=30)


def test_overlap_is_that_of_plain_sets(stats):
    found = compare(stats, ["lape", "effect", {"name": "lape", "bar": 0.5}], rate=0.2)
    assert found.names == ("lape", "effect", "lape 2")
    for left, right in (("lape", "effect"), ("lape", "lape 2"), ("effect", "effect")):
        for k, label in enumerate(stats.labels):
            mine, theirs = (
                {row[1:] for row in rows_of(found.sets[name]) if row[0] == k}
                for name in (left, right)
            )
            expected = len(mine & theirs) / len(mine | theirs)
            assert found.overlap(left, right)[label] == pytest.approx(expected)
            layers = found.overlap_by_layer(left, right)[label]
            for layer in range(3):
                a, b = ({n for n in part if n[0] == layer} for part in (mine, theirs))
                assert layers[layer] == (len(a & b) / len(a | b) if a | b else None)
    assert found.sets["effect"].method["parameters"]["rate"] == 0.2


def test_chance_is_what_random_sets_have(stats):
    neurons = detect(stats, "effect", rate=0.3)
    drawn = [
        compare(stats, [neurons, neurons.random_like(seed).replace(method={"name": "random"})])
        for seed in range(30)
    ]
    # A random set avoids the original, so two random ones are compared.
    pairs = [compare(stats, [a.sets["random"], b.sets["random"]]) for a, b in pairwise(drawn)]
    mean = np.mean([p.overlap("random", "random 2")["l0"] for p in pairs])
    assert pairs[0].chance("random", "random 2")["l0"] == pytest.approx(mean, abs=0.1)


def test_other_sites_and_labels_have_no_overlap(stats):
    neurons = detect(stats, "effect", rate=0.1)
    elsewhere = NeuronSet.from_rows(
        ["l0"], [0], [0], [3], site="resid", num_layers=3, width=16, method={"name": "x"}
    )
    found = compare(stats, [neurons, elsewhere])
    assert found.overlap("effect", "x") == {"l0": None, "l1": None, "l2": None}
    fewer = compare(stats, [neurons, neurons.only("l1")])
    assert fewer.overlap("effect", "effect 2") == {"l0": None, "l1": 1.0, "l2": None}
    empty = neurons.take(neurons.score < 0, neurons.labels)
    assert set(compare(stats, [empty, empty]).overlap("effect", "effect 2").values()) == {None}


def test_table_and_dictionary(stats):
    found = compare(stats, rate=0.1)
    facts = json.loads(json.dumps(found.to_dict()))
    assert set(facts["methods"]) == {"lape", "effect"}
    assert facts["methods"]["effect"]["counts"] == {"l0": 12, "l1": 12, "l2": 12}
    assert facts["overlap"][0]["left"] == "lape" and len(facts["overlap"]) == 1
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found.table())
    text = console.export_text()
    assert "lape & effect" in text and "12" in text
    assert repr(found).startswith("Comparison(lape ")


def test_plots_show_every_method_and_label(stats):
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    found = compare(stats, ["lape", "effect", "ternary"], rate=0.1)

    def said(what):
        figure = found.plot(what)
        figure.canvas.draw()
        return figure, {t.get_text() for t in figure.findobj(Text)}

    figure, words = said("overlap")
    assert {"lape & effect", "effect & ternary", *stats.labels} <= words
    image = figure.axes[0].images[0].get_array()
    expected = [found.overlap("lape", "effect")[label] for label in found.labels]
    assert image[0].filled(np.nan).tolist() == pytest.approx(
        [np.nan if v is None else v for v in expected], nan_ok=True
    )
    figure, words = said("layers")
    assert {"lape", "effect", "ternary"} <= words
    line = figure.axes[0].lines[1].get_ydata()
    profile = found.sets["effect"].layer_profile().sum(0)
    assert line == pytest.approx((profile / profile.sum()).numpy())
    for what in ("sharing", "counts"):
        assert {"lape", "effect", "ternary"} <= said(what)[1]
    with pytest.raises(ParameterError, match="'overlaps'.*Did you mean 'overlap'"):
        found.plot("overlaps")
    with pytest.raises(ParameterError, match="one method"):
        compare(stats, ["lape"]).plot()


def test_mistakes(stats):
    with pytest.raises(ParameterError, match="Nothing to compare"):
        compare(stats, [])
    with pytest.raises(ParameterError, match="'rat'.*'rate'"):
        compare(stats, rat=0.1)
    with pytest.raises(ParameterError, match="needs a 'name'"):
        compare(stats, [{"rate": 0.1}])
    with pytest.raises(StatsError, match="responses"):
        compare(stats, ["average_precision"])
    with pytest.raises(UnknownNameError, match="lape"):
        compare(stats).overlap("lap", "effect")
    other = valued(np.random.default_rng(0), labels=3, layers=3, width=41)
    with pytest.raises(ParameterError, match="different shape"):
        compare(stats, ["effect", detect(other, "effect")]).overlap("effect", "effect 2")
