"""Culture neurons: LAPE within each family, then plain sets."""

import numpy as np
import pytest

from neuronsteer.detectors import detect
from neuronsteer.errors import LabelError, ParameterError, StatsError
from neuronsteer.stats import Stats

from .material import rows_of

NAMES = ["culture:de", "lang:fa", "lang:de", "culture:zh", "lang:xx", "culture:fa"]


def stats_of(seed, names=NAMES):
    rng = np.random.default_rng(seed)
    counts = {name: (rng.random((3, 30)) ** 2 * 100).astype(int) for name in names}
    return Stats.from_counts(counts, dict.fromkeys(names, 100), model_type="llama")


@pytest.mark.parametrize("seed", range(10))
def test_equals_python_sets_of_two_lapes(seed):
    stats, options = stats_of(seed), {"rate": 0.3, "filter": 0.6, "bar": 0.5}
    neurons = detect(stats, "culture", **options)
    parts = {}
    for family in ("lang:", "culture:"):
        names = [name for name in NAMES if name.startswith(family)]
        found = detect(stats.only(*names), "lape", **options)
        for name in names:
            parts[name] = {row[1:] for row in rows_of(found.rows(name))}
    assert sorted(neurons.labels) == sorted(
        f"{pair}:{part}" for pair in ("de", "fa") for part in ("L&C", "C-L", "L-C")
    )
    for pair in ("de", "fa"):
        language, culture = parts[f"lang:{pair}"], parts[f"culture:{pair}"]
        for name, expected in (
            ("L&C", language & culture),
            ("C-L", culture - language),
            ("L-C", language - culture),
        ):
            assert {row[1:] for row in rows_of(neurons.rows(f"{pair}:{name}"))} == expected
    assert neurons.method["name"] == "culture"
    assert neurons.method["parameters"]["rate"] == 0.3
    assert set(neurons.calibration) == set(neurons.labels)
    assert neurons.orphans == sum(neurons.method["results"]["orphans"].values())


def test_values_of_common_neurons_are_those_of_the_culture():
    stats = stats_of(0)
    neurons = detect(stats, "culture", rate=0.5, filter=0.3, bar=0.3)
    rows = neurons.rows("de:L&C")
    p = stats.probabilities()[NAMES.index("culture:de")]
    assert len(rows) and np.allclose(rows.values["mlp.act.prob"], p[rows.layer, rows.index])


def test_mistakes():
    with pytest.raises(ParameterError, match="not neurons"):
        detect(stats_of(0), "culture", site="resid")
    with pytest.raises(ParameterError, match="no label can share"):
        detect(stats_of(0), "culture", languages="c", cultures="culture:")
    with pytest.raises(ParameterError, match="rate"):
        detect(stats_of(0), "culture", rate=0.0)
    with pytest.raises(StatsError, match="lang:"):
        detect(stats_of(0, ["culture:a", "culture:b"]), "culture")
    with pytest.raises(LabelError, match="same name"):
        detect(stats_of(0, ["culture:a", "culture:b", "lang:c", "lang:d"]), "culture")
