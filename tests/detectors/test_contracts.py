"""What every detector promises, also those that are added later: nothing here names one."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from neuronsteer.detectors import DETECTORS, Detector, detect, detector
from neuronsteer.errors import HubError, NeuronSteerError, ParameterError, StatsError
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.stats import REDUCERS, Need, Stats
from neuronsteer.stats.weight_norms import WEIGHT_MEASURES

from .material import folded

LABELS = ("lang:a", "lang:b", "culture:a", "culture:b")
# One per cent of the neurons has to be something.
LAYERS, WIDTH, TOKENS = 2, 400, 40

NAMES = DETECTORS.names()


def stats_for(needs, labels=LABELS, seed=0):
    """Return random statistics that hold exactly these needs, as collecting would leave them."""
    generator = torch.Generator().manual_seed(seed)
    arrays, rows, measured = {}, {}, {}
    shape = (len(labels), LAYERS, WIDTH)
    for need in needs:
        values = torch.randn(*shape, TOKENS, generator=generator, dtype=torch.float64)
        if need.reducer in WEIGHT_MEASURES:
            measured[need] = torch.rand(LAYERS, WIDTH, generator=generator)
        elif need.reducer == "responses":
            rows[need] = {
                name: torch.randn(5 + k, LAYERS, WIDTH, generator=generator)
                for k, name in enumerate(labels)
            }
        elif REDUCERS.get(need.reducer).document_measure:
            documents = torch.randn(len(labels), 5, LAYERS, WIDTH, generator=generator)
            arrays[need] = folded(need.reducer, documents.abs())
        elif need.reducer == "count":
            share = torch.rand(shape, generator=generator) ** 3
            arrays[need] = (share * TOKENS).long()
        elif need.reducer == "texts":
            arrays[need] = torch.randint(0, 6, shape, generator=generator)
        elif need.reducer == "quantile":
            bins = REDUCERS.get("quantile").entry_shape[0]
            arrays[need] = torch.randint(0, 4, (*shape, bins), generator=generator).int()
        else:
            # As many texts as below; the rest are over tokens.
            last = values[..., :5]
            kept = {"sum": values, "sumsq": values**2, "max": values, "last": last}
            arrays[need] = kept[need.reducer].sum(-1)
    return Stats(
        labels=tuple(labels),
        tokens=dict.fromkeys(labels, TOKENS),
        texts=dict.fromkeys(labels, 5),
        site_widths={need.site: (WIDTH,) * LAYERS for need in needs},
        arrays=arrays,
        rows=rows,
        weight_measures=measured,
        header={"model_type": "llama"},
    )


def same(left, right):
    return left.fingerprint == right.fingerprint


@pytest.mark.parametrize("name", NAMES)
class TestEveryDetector:
    def test_is_a_frozen_dataclass_with_its_registered_name(self, name):
        kind = DETECTORS.get(name)
        assert issubclass(kind, Detector) and kind.name == name
        made = kind()
        assert dataclasses.is_dataclass(made)
        assert made.paper and made.granularity and made.cost
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, dataclasses.fields(made)[0].name, None)

    def test_says_what_it_takes_and_which_paper_it_is(self, name):
        text = DETECTORS.get(name).__doc__ or ""
        assert re.search(r"^    Paper: \S", text, re.MULTILINE), "the docstring ends with the paper"
        last = text.rstrip().rpartition("\n\n")[2]
        assert last.lstrip().startswith("Paper:")
        documented = set(re.findall(r"^        (\w+): ", text, re.MULTILINE))
        inherited = "for the rule and the parameters" in text
        fields = {field.name for field in dataclasses.fields(DETECTORS.get(name))}
        assert inherited or fields <= documented, fields - documented
        assert len(text.strip().splitlines()[0]) < 120

    def test_needs_exist(self, name):
        needs = detector(name).needs
        assert needs
        for need in needs:
            assert isinstance(need, Need)
            assert need.reducer in [*REDUCERS.names(), *WEIGHT_MEASURES]

    def test_selects_the_same_rows_every_time_and_within_range(self, name):
        stats = stats_for(detector(name).needs)
        before = {need: array.clone() for need, array in stats.arrays.items()}
        neurons = detect(stats, name)
        assert isinstance(neurons, NeuronSet) and len(neurons)
        assert same(neurons, detect(stats, name))
        assert int(neurons.layer.max()) < LAYERS and int(neurons.index.max()) < WIDTH
        assert int(neurons.label.max()) < len(neurons.labels)
        assert bool(neurons.score.isfinite().all())
        assert neurons.num_layers == LAYERS and neurons.width == WIDTH
        for need, array in before.items():
            assert torch.equal(array, stats.arrays[need]), "statistics are not to be changed"

    def test_does_not_depend_on_the_random_state(self, name):
        stats = stats_for(detector(name).needs)
        torch.manual_seed(1)
        np.random.seed(1)
        first = detect(stats, name)
        torch.manual_seed(2)
        np.random.seed(2)
        assert same(first, detect(stats, name))

    def test_parameters_round_trip_through_the_header(self, name, tmp_path):
        neurons = detect(stats_for(detector(name).needs), name)
        neurons.save_pretrained(tmp_path)
        loaded = NeuronSet.from_pretrained(tmp_path)
        assert loaded.method["name"] == name
        parameters = json.loads(json.dumps(loaded.method["parameters"]))
        assert detector(name, **parameters) == detector(name)
        assert same(loaded, neurons)

    def test_refuses_what_it_cannot_use(self, name):
        empty = Stats.from_counts({"a": [[1]], "b": [[0]]}, {"a": 1, "b": 1}, site="attn.q")
        with pytest.raises(StatsError, match=name):
            detect(empty, name)
        with pytest.raises(ParameterError, match="no parameter 'colour'"):
            detector(name, colour=1)
        for field in dataclasses.fields(DETECTORS.get(name)):
            with pytest.raises(ParameterError, match=field.name):
                detector(name, **{field.name: object()})

    def test_layers_take_every_form(self, name):
        if "layers" not in {field.name for field in dataclasses.fields(DETECTORS.get(name))}:
            pytest.skip("it does not choose layers")
        stats = stats_for(detector(name).needs)
        forms = {
            "1": (1, "1", "1-1", [1], (1,), range(1, 2), -1, "-1", [-1], np.arange(1, 2).tolist())
        }
        forms["0-1"] = (
            "all",
            "0-1",
            "0,1",
            " 0 , 1 ",
            [1, 0],
            range(2),
            (0, -1),
            "-2,-1",
            [0, 1, 1],
        )
        for text, spellings in forms.items():
            found = detect(stats, name, layers=text)
            assert found.layer.unique().tolist() == ([1] if text == "1" else [0, 1])
            for layers in spellings:
                again = detect(stats, name, layers=layers)
                assert again.layer.equal(found.layer) and again.index.equal(found.index)
                saved = json.loads(json.dumps(again.method["parameters"]["layers"]))
                assert detector(name, layers=saved) == detector(name, layers=layers)
        for wrong in ("", "last", "2-1", "0-", "1.5", 1.0, True, [], [1.0], ["1"], {0}, [[0]]):
            with pytest.raises(
                ParameterError, match=r"got layers=.*expected 'all', 'early'.*layers and"
            ):
                detector(name, layers=wrong)
        for missing in (2, "0-2", [0, 7], -3, "1-999999999999"):
            with pytest.raises(
                ParameterError, match=r"got layers=.*the model has 2 layers: 0 to 1"
            ):
                detect(stats, name, layers=missing)

    def test_nothing_to_see_gives_no_rows_or_a_reason(self, name):
        stats = stats_for(detector(name).needs)
        zero = dataclasses.replace(
            stats,
            arrays={need: torch.zeros_like(array) for need, array in stats.arrays.items()},
            rows={
                need: {label: torch.zeros_like(part) for label, part in rows.items()}
                for need, rows in stats.rows.items()
            },
        )
        try:
            neurons = detect(zero, name)
        except NeuronSteerError:
            return
        assert bool(neurons.score.isfinite().all())
        for column in neurons.values.values():
            assert bool(column.isfinite().all())


def test_statistics_may_be_named_by_their_folder(tmp_path, monkeypatch):
    counts = torch.zeros(2, 1, 8, dtype=torch.int64)
    counts[0, 0, :2], counts[1, 0, 2:4] = 9, 8
    labels = {"en": counts[0], "fr": counts[1]}
    stats = Stats.from_counts(labels, {"en": 10, "fr": 10}, model_type="llama")
    stats.save(tmp_path / "stats")
    monkeypatch.chdir(tmp_path)
    expected = detect(stats, "lape", rate=0.5)
    for folder in ("stats", tmp_path / "stats"):
        assert detect(folder, "lape", rate=0.5) == expected
    with pytest.raises(HubError, match="No folder 'stast'.*Did you mean 'stats'"):
        detect("stast")
    with pytest.raises(StatsError, match=r"Cannot detect in 5 \(int\); expected statistics"):
        detect(5)
