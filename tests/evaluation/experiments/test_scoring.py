"""Numbers from observations made by hand: no model takes part."""

from __future__ import annotations

import math
from typing import Any

import pytest

from neuronsteer.errors import ParameterError, TextError
from neuronsteer.evaluation.experiments import experiment
from neuronsteer.evaluation.experiments._model_under_test import EvaluationSettings, ModelUnderTest
from neuronsteer.evaluation.experiments._scored_texts import pick
from neuronsteer.evaluation.readers import EvaluationData

from .material import DATA, by_script, subject


@pytest.fixture(scope="module")
def tested() -> ModelUnderTest:
    _, _, neurons = subject()
    labels = ["en", "ru"]
    settings = EvaluationSettings(identifier=by_script, candidates=None)
    return ModelUnderTest(
        None, neurons.only(*labels), None, labels, EvaluationData(DATA, labels), settings
    )


def said(target: str | None, identified: str | None, *, bad: bool = False) -> dict[str, Any]:
    return {
        "prompt": "p", "target": target, "text": "t", "identified": identified, "degenerate": bad,
        "distinct": 0.5,
    }  # fmt: skip


def test_forcing_leaves_the_diagonal_out(tested):
    found = {
        ("en",): {"items": [said("en", "en"), said("ru", "ru"), said("ru", "en")]},
        ("ru",): {"items": [said("en", "en", bad=True), said("ru", "ru")]},
    }
    finding = experiment("forcing").score(tested, found)
    assert finding.n == 3
    assert finding.values["success"] == pytest.approx(2 / 3)
    assert finding.values["fluent_success"] == pytest.approx(1 / 3)
    assert finding.values["degeneration"] == pytest.approx(1 / 3)
    assert finding.labels["ru"]["value"] == 0.5 and finding.labels["en"]["value"] == 0
    assert finding.blocks[0]["values"] == [[1, 0.5], [0, 1]]


def test_forcing_without_steering_counts_a_text_for_every_target(tested):
    found = {("en",): {"items": [said(None, "en"), said(None, "ru")]}}
    finding = experiment("forcing").score(tested, found)
    assert finding.n == 2 and finding.values["fluent_success"] == 0.5


def test_forcing_into_the_prompts_language_alone_is_no_test(tested):
    with pytest.raises(ParameterError, match="at least one language beside"):
        experiment("forcing").score(tested, {("en",): {"items": [said("en", "en")]}})


def test_deactivation_is_the_difference_of_shares(tested):
    found = {
        ("en",): {"items": [said("en", "ru"), said("en", "en"), said("ru", "ru")]},
        ("ru",): {"items": [said("en", "en"), said("en", "en"), said("ru", None)]},
    }
    finding = experiment("deactivation").score(tested, found)
    # Own: 1 of 3 kept; others: 3 of 3.
    assert finding.values["kept_own"] == pytest.approx(1 / 3)
    assert finding.values["specific_loss"] == pytest.approx(2 / 3)
    low, high = finding.intervals["specific_loss"]
    assert low <= 2 / 3 <= high
    assert finding.labels["ru"]["value"] == 1
    assert finding.blocks[0]["values"] == [[0.5, 1], [1, 0]]


def test_nothing_switched_off_loses_nothing(tested):
    found = {("-",): {"items": [said("en", "en"), said("ru", None)]}}
    finding = experiment("deactivation").score(tested, found)
    assert finding.values["specific_loss"] == 0 and finding.values["kept_own"] == 0.5


def test_a_switch_counts_tokens_until_the_new_language(tested):
    def item(delay, *, stays=True, bad=False):
        return {
            "prompt": "p", "target": "ru", "text": "t", "start": "h", "delay": delay,
            "stays": stays, "degenerate": bad,
        }  # fmt: skip

    found = {("en",): {"items": [item(0), item(4), item(None, stays=False), item(8, bad=True)]}}
    finding = experiment("switch").score(tested, found)
    # A loop has not arrived anywhere.
    assert finding.values["reached"] == 0.5
    assert finding.values["mean_delay"] == 2
    assert finding.values["stays"] == 0.75
    assert finding.labels == {"ru": finding.labels["ru"]}
    histogram = finding.blocks[1]
    assert histogram["counts"][:3] == [1, 0, 1] and sum(histogram["counts"]) == 2


def test_without_a_switch_there_is_no_delay(tested):
    item = {
        "prompt": "p", "target": "ru", "text": "", "start": "", "delay": None, "stays": False,
        "degenerate": True,
    }  # fmt: skip
    finding = experiment("switch").score(tested, {("en",): {"items": [item]}})
    assert finding.values["reached"] == 0 and finding.values["median_delay"] is None


def test_fallback_is_fluent_and_elsewhere(tested):
    items = [said("en", "ru"), said("en", "en"), said("en", "ru", bad=True), said("en", None)]
    found = {("en",): {"steps": [{"off": ["en"], "items": items}]}}
    finding = experiment("fallback").score(tested, found)
    assert finding.values["fallback"] == 0.25 and finding.values["kept"] == 0.25
    assert finding.blocks[0]["values"] == [[0.25, 0.25, 0, 0.5]]
    assert finding.blocks[1]["rows"][0][:2] == ["en", "en"]


def test_amplification_is_paired(tested):
    found = {
        ("en",): {"scores": {"": [0, 1, 1], "en": [1, 1, 1], "ru": [0, 0, 1]}, "chance": 0.5},
        ("ru",): {"scores": {"": [1], "en": [1], "ru": [0]}, "chance": 0.5},
    }
    finding = experiment("xcopa").score(tested, found)
    assert finding.values["self_change"] == pytest.approx((1 - 1) / 4)
    assert finding.values["cross_change"] == pytest.approx(-1 / 4)
    assert finding.values["unsteered"] == 0.75 and finding.values["chance"] == 0.5
    assert finding.labels["en"]["value"] == pytest.approx(1 / 3)
    assert finding.blocks[0]["values"][1] == [0, -1]


def test_the_frontier_of_a_sweep(tested):
    def seen(hits, losses):
        items = [said("ru", "ru" if k < hits else "en") for k in range(4)]
        return {"items": items, "losses": {"ru": losses}}

    found = {
        ("own", "1", "1"): seen(2, (1.0, 1.0)),
        ("own", "2", "1"): seen(4, (2.0, 1.0)),
        ("own", "0.5", "1"): seen(1, (1.5, 1.0)),
        # Better than without steering is not more than fluent.
        ('{"name": "set", "value": "mean"}', "1", "0.5"): seen(1, (0.5, 1.0)),
    }
    finding = experiment("sweep").score(tested, found)
    points = {p["label"]: p for p in finding.blocks[0]["points"]}
    best = {label for label, p in points.items() if p["best"]}
    assert best == {"own × 1, 100% of the neurons", "own × 2, 100% of the neurons"}
    assert points["own × 2, 100% of the neurons"]["y"] == pytest.approx(0.3679, abs=1e-4)
    assert points["set mean × 1, 50% of the neurons"]["y"] == 1
    assert finding.values["best"] == pytest.approx(0.5)


def test_samples_are_typical_of_their_group():
    items = [said("en", "en"), said("en", None), said("en", None), said("ru", "ru")]
    shown = pick(items, by=("target",))
    assert [(each["label"], each["good"]) for each in shown] == [("en", False), ("ru", True)]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("sweep", {"rates": (0.0,)}, "Rates"),
        ("sweep", {"operations": ()}, "without operations"),
        ("sweep", {"strengths": (float("nan"),)}, "Strengths"),
        ("switch", {"window": 99}, "window"),
    ],
)
def test_parameters_that_make_no_sense(name, parameters, said):
    with pytest.raises(ParameterError, match=said):
        experiment(name, **parameters)


def test_relations_compare_the_loss_within_and_elsewhere(tested):
    def facts(**known: list[tuple[int, int]]) -> dict[str, Any]:
        return {
            "items": [
                {"relation": name, "base": before, "right": after}
                for name, some in known.items()
                for before, after in some
            ]
        }

    found = {
        # Off: three of four of its own are lost, and one of the other is found.
        ("en",): facts(en=[(1, 0), (1, 0), (1, 0), (1, 1)], ru=[(0, 1), (1, 1)]),
        ("ru",): facts(en=[(1, 1), (1, 1), (1, 1), (1, 1)], ru=[(0, 0), (1, 0)]),
    }
    finding = experiment("relations").score(tested, found)
    assert finding.values["intra_drop"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert finding.values["inter_drop"] == pytest.approx((-1 / 2 + 0) / 2)
    assert finding.values["specificity"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 2 - 0) / 2)
    assert finding.values["helped"] == 0.5
    assert finding.blocks[0]["values"] == [[0.75, -0.5], [0, 0.5]]


def test_relations_need_two_of_them(tested):
    labels = ["en", "ru"]
    one = {"relations": {"en": [{"prompt": "Rome is in", "answer": " Italy"}]}}
    alone = ModelUnderTest(
        None, tested.neurons, None, labels, EvaluationData(one, labels), tested.settings
    )
    with pytest.raises(ParameterError, match="at least two of the set's labels"):
        experiment("relations").check(alone)


def test_a_fact_without_an_answer_is_told(tested):
    labels = ["en", "ru"]
    wrong = {"relations": dict.fromkeys(labels, [{"prompt": "Rome is in"}])}
    without = ModelUnderTest(
        None, tested.neurons, None, labels, EvaluationData(wrong, labels), tested.settings
    )
    with pytest.raises(TextError, match="needs a 'prompt' and an 'answer'"):
        experiment("relations").run(without, ("en",))


def test_the_perplexity_matrix_has_an_f_score(tested):
    def texts(en: float, ru: float) -> dict[str, Any]:
        return {
            "items": [
                {"label": "en", "nats": 10 * en, "base": 0.0, "tokens": 10},
                {"label": "ru", "nats": 10 * ru, "base": 0.0, "tokens": 10},
            ]
        }

    half = math.log(2)
    # English halves its own probability and leaves Russian alone: P = 1, R = 1 / 2. Russian
    # loses nothing itself.
    found = {("en",): texts(half, 0.0), ("ru",): texts(half, 0.0)}
    finding = experiment("perplexity").score(tested, found)
    assert finding.values["lang_spec_f"] == pytest.approx((2 / 3 + 0) / 2)
