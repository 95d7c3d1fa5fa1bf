"""What every metric promises, over the registry: a new file is tested without a new test."""

import dataclasses
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuronsteer.errors import ParameterError, UnknownNameError
from neuronsteer.evaluation.metrics import METRICS, Metric, Score, metric
from neuronsteer.evaluation.metrics.evaluate_library import compute, describe, files

from .texts import BY_LANGUAGE, FRENCH, by_script

TOOL = Path(__file__).resolve().parents[3] / "tools" / "metric_spaces.py"
ISSUE = {
    "language_forcing", "lss", "perplexity_matrix", "lang_spec_f", "translation",
    "choice_accuracy", "exact_match", "language_confusion", "side_effects",
}  # fmt: skip

# Columns of three or four items each, and what the parameters have to be for them.
EXAMPLES = {
    "language_forcing": (
        {"predictions": [*BY_LANGUAGE.values()], "references": [*BY_LANGUAGE]},
        {"languages": (*BY_LANGUAGE,)},
    ),
    "language_confusion": (
        {"predictions": [*BY_LANGUAGE.values()], "references": [*BY_LANGUAGE]},
        {"languages": (*BY_LANGUAGE,)},
    ),
    "lss": ({"predictions": [1.0, -1.0, 2.0], "references": [0.0, 0.0, 0.0]}, {}),
    "perplexity_matrix": (
        {
            "intervened": ["a", "a", "b", "b"],
            "evaluated": ["a", "b", "a", "b"],
            "nll_sum": [30.0, 20.0, 20.0, 30.0],
            "base_nll_sum": [20.0, 20.0, 20.0, 20.0],
            "tokens": [10, 10, 10, 10],
        },
        {},
    ),
    "lang_spec_f": (
        {
            "intervened": ["a", "a", "b", "b"],
            "evaluated": ["a", "b", "a", "b"],
            "predictions": [0.1, 0.4, 0.5, 0.2],
            "references": [0.5, 0.5, 0.5, 0.5],
        },
        {},
    ),
    "relation_accuracy": (
        {
            "intervened": ["a", "a", "b", "b"],
            "evaluated": ["a", "b", "a", "b"],
            "predictions": [0.0, 1.0, 1.0, 0.0],
            "references": [1.0, 1.0, 1.0, 0.0],
        },
        {},
    ),
    "translation": (
        {"predictions": [FRENCH, "Oui."], "references": [[FRENCH], ["Oui.", "Si."]]},
        {"target": "fr", "samples": 50},
    ),
    "choice_accuracy": (
        {"predictions": [[-1.0, -2.0], [-1.0, -2.0, -3.0]], "references": [0, 2]},
        {},
    ),
    "exact_match": (
        {"predictions": ["le pont", "18"], "references": [["pont"], ["19"]]},
        {},
    ),
    "side_effects": (
        {"predictions": [[0.1, 0.2, 3.0]], "references": [[0.1, 0.3, 2.0]]},
        {"k": 2},
    ),
}
ALL = METRICS.names()


def test_all_metrics_of_the_table_are_there():
    assert set(ALL) >= ISSUE
    assert set(EXAMPLES) == set(ALL), "give the new metric an example above"


@pytest.mark.parametrize("name", ALL)
def test_a_metric_says_what_it_is(name):
    kind = METRICS.get(name)
    assert issubclass(kind, Metric) and kind.name == name
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert kind.title and kind.primary and isinstance(kind.higher_is_better, bool)
    doc = inspect.getdoc(kind)
    assert "Traps:" in doc, "say how the number misleads"
    arguments = doc.partition("Args:")[2]
    for field in dataclasses.fields(kind):
        assert f"{field.name}:" in arguments
        assert field.default is not dataclasses.MISSING, "every parameter has a default"
    parameters = [each for each in inspect.signature(kind.compute).parameters if each != "self"]
    assert parameters == [*kind.columns, *kind.optional]
    for each in kind.optional:
        assert inspect.signature(kind.compute).parameters[each].default is None
    if kind(**{}).needs_model:
        assert {"model", "tokenizer"} <= set(inspect.signature(kind.measure).parameters)


@pytest.mark.parametrize("name", ALL)
def test_a_score_is_a_frozen_record_ready_for_json(name):
    columns, parameters = EXAMPLES[name]
    score = metric(name, **parameters).compute(**columns)
    assert isinstance(score, Score)
    assert score.primary in score.values and score.value == score[score.primary]
    assert score.metric == name and score.n > 0
    written = json.dumps(score.to_dict(), allow_nan=False)
    assert json.loads(written) == score.to_dict()
    assert set(METRICS.get(name)(**parameters).parameters()) <= set(score.settings)
    for low, high in score.intervals.values():
        assert low <= high
    with pytest.raises(dataclasses.FrozenInstanceError):
        score.n = 0
    with pytest.raises(ParameterError, match="has no value"):
        score["accurracy"]
    assert metric(name, **parameters).compute(**columns) == score, "the same again"


@pytest.mark.parametrize("name", ALL)
def test_columns_have_one_length_and_some_items(name):
    columns, parameters = EXAMPLES[name]
    chosen = metric(name, **parameters)
    last = list(columns)[-1]
    with pytest.raises(ParameterError, match="differ in length"):
        chosen.compute(**{**columns, last: columns[last][:-1] or [*columns[last], *columns[last]]})
    with pytest.raises(ParameterError, match="no items"):
        chosen.compute(**{each: [] for each in columns})


def test_a_string_is_not_a_list_of_texts():
    with pytest.raises(ParameterError, match="one string as predictions"):
        metric("language_forcing", identifier=by_script).compute(FRENCH, ["fr"])


def test_names_and_parameters_are_checked():
    with pytest.raises(UnknownNameError, match="Did you mean 'lss'"):
        metric("ls")
    with pytest.raises(ParameterError, match="no parameter 'flor'. Did you mean 'floor'"):
        metric("language_forcing", flor=0.5)
    assert metric(metric("lss"), seed=3).seed == 3


def test_what_is_no_number_becomes_none():
    score = Score("x", "a", True, 1, {"a": math.nan, "b": math.inf}, {}, {"c": (math.nan, 1.0)})
    found = score.to_dict()
    assert found["values"] == {"a": None, "b": None}
    assert found["details"] == {"c": [None, 1.0]}


# The `evaluate` library


@pytest.mark.parametrize("name", ALL)
def test_a_folder_explains_the_metric(name):
    readme = files(name)["README.md"]
    assert readme.startswith("---\ntitle: ") and "\n- evaluate\n- metric\n" in readme
    assert "Traps:" in readme and "/work" not in readme
    for field in dataclasses.fields(METRICS.get(name)):
        assert f"- `{field.name}`:" in readme
    assert describe(name)["description"] == inspect.getdoc(METRICS.get(name))


def test_what_evaluate_passes_is_checked():
    with pytest.raises(ParameterError, match="takes no 'targt'. Did you mean 'target'"):
        compute("translation", {"predictions": ["a"], "references": ["b"], "targt": "fr"})


LOADED = """
import json, sys
import evaluate
folder, examples = sys.argv[1], json.loads(sys.argv[2])
found = {
    name: evaluate.load(f"{folder}/{name}").compute(**columns, **parameters)
    for name, (columns, parameters) in examples.items()
}
single = evaluate.load(f"{folder}/exact_match").compute(predictions=["18"], references=["18"])
assert single["exact_match"] == 1.0
extra = evaluate.load(f"{folder}/lss").compute(
    predictions=[1.0, 2.0], references=[0.0, 0.0], base=["en", "fr"], target=["fr", "fr"]
)
assert extra["excluded"] == 1.0
print(json.dumps(found))
"""


@pytest.mark.slow
def test_evaluate_loads_every_metric_offline(tmp_path):
    pytest.importorskip("evaluate")
    # As checkouts of the Spaces would be: outside the package, with an empty cache and no network.
    folder = tmp_path / "spaces"
    subprocess.run([sys.executable, str(TOOL), str(folder)], check=True, timeout=200)
    for name in ALL:
        written = {file.name: file.read_text("utf-8") for file in (folder / name).iterdir()}
        assert written == files(name)
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(folder), json.dumps(EXAMPLES)],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, (columns, parameters) in EXAMPLES.items():
        score = metric(name, **parameters).compute(**columns).to_dict()
        for value, expected in score["values"].items():
            given = found[name][value]
            assert (given is None) == (expected is None), (name, value)
            assert given is None or given == pytest.approx(expected, rel=1e-6), (name, value)
        assert found[name]["n"] == score["n"]
