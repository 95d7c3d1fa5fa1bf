"""Evaluate, report, push-metrics: what a shell sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from neuronsteer.evaluation.experiments import _judge
from neuronsteer.evaluation.metrics import METRICS
from neuronsteer.evaluation.metrics.evaluate_library import files
from neuronsteer.neuron_set import NeuronSet

pytest_plugins = ("tests.hub_server.fixtures",)

QUICK = ("--tasks", "lss,perplexity", "--controls", "random:2", "--limit", "1", "-q")


@pytest.fixture(scope="module")
def reports(disk, tmp_path_factory) -> Path:
    """Two reports of the same set on disk."""
    from neuronsteer.cli.models import load_model
    from neuronsteer.evaluation.experiments.run import evaluate

    root = tmp_path_factory.mktemp("reports")
    model, tokenizer = load_model(disk.model)
    for name, controls in (("a", "random:2"), ("b", "")):
        evaluate(
            model, disk.set, tokenizer=tokenizer, tasks="lss", controls=controls, limit=1,
            out=root / name,
        )  # fmt: skip
    return root


def test_evaluate_writes_a_report(disk, call, tmp_path):
    out = tmp_path / "report"
    done = call("evaluate", disk.model, disk.set, "-o", str(out), *QUICK)
    assert done.code == 0, done.err
    assert done.out == done.err == ""
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "report.html"}
    again = call("evaluate", disk.model, disk.set, "-o", str(out), *QUICK, "--json", "--overwrite")
    assert [task["name"] for task in json.loads(again.out)["tasks"]] == ["lss", "perplexity"]


def test_evaluate_asks_a_judge(disk, call, tmp_path, monkeypatch):
    from neuronsteer.cli import models

    load = models.load_model

    def with_template(name, **options):
        model, tokenizer = load(name, **options)
        if options["revision"] is None:  # the judge is of another repository
            tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        return model, tokenizer

    monkeypatch.setattr(models, "load_model", with_template)
    monkeypatch.setattr(_judge, "_TOKENS", 4)
    out = tmp_path / "report"
    pytest.importorskip("lingua", reason="the language identifier is not installed")
    done = call(
        "evaluate", disk.model, disk.set, "-o", str(out), "--controls", "", "--limit", "1", "-q",
        "--labels", "en,fr", "--languages", "en,fr", "--revision", "main",
        "--task", '{"name": "clas_bench", "tokens": 4}', "--judge", disk.model,
    )  # fmt: skip
    assert done.code == 0, done.err
    made = json.loads((out / "report.json").read_text("utf-8"))["tasks"][0]
    assert made["name"] == "clas_bench" and made["parameters"]["judge"]
    assert set(made["treatments"]) == {"neurons", "prompted", "prompted_natively"}


def test_evaluate_shows_the_headlines(disk, call, tmp_path):
    texts = Path(disk.texts)
    done = call(
        "evaluate", disk.model, disk.set, "-o", str(tmp_path / "r"), "--controls", "",
        "--task", '{"name": "perplexity", "items": 1}', "--data", f"texts={texts}",
        "--labels", "en,fr",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Perplexity matrix" in done.out
    assert "no controls" in done.err and "report.html" in done.err
    made = json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))
    assert made["data"]["texts"]["source"] == texts.name
    assert list(made["data"]["texts"]["items"]) == ["en", "fr"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--tasks forcin", "Did you mean 'forcing'"),
        ("--controls randon", "Did you mean 'random'"),
        ("--tasks xcopa", "--data xcopa=FOLDER"),
        ("--data nonsense", "no folder"),
        ("--data a=b --data a=c", "twice"),
        ("--data texts= --tasks lss", "KIND=SOURCE"),
        ("--task [1]", "expected an object"),
        ("--tasks lss --controls diffmean", "--stats"),
        ("--labels xx --tasks lss", "Unknown label"),
        ("--tasks lss --judge demo", "add --tasks clas_bench"),
        ("--tasks lss --identifier nobody --tasks forcing", "No language identifier"),
    ],
)
def test_mistakes_are_one_message(disk, call, tmp_path, line, said):
    done = call("evaluate", disk.model, disk.set, "-o", str(tmp_path / "r"), "-q", *line.split())
    assert done.code == 2 and done.out == ""
    assert said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "r").exists()


def test_an_interruption_tells_how_to_go_on(disk, call, tmp_path, monkeypatch):
    from neuronsteer.evaluation.experiments.lss import Shift

    def stop(*_):
        raise KeyboardInterrupt

    arguments = ("evaluate", disk.model, disk.set, "-o", str(tmp_path / "r"), *QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(Shift, "run", stop)
        done = call(*arguments)
    assert done.code == 130 and "--resume" in done.err
    assert call(*arguments, "--resume").code == 0


def test_report_shows_one_or_compares_two(reports, call):
    one = call("report", str(reports / "a"))
    assert one.code == 0 and "Language Steering Shift" in one.out and "random neurons" in one.out
    two = call("report", str(reports / "a"), str(reports / "b"))
    assert "B has no controls" in re.sub(r"\*", "", two.out) and "intervals apart" in two.out
    rows = json.loads(call("report", str(reports / "a"), str(reports / "b"), "--json").out)["rows"]
    assert rows[0]["task"] == "lss" and rows[0]["difference"] == 0
    assert call("report", str(reports / "a"), "--card").out.startswith("## Evaluation")


def test_report_goes_into_a_set(reports, disk, call, tmp_path):
    folder = tmp_path / "set"
    NeuronSet.from_pretrained(disk.set).save_pretrained(folder)
    done = call("report", str(reports / "a"), "--attach", str(folder))
    assert done.code == 0 and "Wrote the results" in done.err
    found = NeuronSet.from_pretrained(folder)
    assert found.fingerprint == NeuronSet.from_pretrained(disk.set).fingerprint
    assert found.evaluation["results"][0]["task"] == "lss"
    assert "model-index" in (folder / "README.md").read_text("utf-8")
    found.top(1).save_pretrained(folder)
    other = call("report", str(reports / "a"), "--attach", str(folder))
    assert other.code == 2 and "another set" in other.err


@pytest.mark.parametrize(
    ("line", "said"),
    [("nowhere", "no report"), ("@a @b --card", "take one report"), ("@a --attach no", "local")],
)
def test_reports_that_cannot_be_shown(reports, call, line, said):
    done = call("report", *line.replace("@", f"{reports}/").split())
    assert done.code == 2 and said in done.err


# push-metrics


def test_metrics_become_spaces(hub, call):
    done = call("push-metrics", "ann", "-q")
    assert done.code == 0, done.err
    assert len(done.out.split()) == len(METRICS.names())
    for name in METRICS:
        repo = hub.repo(f"ann/{name}", "space")
        there = repo.files("main")
        assert set(files(name)) <= set(there)
        assert repo.space["sdk"] == "static"
    again = call("push-metrics", "ann", "--metric", "lss", "--json")
    assert json.loads(again.out) == {"lss": f"{hub.url}/spaces/ann/lss"}


def test_metrics_may_be_named_and_private(hub, call):
    done = call("push-metrics", "ann", "--metric", "lss", "--prefix", "my-", "--private")
    assert done.out.strip() == f"{hub.url}/spaces/ann/my-lss"
    assert 'evaluate.load("ann/my-lss")' in done.err
    assert hub.repo("ann/my-lss", "space").private


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ann --metric lsss", "Did you mean 'lss'"),
        ("bob --metric lss", "permission|rights"),
        ("ann --metric lss --prefix taken-", "something else.*Nothing was changed"),
    ],
)
def test_metrics_that_cannot_be_pushed(hub, call, line, said):
    hub.add_token("bob")
    hub.server.make_repo("ann/taken-lss", {"app.py": b"print()"}, type="space")
    done = call("push-metrics", *line.split())
    assert done.code == 2 and re.search(said, done.err, re.DOTALL), done.err
    assert hub.token not in done.err
