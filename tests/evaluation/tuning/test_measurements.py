"""From texts and likelihoods to the numbers of a strength."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from neuronsteer.evaluation.experiments._saved_cases import SavedCases
from neuronsteer.evaluation.metrics.langid import identifier
from neuronsteer.evaluation.tuning.budget import Budget
from neuronsteer.evaluation.tuning.measurements import (
    Measurements,
    Prompt,
    Setting,
    TuningSettings,
)
from neuronsteer.neuron_set import NeuronSet
from tests.tiny_models import tiny_model, tiny_tokenizer

GOOD = "the quick brown fox jumps over it"
LOOP = "la la la la la la la la la la la "
SETTING = Setting("fr", 0.5)


@pytest.fixture
def measured() -> Measurements:
    neurons = NeuronSet.from_rows(
        ["fr"], label=[0], layer=[0], index=[1], site="mlp.neuron", num_layers=2, width=80
    )
    found = Measurements(
        tiny_model("llama"),
        tiny_tokenizer(),
        neurons,
        [Prompt(f"prompt {i}", "fr" if i == 4 else "en") for i in range(12)],
        {"fr": ["text"]},
        identifier(lambda _text: None),
        TuningSettings(first=4),
        SavedCases(None, {}, resume=False),
        Budget(),
    )
    found.saved.put("reference", "texts", ("fr",), {"found": [{"text": GOOD, "ids": [5]}] * 3})
    found.saved.put("reference", "losses", ("fr",), {"range": [1.0, 2.0]})
    return found


def texts(measured: Measurements, *given: tuple[str, str | None]) -> None:
    for i, (text, language) in enumerate(given):
        item: dict[str, Any] = {"prompt": i, "ids": [5], "text": text, "identified": language}
        measured._put("texts", None, i, {**item, "text": GOOD})
    items = [
        {"prompt": i, "ids": [5], "text": text, "identified": language}
        for i, (text, language) in enumerate(given)
    ]
    measured._put("texts", SETTING, 0, items)


def test_rounds_double_and_leave_out_the_label_itself(measured: Measurements):
    assert measured.blocks("fr") == [[0, 1, 2, 3], [5, 6, 7, 8], [9, 10, 11]]
    assert measured.blocks("de") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_natural_is_likely_and_not_repetitive(measured: Measurements):
    assert measured.cell(SETTING) is None
    texts(measured, (GOOD, "fr"), (LOOP, "fra_Latn"), (GOOD, "en"), (GOOD, None))
    cheap = measured.cell(SETTING)
    assert cheap is not None and (cheap.success, cheap.stayed) == (0.5, 0.25)
    assert cheap.natural is cheap.relevance is cheap.away is None
    assert 0.75 < cheap.distinct < 0.85
    # Likely enough are the first three, but one of them repeats itself.
    measured._put("natural", SETTING, 0, [1.5, 1.5, 2.0, 3.0])
    found = measured.cell(SETTING)
    assert found is not None and (found.natural, found.away) == (0.5, 0.25)
    assert found.identified == {"fr": 1, "fra_Latn": 1, "en": 1, "None": 1}


def test_relevance_is_relative_and_no_better_than_chance_counts_as_chance(measured: Measurements):
    texts(measured, *[(GOOD, "fr")] * 4)
    measured._put("retrieved", SETTING, 0, [True, False, False, False])
    for i in range(4):
        measured._put("retrieved", None, i, i < 2)
    cell = measured.cell(SETTING)
    assert cell is not None and cell.relevance == 0.5
    for i in range(4):
        measured._put("retrieved", None, i, False)
    cell = measured.cell(SETTING)
    assert cell is not None and cell.relevance == 2.5


def test_intervals_have_a_width_where_all_texts_agree(measured: Measurements):
    assert measured.intervals(SETTING) == {}
    texts(measured, *[(GOOD, "fr")] * 4)
    assert list(measured.intervals(SETTING)) == ["success"]
    measured._put("natural", SETTING, 0, [1.5] * 4)
    measured._put("retrieved", SETTING, 0, [True] * 4)
    for i in range(4):
        measured._put("retrieved", None, i, i < 2)
    found = measured.intervals(SETTING)
    low, high = found["success"]
    assert 0.5 < low < 0.52 and high == 1 and found["natural"] == (low, high)
    assert found["relevance"] == (2 * low, 2 * high)


def test_a_chat_model_is_compared_with_its_own_answers(measured: Measurements):
    measured.reference_prompts = {"fr": ["un", "deux"], "de": ["eins"]}
    answers = [{"text": GOOD, "ids": [5], "identified": said} for said in ("fr", "fra", "en", "fr")]
    measured.saved.put("reference", "answers", ("fr",), {"found": answers})
    assert len(measured._references("fr")) == 3
    assert measured.references()["fr"] == {
        "kind": "own answers", "texts": 3, "answers": 4, "in_language": 3,
    }  # fmt: skip
    # Of fewer the range would be drawn by chance.
    measured.saved.put("reference", "answers", ("fr",), {"found": answers[1:]})
    assert measured.references()["fr"]["kind"] == "continuations"
    assert measured.references()["de"] == {"kind": "continuations", "texts": 0}


def test_sets_share_what_was_written_without_steering(measured: Measurements):
    texts(measured, (GOOD, "fr"))
    other = dataclasses.replace(measured, candidate="other")
    assert other.cell(SETTING) is None and other._has("texts", None, 0)
    other._put("texts", SETTING, 0, [{"prompt": 0, "ids": [5], "text": GOOD, "identified": "en"}])
    cells = [each.cell(SETTING) for each in (measured, other)]
    assert [(cell.candidate, cell.success) for cell in cells if cell] == [("", 1.0), ("other", 0.0)]


def test_a_text_is_looked_for_among_prompts_of_its_own_language(measured: Measurements):
    others = measured._others(0)
    assert len(others) == 9 and 0 not in others and 4 not in others
    assert others == measured._others(0) and measured._others(4) == []
    item = {"prompt": 4, "ids": [7, 8]}
    assert measured._found(item) is None
    assert measured._found({"prompt": 0, "ids": []}) is False
    assert measured._found({"prompt": 0, "ids": [7, 8]}) in (True, False)
