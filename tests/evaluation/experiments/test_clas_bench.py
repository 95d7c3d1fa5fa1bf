"""CLaS-Bench: the score of averages, the baselines that ask, and what rates relevance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import neuronsteer as ns
from neuronsteer.cli.models import load_model, load_set
from neuronsteer.errors import ParameterError
from neuronsteer.evaluation.experiments import _judge, clas_bench, experiment
from neuronsteer.evaluation.experiments._judge import ratings
from neuronsteer.evaluation.experiments._model_under_test import (
    EvaluationSettings,
    ModelUnderTest,
    Treatment,
)
from neuronsteer.evaluation.experiments.run import _tasks
from neuronsteer.evaluation.metrics.scoring import score_rows
from neuronsteer.evaluation.readers import EvaluationData
from neuronsteer.evaluation.reports import Report

from .material import DATA, LABELS, PROMPTS, by_script, subject

SMALL = {"name": "clas_bench", "tokens": 6}


def run(**options: Any) -> Report:
    model, tokenizer, neurons = subject()
    options = {"tasks": [SMALL], "controls": "none", "limit": 1, "data": DATA} | options
    return ns.evaluate(model, neurons, tokenizer=tokenizer, identifier=by_script, **options)


@pytest.fixture
def tested() -> ModelUnderTest:
    _, _, neurons = subject()
    labels = ["en", "ru"]
    settings = EvaluationSettings(identifier=by_script, candidates=None)
    data = EvaluationData(DATA, labels)
    return ModelUnderTest(None, neurons.only(*labels), None, labels, data, settings)


def said(target: str | None, identified: str | None, relevance: float | None) -> dict[str, Any]:
    return {
        "prompt": "p", "target": target, "text": "t", "identified": identified, "distinct": 0.5,
        "degenerate": False, "relevance": relevance,
    }  # fmt: skip


def test_the_score_is_the_harmonic_mean_of_averages(tested):
    found = {
        ("en",): {"items": [said("en", "en", 1.0), said("ru", "en", 1.0)]},
        ("ru",): {"items": [said("en", "en", 0.5), said("ru", "ru", 0.0)]},
    }
    finding = experiment("clas_bench").score(tested, found)
    assert finding.n == 4
    assert finding.values["forcing"] == 0.75 and finding.values["relevance"] == 0.625
    # The mean of the four pairs' own scores would be (1 + 0 + 2/3 + 0) / 4.
    assert finding.values["steering_score"] == pytest.approx(2 * 0.75 * 0.625 / (0.75 + 0.625))
    # en → ru failed, ru → en did not.
    assert finding.values["score_across_languages"] == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    assert finding.labels["en"]["value"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert finding.labels["ru"]["value"] == 0.5
    low, high = finding.intervals["steering_score"]
    assert low <= finding.values["steering_score"] <= high
    titles = {block["title"]: block for block in finding.blocks}
    assert titles["Forcing"]["values"] == [[1, 0], [1, 1]]
    assert titles["Relevance"]["values"] == [[1, 1], [0.5, 0]]


def test_ratings_that_are_missing_are_left_out_and_counted(tested):
    found = {("en",): {"items": [said("en", "en", None), said("ru", "ru", 0.5)]}}
    finding = experiment("clas_bench").score(tested, found)
    assert finding.values["relevance"] == 0.5 and finding.values["unrated"] == 0.5
    nothing = {("en",): {"items": [said("en", "en", None), said("ru", "ru", None)]}}
    finding = experiment("clas_bench").score(tested, nothing)
    assert finding.values["relevance"] is finding.values["steering_score"] is None
    assert finding.intervals["steering_score"] is None


def test_a_text_without_a_target_counts_for_each(tested):
    finding = experiment("clas_bench").score(tested, {("en",): {"items": [said(None, "en", 1.0)]}})
    assert finding.n == 2 and finding.values["forcing"] == 0.5
    assert finding.values["score_across_languages"] == 0


def test_the_baselines_ask_for_the_language_with_nothing_attached():
    seen: list[str] = []

    def judge(prompts: list[str]) -> list[str]:
        seen.extend(prompts)
        return ["Rating: [[2]]"] * len(prompts)

    report = run(tasks=[SMALL | {"judge": judge}, {"name": "forcing", "tokens": 6}])
    treatments = report.task("clas_bench")["treatments"]
    assert list(treatments) == ["neurons", "none", "prompted", "prompted_natively"]
    # 3 languages × 3 targets, but one text for all targets where nothing steers.
    assert len(seen) == 9 + 3 + 9 + 9
    assert sum("Answer in Russian." in each for each in seen) == 3
    assert sum("Ответь на русском языке." in each for each in seen) == 3
    assert sum("日本語で答えてください。" in each for each in seen) == 3
    assert report.value("clas_bench", "relevance", treatment="prompted") == 1
    # Other experiments know nothing of it.
    assert list(report.task("forcing")["treatments"]) == ["neurons", "none"]
    assert report.task("forcing")["not_applicable"] == []
    assert report.controls == ("none",) and "asked for in English" in report.to_markdown()
    assert 'class="mark prompted_natively"' in report.to_html()


def test_without_controls_the_baselines_are_no_controls():
    report = run(controls="")
    assert "prompted" in report.task("clas_bench")["treatments"]
    assert report.controls == () and "No controls" in report.to_markdown()


def test_questions_are_looked_for_by_the_unsteered_model(tested, monkeypatch):
    model, tokenizer, neurons = subject()
    tested.model, tested.tokenizer = model, tokenizer
    probe = torch.tensor([[5, 6, 7]])
    plain, seen = model(probe).logits, []

    def score(model, rows):
        seen.append(len(rows))
        assert torch.equal(model(probe).logits, plain)
        return score_rows(model, rows)

    monkeypatch.setattr(clas_bench, "score_rows", score)
    task = experiment("clas_bench", tokens=6)
    with tested.under(Treatment("neurons", neurons.only("en", "ru"))):
        found = task.run(tested, ("en",))["items"]
    # Two questions, two targets, and for each text the two questions.
    assert len(found) == 4 and seen == [8]
    assert all(each["relevance"] in (0.0, 1.0) and "ids" not in each for each in found)


def test_a_question_without_others_is_not_rated(tested):
    model, tokenizer, _ = subject()
    alone = EvaluationData({"prompts": {"en": PROMPTS["en"][:1]}}, ["en"])
    lonely = ModelUnderTest(model, tested.neurons, tokenizer, ["en"], alone, tested.settings)
    task = experiment("clas_bench", tokens=6)
    assert task.run(lonely, ("en",))["items"][0]["relevance"] is None


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("It is [[1]] at best.\nRating: [[2]]", 1.0),
        ("Good enough: [[1]].", 0.5),
        ("I would say 0", 0.0),
        ("Rating: [[3]]", None),
        ("Rating: 2 of 5, that is", None),
        ("", None),
    ],
)
def test_ratings_are_read(reply: str, rating: float | None):
    assert ratings(lambda prompts: [reply] * len(prompts), [("q", "a")], 0) == [rating]


def test_the_judge_sees_question_and_answer_as_they_are():
    seen: list[str] = []
    ratings(lambda prompts: seen.extend(prompts) or ["1"], [("{question}?", "{0} {answer}")], 0)
    assert "Question:\n{question}?\n" in seen[0] and "Answer:\n{0} {answer}\n" in seen[0]


def test_a_chat_model_can_judge(monkeypatch):
    monkeypatch.setattr(_judge, "_TOKENS", 8)
    model, tokenizer, _ = subject()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if enable_thinking is false %} no thinking{% endif %}"
    )
    asked = [("q", "a"), ("q", "b")]
    # A tiny model of random weights says nothing that could be read; it must not fail on the way.
    found = ratings((model, tokenizer), asked, 0)
    assert len(found) == 2 and all(each in (None, 0.0, 0.5, 1.0) for each in found)
    assert experiment("clas_bench", judge=(model, tokenizer)).parameters()["judge"]


@pytest.mark.parametrize("replies", [["2"], "2 2"])
def test_a_judge_that_does_not_reply_to_each_is_told(replies):
    with pytest.raises(ParameterError, match="was given 2 prompts"):
        ratings(lambda prompts: replies, [("q", "a"), ("q", "b")], 0)


def test_a_model_that_takes_no_instructions_is_no_judge():
    model, tokenizer, _ = subject()
    with pytest.raises(ParameterError, match="no chat template"):
        experiment("clas_bench", judge=(model, tokenizer))


def test_what_is_no_judge_is_told():
    with pytest.raises(ParameterError, match="--judge MODEL"):
        experiment("clas_bench", judge="some/model")


def test_another_judge_is_another_run(tmp_path):
    def kind(prompts: list[str]) -> list[str]:
        return ["[[2]]"] * len(prompts)

    def broken(prompts: list[str]) -> list[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tasks=[SMALL | {"judge": broken}], out=tmp_path / "report")
    with pytest.raises(ParameterError, match="broken"):
        run(tasks=[SMALL | {"judge": kind}], out=tmp_path / "report", resume=True)
    report = run(tasks=[SMALL | {"judge": kind}], out=tmp_path / "report")
    assert report.settings["tasks"]["clas_bench"]["judge"] == "kind"


def test_it_has_to_be_asked_for():
    names = [each.name for each in _tasks(None, EvaluationData(DATA, LABELS))]
    assert "clas_bench" not in names and "forcing" in names


def test_languages_that_cannot_be_asked_for_are_told():
    model, tokenizer, neurons = subject()
    odd = neurons.relabel({"ja": "yue"})
    with pytest.raises(ParameterError, match="answer in yue is not known"):
        ns.evaluate(model, odd, tokenizer=tokenizer, tasks=[SMALL], data={"prompts": {"en": ["a"]}},
                    identifier=by_script)  # fmt: skip


def test_on_the_demo_the_set_beats_asking():
    pytest.importorskip("lingua", reason="the language identifier is not installed")
    model, tokenizer = load_model("demo", dtype="float32")
    labels = ["fr", "ru"]
    report = ns.evaluate(
        model, load_set("demo"), tokenizer=tokenizer, labels=labels, languages=labels, limit=2,
        tasks=[{"name": "clas_bench", "tokens": 16}], controls="",
    )  # fmt: skip
    ours = report.value("clas_bench", "score_across_languages")
    for other in ("prompted", "prompted_natively"):
        assert ours > report.value("clas_bench", "score_across_languages", treatment=other)
    assert report.value("clas_bench", "unrated") == 0
