"""Runs: resuming, controls, seeds, and what is refused before the model is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import NeuronSteerError, ParameterError, StatsError, TextError
from neuronsteer.evaluation.experiments._pooling import spread
from neuronsteer.evaluation.experiments.forcing import Forcing
from neuronsteer.evaluation.reports import Report

from .material import DATA, LABELS, TEXTS, by_script, subject

FORCING = {"name": "forcing", "tokens": 6}
LSS = {"name": "lss"}


def run(**options):
    model, tokenizer, neurons = subject()
    options = {"tasks": [FORCING, LSS], "controls": "none,random:2", "limit": 1} | options
    return ns.evaluate(
        model, neurons, tokenizer=tokenizer, **({"data": DATA, "identifier": by_script} | options)
    )


def numbers(report: Report):
    """Return everything but when and how long."""
    found = report.to_dict()
    for task in found["tasks"]:
        task.pop("seconds")
    return {k: v for k, v in found.items() if k not in ("created", "seconds")}


@pytest.fixture(scope="module")
def whole() -> Report:
    return run()


def test_the_same_run_gives_the_same_report(whole):
    assert numbers(run()) == numbers(whole)


def test_another_seed_draws_other_texts(whole):
    def texts(report):
        return [
            p for p in report.task("forcing")["treatments"]["neurons"]["blocks"] if "items" in p
        ]

    assert texts(run(seed=1)) != texts(whole)


def test_a_task_does_not_depend_on_the_others(whole):
    alone = run(tasks=[LSS], controls="random:2")
    assert alone.task("lss")["treatments"] == whole.task("lss")["treatments"]


def test_an_interrupted_run_goes_on_where_it_was(whole, tmp_path: Path, monkeypatch):
    out = tmp_path / "report"
    measured: list[tuple[str, ...]] = []
    original = Forcing.run
    stop_at = 5

    def counted(self, tested, case):
        measured.append((tested.treatment.name, *case))
        if stop_at == len(measured):
            raise KeyboardInterrupt
        return original(self, tested, case)

    monkeypatch.setattr(Forcing, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        run(out=out)
    assert not out.exists()
    kept = list((tmp_path / "report.partial").glob("*/*.json"))
    assert len(kept) >= 4
    cut_off = measured.pop()
    before = list(measured)
    stop_at = -1
    report = run(out=out, resume=True)
    # Each case once, the one that was cut off again.
    assert len(measured) == len(set(measured)) and set(before) < set(measured)
    assert cut_off in measured
    assert numbers(report) == numbers(whole)
    assert not (tmp_path / "report.partial").exists()
    assert numbers(Report.load(out)) == numbers(whole)


def test_the_model_is_left_as_it_was():
    model, tokenizer, neurons = subject()
    ids = torch.tensor([tokenizer("the cat").input_ids])
    before = model(ids).logits
    state = torch.random.get_rng_state()
    ns.evaluate(
        model, neurons, tokenizer=tokenizer, tasks=[FORCING], data=DATA, limit=1,
        identifier=by_script, controls="random:1",
    )  # fmt: skip
    assert torch.equal(model(ids).logits, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 7}, "settings"), ({"controls": "none"}, "controls"), ({"labels": ["en", "ru"]}, "")],
)
def test_another_run_is_not_resumed(tmp_path, monkeypatch, change, said):
    out = tmp_path / "report"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Forcing, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        run(out=out)
    with pytest.raises(ParameterError, match=f"cannot be resumed: its {said}"):
        run(out=out, resume=True, **change)


def test_without_resume_it_starts_over(tmp_path, whole):
    out = tmp_path / "report"
    (tmp_path / "report.partial" / "forcing").mkdir(parents=True)
    (tmp_path / "report.partial" / "plan.json").write_text("{}")
    (tmp_path / "report.partial" / "forcing" / "x.json").write_text("{}")
    assert numbers(run(out=out)) == numbers(whole)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    mine = tmp_path / "report"
    mine.mkdir()
    (mine / "letter.txt").write_text("mine")
    with pytest.raises(ParameterError, match="something else"):
        run(out=mine)
    other = tmp_path / "other.partial"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(ParameterError, match="something else"):
        run(out=tmp_path / "other")
    assert (mine / "letter.txt").read_text() == (other / "letter.txt").read_text() == "mine"


def test_a_report_without_controls_says_so():
    report = run(controls="", tasks=[LSS])
    assert report.controls == ()
    assert "No controls" in report.to_markdown().split("##")[0]
    assert "No controls" in report.to_html().split("<nav>")[0]
    assert "NO CONTROLS" in repr(report)
    with_them = run(controls="random:1", tasks=[LSS])
    assert "No controls" not in with_them.to_markdown() + with_them.to_html()


def test_random_sets_are_pooled(whole):
    random = whole.task("lss")["treatments"]["random"]
    seeds = [run(tasks=[LSS], controls=c).value("lss", treatment="random") for c in ("random:1",)]
    found = random["values"]["lss"]
    assert random["seeds"] == found["seeds"] == 2
    assert found["low"] <= seeds[0] <= found["high"]
    assert found["value"] == pytest.approx((found["low"] + found["high"]) / 2)


def test_the_spread_of_seeds_is_students():
    from scipy import stats

    values = [0.1, 0.4, 0.2, 0.5, 0.3]
    found = spread(values)
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=sum(values) / 5, scale=stats.sem(values)
    )
    assert found["interval"] == pytest.approx([low, high], rel=1e-2)
    assert spread([0.5])["interval"] is None


def test_diffmean_takes_statistics_or_texts():
    model, tokenizer, _ = subject()
    stats = ns.collect(
        model, tokenizer, TEXTS, needs=ns.detectors.detector("diffmean").needs, progress=False
    )
    for options in ({"stats": stats}, {}):
        report = run(tasks=[LSS], controls="diffmean", **options)
        assert report.value("lss", treatment="diffmean") is not None
    with pytest.raises(StatsError, match="--stats"):
        run(tasks=[LSS], controls="diffmean", data={"facts": DATA["facts"]})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"controls": "randon:3"}, "Did you mean 'random'"),
        ({"controls": "random:0"}, "not a number of seeds"),
        ({"controls": "random:2,random:3"}, "given twice"),
        ({"controls": "diffmean:x"}, "not a factor"),
        ({"tasks": "lss,lss"}, "given twice"),
        ({"tasks": []}, "no task"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"languages": "some"}, "expected 'auto', 'all'"),
        ({"data": {"text": TEXTS}}, "Did you mean 'texts'"),
        ({"data": "/nowhere"}, "no folder"),
    ],
)
def test_mistakes_are_told(options, said):
    with pytest.raises(NeuronSteerError, match=said):
        run(**options)


def test_a_task_without_data_is_told():
    with pytest.raises(TextError, match="--data xcopa=FOLDER"):
        run(tasks="xcopa", data=None)


def test_labels_that_are_no_languages_are_not_identified():
    model, tokenizer, neurons = subject()
    other = neurons.relabel({label: f"culture-{label}" for label in LABELS})
    data = {"texts": {f"culture-{k}": v for k, v in TEXTS.items()}}
    report = ns.evaluate(
        model, other, tokenizer=tokenizer, data=data, controls="random:1", limit=1,
        languages=other.labels,
    )  # fmt: skip
    assert "forcing" not in report.names and "perplexity" in report.names
    assert "forcing" in report.notes[0] and "no language can be identified" in report.notes[0]
    with pytest.raises(ParameterError, match="identifier"):
        ns.evaluate(
            model, other, tokenizer=tokenizer, data=data, tasks="forcing", languages=other.labels
        )


def test_everything_a_number_depends_on_is_recorded(whole):
    model, _, neurons = subject()
    assert whole.subject["set"]["fingerprint"] == neurons.fingerprint
    assert whole.subject["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert {"torch", "transformers", "python"} <= set(whole.environment)
    assert whole.settings["seed"] == 0 and whole.settings["identifier"] == "by_script"
    assert set(whole.data) == {"prompts", "facts"}
    assert all(len(found["sha256"]) == 64 for found in whole.data.values())
    changed = {**DATA, "prompts": {k: v[::-1] for k, v in DATA["prompts"].items()}}
    other = run(tasks=[FORCING], controls="", data=changed)
    assert other.data["prompts"]["sha256"] != whole.data["prompts"]["sha256"]


def test_progress_counts_every_case():
    seen: list[tuple[int, int]] = []
    run(progress=lambda _what, done, total: seen.append((done, total)))
    total = seen[0][1]
    assert [done for done, _ in seen] == list(range(1, total + 1))


def test_cases_on_disk_are_json_with_their_key(tmp_path, monkeypatch):
    out = tmp_path / "report"
    monkeypatch.setattr(Report, "save", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        run(out=out, tasks=[LSS], controls="")
    # The report could not be written: what was measured is still there.
    cases = [json.loads(p.read_text()) for p in (tmp_path / "report.partial").glob("lss/*.json")]
    assert sorted(case["case"][0] for case in cases) == sorted(LABELS)
    monkeypatch.undo()
    assert run(out=out, tasks=[LSS], controls="", resume=True).value("lss") is not None
