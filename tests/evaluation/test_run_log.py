"""Numbers of sweeps and of tuning go to a tracker while they are measured."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import pytest

import neuronsteer as ns
from neuronsteer.errors import MissingExtraError, ParameterError
from neuronsteer.evaluation.run_log import TRACKERS, check_log, logged_run

from .experiments.material import DATA, by_script, subject


class Tracker(types.ModuleType):
    """A stand-in with the calls of wandb and trackio, which speaks on stdout as they do."""

    def __init__(self, name: str):
        super().__init__(name)
        self.begun: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.ended = 0

    def init(self, **given: Any) -> Tracker:
        print("welcome")
        self.begun.append(given)
        return self

    def log(self, numbers: dict[str, Any]) -> None:
        self.lines.append(numbers)

    def finish(self) -> None:
        print("good bye")
        self.ended += 1


@pytest.fixture(params=TRACKERS)
def tracker(request: Any, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    stand_in = Tracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, stand_in)
    return stand_in


def test_a_run_begins_and_ends_and_stdout_stays_free(
    tracker: Tracker, capsys: pytest.CaptureFixture[str]
):
    with logged_run(tracker.__name__, "tune", {"seed": 3}) as tell:
        tell({"label": "fr", "success": 0.5, "natural": None})
        tell({"natural": None})
        assert not tracker.ended
    assert tracker.begun == [{"project": "neuronsteer", "config": {"job": "tune", "seed": 3}}]
    # What was not measured is left out.
    assert tracker.lines == [{"tune/label": "fr", "tune/success": 0.5}]
    assert tracker.ended == 1
    said = capsys.readouterr()
    assert said.out == "" and "welcome" in said.err and "good bye" in said.err


def test_a_run_ends_with_an_exception(tracker: Tracker):
    with pytest.raises(KeyboardInterrupt), logged_run(tracker.__name__, "tune", {}):
        raise KeyboardInterrupt
    assert tracker.ended == 1


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_one_error(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'neuronsteer\[{name}\]'"):
        check_log(name)


@pytest.mark.parametrize(
    ("wrong", "said"), [("wandbb", "Did you mean 'wandb'"), (3, "log is of type int")]
)
def test_what_is_no_tracker_is_refused_before_any_work(wrong: Any, said: str):
    with pytest.raises(ParameterError, match=said):
        ns.evaluate(None, "no set", tokenizer=None, log=wrong)
    with pytest.raises(ParameterError, match=said):
        ns.tune(None, None, "no set", [], log=wrong)


def test_a_sweep_is_told_setting_by_setting_and_the_results_in_the_end():
    model, tokenizer, neurons = subject()
    # A run of the caller's own, which the caller ends.
    run = Tracker("own")
    sweep = {"name": "sweep", "operations": ("own",), "strengths": (0.5, 1.0), "rates": (1.0,)}
    report = ns.evaluate(
        model,
        neurons,
        tokenizer=tokenizer,
        tasks=[sweep | {"tokens": 6}],
        controls="random:1",
        data=DATA,
        limit=1,
        identifier=by_script,
        log=run,
    )
    assert not run.begun and not run.ended
    *settings, results = run.lines
    told = [(each["evaluate/treatment"], each["evaluate/sweep/strength"]) for each in settings]
    assert told == [(name, s) for name in ("neurons", "random:0") for s in (0.5, 1.0)]
    assert all(0 <= each["evaluate/sweep/success"] <= 1 for each in settings)
    best = max(
        each["evaluate/sweep/success"] * each["evaluate/sweep/fluency"]
        for each in settings
        if each["evaluate/treatment"] == "neurons"
    )
    assert results["evaluate/sweep/neurons/best"] == pytest.approx(best)
    assert results["evaluate/sweep/neurons/best"] == report.value("sweep")
    assert json.loads(json.dumps(run.lines)) == run.lines
