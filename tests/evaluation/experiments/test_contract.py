"""What every experiment has to do, whoever adds it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from neuronsteer.errors import ParameterError, UnknownNameError
from neuronsteer.evaluation.experiments import EXPERIMENTS, experiment
from neuronsteer.evaluation.experiments.run import evaluate
from neuronsteer.evaluation.readers import KINDS
from neuronsteer.evaluation.reports import Report

from .material import DATA, by_script, subject

NAMES = EXPERIMENTS.names()
SMALL = {"tokens": 6, "before": 2, "after": 6, "window": 3, "steps": 2}


def small(name: str) -> dict[str, object]:
    """Return an experiment in its smallest form."""
    fields = {field.name for field in dataclasses.fields(EXPERIMENTS.get(name))}
    more = {"strengths": (1.0,), "rates": (0.5, 1.0), "operations": ("own",)}
    return {"name": name} | {k: v for k, v in (SMALL | more).items() if k in fields}


@pytest.fixture(scope="module")
def report() -> Report:
    """All experiments, with all controls."""
    model, tokenizer, neurons = subject()
    return evaluate(
        model,
        neurons,
        tokenizer=tokenizer,
        tasks=[small(name) for name in NAMES],
        controls="none,random:2,diffmean",
        data=DATA,
        limit=1,
        identifier=by_script,
        batch_size=32,
    )


def test_all_are_there():
    assert set(NAMES) >= {
        "forcing", "deactivation", "switch", "lss", "perplexity", "fallback", "confusion",
        "side_effects", "sweep", "translation", "clas_bench", "xcopa", "mgsm", "xquad",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str):
    kind = EXPERIMENTS.get(name)
    assert kind.name == name
    assert kind.title and kind.question and kind.definition and kind.primary
    assert set(kind.reads) <= set(KINDS) and kind.reads
    assert (kind.__doc__ or "").strip()


@pytest.mark.parametrize("name", NAMES)
def test_it_measures_what_it_says(name: str, report: Report):
    task = report.task(name)
    kind = EXPERIMENTS.get(name)
    assert task["primary"] in task["treatments"]["neurons"]["values"]
    assert ("none" in task["treatments"]) == kind.unsteered
    assert ("diffmean" in task["treatments"]) == kind.directions
    random = task["treatments"]["random"]
    assert random["seeds"] == min(2, kind.seeds or 2)
    values = [set(entry["values"]) for entry in task["treatments"].values()]
    assert all(each == values[0] for each in values)
    assert all(entry["n"] > 0 for entry in task["treatments"].values())
    for value in task["treatments"]["neurons"]["values"].values():
        bounds = value["interval"]
        assert bounds is None or bounds[0] <= value["value"] <= bounds[1]
    for part in task["treatments"]["neurons"]["blocks"]:
        assert part["kind"] in ("matrix", "scatter", "histogram", "table", "samples")
        if part["kind"] == "matrix":
            assert len(part["values"]) == len(part["rows"])
            assert all(len(row) == len(part["columns"]) for row in part["values"])


def test_it_is_json_all_the_way_down(report: Report):
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert Report.from_dict(json.loads(text)).to_dict() == report.to_dict()


def test_it_can_be_shown(report: Report):
    for shown in (report.to_markdown(), report.to_html()):
        assert all(task["title"] in shown for task in report.tasks)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_parameters_are_told(name: str):
    with pytest.raises(ParameterError, match="items"):
        experiment(name, items=0)
    with pytest.raises(ParameterError, match="no parameter"):
        experiment(name, itmes=3)


def test_an_unknown_experiment_is_told():
    with pytest.raises(UnknownNameError, match="Did you mean 'forcing'"):
        experiment("forcings")
    with pytest.raises(ParameterError, match="needs a 'name'"):
        experiment({"items": 3})
