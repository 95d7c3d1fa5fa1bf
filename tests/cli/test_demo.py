"""The demo: one prompt in every language, one text in several, one language turned off."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from neuronsteer.demo.language_identifier import language_identifier
from neuronsteer.demo.sentences import LANGUAGES, texts

from .conftest import Disk, Result

Call = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def needs_lingua():
    pytest.importorskip("lingua")


def test_the_embedded_model_shows_all_three_parts(call: Call):
    done = call("demo", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    languages, switch, off = found["parts"]
    plain, *forced = languages["lines"]
    assert plain["found"] == "en"
    assert sum(line["found"] == line["label"] for line in forced) >= 6, forced
    assert found["spans"] == switch["spans"] and len(found["spans"]) == 4
    assert sum(span["found"] == span["label"] for span in found["spans"]) >= 2, found["text"]
    nothing, own, random = (part["detected"].get("en", 0) for part in off["conditions"])
    assert off["language"] == "en" and own < min(nothing, random), off


def test_a_schedule_shows_the_second_part_only_and_the_same_seed_the_same_text(call: Call):
    arguments = ("demo", "--schedule", "en,5:ru,10:de", "--max-new-tokens", "15")
    done = call(*arguments)
    assert done.code == 0, done.err
    assert all(f"⟦{label}⟧" in done.out for label in ("en", "ru", "de"))
    assert "of 3 spans are in the language asked for" in done.out
    assert "turned off" not in done.out
    assert call(*arguments).out == done.out
    assert call(*arguments, "--seed", "7").out != done.out


def test_lines_fit_a_terminal_of_80_columns(call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    done = call("demo")
    assert done.code == 0, done.err
    assert "✓" in done.out and "\x1b" not in done.out
    # The one streamed text is wrapped by the terminal itself.
    long = [line for line in done.out.splitlines() if len(line) > 80 and "⟦" not in line]
    assert not long


def test_demo_runs_on_another_model(call: Call, disk: Disk):
    done = call("demo", "--model", disk.model, "--set", disk.set, "--max-new-tokens", "9", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["spans"]) == 3


def test_model_and_set_belong_together(call: Call, disk: Disk):
    done = call("demo", "--model", disk.model)
    assert done.code == 2 and "needs --set" in done.err and "gemma" in done.err
    done = call("demo", "--model", disk.model, "--set", "demo")
    assert done.code == 2 and "belong together" in done.err


def test_a_language_identifier_judges():
    tell = language_identifier(("en", "fr", "python"))
    assert tell is not None
    assert tell("Le chat dort dans le jardin depuis ce matin.") == "fr"
    assert language_identifier(("python", "rust")) is None


def test_sentences_are_in_the_language_that_they_say():
    tell = language_identifier(LANGUAGES)
    assert tell is not None
    for language in LANGUAGES:
        text = texts(language, 1, 20, seed=5)[0]
        assert "{" not in text
        assert tell(text) == language
