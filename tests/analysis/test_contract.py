"""What every analysis promises, over the registry: a new file is tested without a new test."""

import dataclasses
import json
import re

import pytest

from neuronsteer import analysis, plots
from neuronsteer.analysis import ANALYSES, INPUTS, Analysis, Result, analyze
from neuronsteer.errors import (
    ArtifactError,
    MissingExtraError,
    NeuronSteerError,
    ParameterError,
    UnknownNameError,
)

from ..tiny_models import tiny_model, tiny_tokenizer
from .material import LANGUAGES, corpora, random_counts, random_set

NAMES = ANALYSES.names()
# Parameters that keep a run on tiny material short.
SHORT = {
    "overlap": {"permutations": 50},
    "divisions": {"rate": 0.3},
    "compare": {},
    "stability": {"rate": 0.2, "seeds": 3},
    "split_half": {"rate": 0.2, "seeds": 2, "pieces": 4, "limit": 8},
    "identification": {"identifier": None, "limit": 8},
}


@pytest.fixture(scope="module")
def material():
    return {
        "neurons": random_set(0, LANGUAGES, layers=4, width=80),
        "other": random_set(1, LANGUAGES, layers=4, width=80),
        "stats": random_counts(),
        "parts": [random_counts(seed) for seed in range(4)],
        "model": tiny_model(layers=4),
        "tokenizer": tiny_tokenizer(),
        "texts": corpora(8),
    }


@pytest.fixture(scope="module")
def results(material):
    kept = {}

    def run(name):
        if name not in kept:
            given = {need: material[need] for need in ANALYSES.get(name).needs}
            kept[name] = analyze(name, **given, **SHORT.get(name, {}))
        return kept[name]

    return run


def test_everything_that_was_asked_for_is_there():
    assert set(NAMES) >= {
        "layers", "overlap", "sharing", "stability", "split_half", "logit_lens", "language_ratio",
        "divisions", "identification", "compare",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
class TestEveryAnalysis:
    def test_is_a_frozen_dataclass_that_explains_itself(self, name):
        kind = ANALYSES.get(name)
        assert issubclass(kind, Analysis) and kind.name == name
        assert kind.title and kind.question.endswith("?") and set(kind.needs) <= set(INPUTS)
        documented = set(re.findall(r"^        (\w+): ", kind.__doc__ or "", re.MULTILINE))
        fields = {field.name for field in dataclasses.fields(kind)}
        assert fields <= documented, fields - documented
        assert not fields & set(INPUTS)
        for field in fields:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(kind(), field, None)

    def test_returns_flat_records_with_the_same_columns(self, name, results):
        found = results(name)
        assert isinstance(found, Result) and found.analysis == name and found.records()
        columns = list(found.records()[0])
        for record in found.records():
            assert list(record) == columns
            assert all(v is None or isinstance(v, str | int | float) for v in record.values())
        assert found.column(columns[0]) == [record[columns[0]] for record in found.records()]
        # What is written about the result names its columns.
        text = ANALYSES.get(name).__doc__ or ""
        assert "Records" in text or "see `Stability`" in text

    def test_json_holds_everything_that_the_plot_needs(self, name, results):
        found = results(name)
        text = found.to_json()
        again = Result.from_json(text)
        assert again.to_json() == text
        assert json.loads(text)["records"] == json.loads(json.dumps(found.records()))
        assert plots.png(again.plot()) == plots.png(found.plot())
        assert "/" not in json.dumps(found.settings["sources"]).replace("org/base", "")

    def test_plot_has_a_title_and_the_files_are_written(self, name, results, tmp_path):
        found = results(name)
        figure = found.plot()
        title = figure.get_suptitle().replace("\n", " ")
        assert title.startswith(found.title)
        files = found.save(tmp_path / "a")
        assert [file.name for file in files] == [f"{name}.json", f"{name}.png", f"{name}.svg"]
        assert all(file.stat().st_size > 100 for file in files)
        assert Result.from_json(files[0].read_text("utf-8")) == Result.from_json(found.to_json())

    def test_is_the_same_every_time(self, name, results, material):
        given = [material[need] for need in ANALYSES.get(name).needs]
        again = analyze(name, *given, **SHORT.get(name, {}))
        assert again.to_json() == results(name).to_json()
        assert repr(again).startswith(f"Result({name}: ")

    def test_table_is_printed(self, name, results):
        from rich.console import Console

        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(results(name).table())
        said = console.export_text()
        for column in results(name).records()[0]:
            assert column in said

    def test_says_what_it_lacks(self, name, material):
        needs = ANALYSES.get(name).needs
        with pytest.raises(ParameterError, match=needs[0]):
            analyze(name)
        with pytest.raises(ParameterError, match="no parameter 'nonsense'"):
            analyze(name, *(material[need] for need in needs), nonsense=1)
        with pytest.raises(ParameterError, match="got 9 inputs"):
            analyze(name, *range(9))


def test_mistakes_are_named(material, monkeypatch):
    with pytest.raises(UnknownNameError, match="'layer'.*Did you mean 'layers'"):
        analyze("layer", material["neurons"])
    with pytest.raises(ParameterError, match="twice"):
        analyze("layers", material["neurons"], neurons=material["neurons"])
    with pytest.raises(ParameterError, match="not stats"):
        analyze("layers", material["neurons"], stats=material["stats"])
    with pytest.raises(ArtifactError, match="'analysis' is missing"):
        Result.from_json("{}")
    with pytest.raises(ArtifactError, match="not the JSON"):
        Result.from_json("nonsense")
    found = analyze("layers", material["neurons"])
    with pytest.raises(ArtifactError, match="no column 'layr'.*Did you mean 'layer'"):
        found.column("layr")
    with pytest.raises(ArtifactError, match="format 99"):
        Result.from_json(found.to_json().replace('"format_version": 1', '"format_version": 99'))


def test_an_analysis_can_be_an_object_with_parameters(material):
    chosen = analysis.analysis("overlap", permutations=7)
    found = analyze(chosen, material["neurons"], seed=3)
    assert found.settings["parameters"] == {"permutations": 7, "seed": 3}
    assert found.settings["sources"][0]["fingerprint"] == material["neurons"].fingerprint


def test_other_packages_add_analyses_through_entry_points(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "neuronsteer.registry.entry_points", lambda group: asked.append(group) or []
    )
    monkeypatch.setattr(ANALYSES, "_scanned", False)
    assert ANALYSES.names() == NAMES and asked == ["neuronsteer.analyses"]


def test_records_go_into_a_data_frame(material):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(analyze("layers", material["neurons"]).records())
    assert frame.groupby("label").neurons.sum().to_dict() == material["neurons"].counts


def test_without_matplotlib_the_json_is_written_and_the_extra_named(
    material, tmp_path, monkeypatch
):
    found = analyze("layers", material["neurons"])
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"\[plots\]") as caught:
        found.save(tmp_path)
    assert isinstance(caught.value, NeuronSteerError)
    assert [file.name for file in tmp_path.iterdir()] == ["layers.json"]
    assert found.save(tmp_path, plot=False) == [tmp_path / "layers.json"]
