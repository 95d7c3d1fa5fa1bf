"""Translation: which prompts a model gets, what is scored, and what is said before the work."""

from __future__ import annotations

import json

import pytest

from neuronsteer.errors import ParameterError, TextError
from neuronsteer.evaluation.experiments import experiment
from neuronsteer.evaluation.experiments._model_under_test import (
    EvaluationSettings,
    ModelUnderTest,
    Treatment,
)
from neuronsteer.evaluation.experiments.run import _possible, evaluate
from neuronsteer.evaluation.readers import EvaluationData
from neuronsteer.evaluation.readers.pairs import Pair, translations

from .material import LABELS, PAIRS, by_script, subject

ROWS = {
    "ru": [{"id": f"r{i}", "en": f"word {i}", "text": f"слово {i}"} for i in range(8)],
    "ja": [{"id": f"j{i}", "en": f"name {i}", "text": f"名前 {i}"} for i in range(8)],
}


class Recorder(ModelUnderTest):
    """A model that answers what it is told to, and keeps what it was asked."""

    replies = ""

    def generate(self, prompts, targets, tokens, **options):
        self.asked, self.targets, self.options = list(prompts), list(targets), options
        return [self.replies] * len(self.asked)


def recorder(pairs=None, treatment="neurons", **settings) -> Recorder:
    model, tokenizer, neurons = subject()
    data = EvaluationData({"pairs": ROWS if pairs is None else pairs}, LABELS)
    made = Recorder(
        model,
        neurons,
        tokenizer,
        LABELS,
        data,
        EvaluationSettings(identifier=by_script, **settings),
    )
    made.treatment = Treatment(treatment, None)
    return made


def test_rows_become_pairs():
    rows = [
        {"en": "a", "text": "б", "source": "x"},
        {"en": "c", "ru": "г", "source": "y"},
        {"text": "д"},
        {"en": " ", "ru": "е"},
        "plain",
    ]
    assert translations(rows, "en", "ru") == [Pair("a", "б"), Pair("c", "г")]
    assert translations(rows, "en", "ru", "y") == [Pair("c", "г")]
    # The number of a row is not a sentence of Indonesian.
    assert translations([{"id": "7", "en": "a", "text": "b"}], "en", "id") == [Pair("a", "b")]


def test_examples_leave_the_language_open():
    tested = recorder()
    experiment("translation", items=3).run(tested, ("ru",))
    assert tested.targets == ["ru"] * 3
    assert tested.options["greedy"]
    assert all(prompt.count("English: ") == 3 for prompt in tested.asked)
    assert not any("слово" in prompt for prompt in tested.asked)
    assert all("名前" in prompt for prompt in tested.asked)
    assert tested.asked[0].endswith("English: word 0\nTarget language:")


def test_examples_in_the_target_language_never_hold_what_is_asked():
    tested = recorder()
    experiment("translation", items=4, shown="target", examples=3).run(tested, ("ru",))
    for prompt in tested.asked:
        *shown, last = prompt.split("English: ")[1:]
        assert len(shown) == 3
        assert len(set(shown)) == 3
        assert all("слово" in example for example in shown)
        assert last.split("\n")[0] not in [example.split("\n")[0] for example in shown]


def test_nothing_is_steered_where_nothing_is_attached():
    tested = recorder(treatment="none")
    experiment("translation", items=2).run(tested, ("ru",))
    assert tested.targets == [None, None]


def test_a_translation_is_its_first_line_and_is_scored_in_its_language():
    task = experiment("translation", items=1)
    tested = recorder()
    tested.replies = "\n слово 0\nEnglish: more"
    seen = task.run(tested, ("ru",))
    assert [item["text"] for item in seen["items"]] == ["слово 0"]
    found = task.score(tested, {("ru",): seen})
    assert found.values["chrf"] == pytest.approx(100)
    assert found.values["language"] == 1
    assert found.values["copied"] == 0
    tested.replies = "word 0"
    seen = task.run(tested, ("ru",))
    found = task.score(tested, {("ru",): seen})
    assert found.values["chrf"] < 30
    assert found.values["language"] == 0
    assert found.values["copied"] == 1


def test_languages_count_alike_and_the_tokenizer_follows_them():
    task = experiment("translation", items=4)
    tested = recorder()
    tested.replies = "слово 0"
    found = task.score(tested, {(label,): task.run(tested, (label,)) for label in ("ru", "ja")})
    labels = {label: entry["value"] for label, entry in found.labels.items()}
    assert found.values["chrf"] == pytest.approx(sum(labels.values()) / 2)
    low, high = found.intervals["chrf"]
    assert low < found.values["chrf"] < high
    table = next(block for block in found.blocks if block["kind"] == "table")
    assert [row[3] for row in table["rows"]] == ["13a", "ja-mecab"]


def test_what_is_wrong_is_said_before_the_work():
    model, tokenizer, neurons = subject()
    common = {"tokenizer": tokenizer, "identifier": by_script, "controls": "none", "limit": 1}
    wrong = {"pairs": {"ru": [{"de": "Wort", "text": "слово"}]}}
    with pytest.raises(TextError, match="no pair of sentences"):
        evaluate(model, neurons, tasks="translation", data=wrong, **common)
    with pytest.raises(ParameterError, match="shown='nobody'"):
        experiment("translation", shown="nobody")
    # One that was not asked for is left out, with the reason.
    tasks = [experiment("translation"), experiment("lss")]
    able, notes = _possible(tasks, recorder(wrong["pairs"]), asked=False)
    assert [task.name for task in able] == ["lss"]
    assert len(notes) == 1
    assert notes[0].startswith("Left out: translation. ")


def test_one_file_with_all_languages(tmp_path):
    file = tmp_path / "multiway.jsonl"
    rows = [{"en": f"word {i}", "ru": f"слово {i}"} for i in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for place in (file, tmp_path):
        found = EvaluationData({"pairs": place}, LABELS).get("pairs")
        assert translations(found.items["ru"], "en", "ru")[0] == Pair("word 0", "слово 0")
        assert "ja" not in found.items


def test_it_runs_on_a_model():
    model, tokenizer, neurons = subject()
    report = evaluate(
        model,
        neurons,
        tokenizer=tokenizer,
        tasks=[{"name": "translation", "tokens": 4}],
        controls="none,random:1",
        data={"pairs": PAIRS},
        limit=1,
        identifier=by_script,
    )
    assert set(report.task("translation")["treatments"]["neurons"]["labels"]) == {"ru", "ja"}
