"""The demo: from nothing to one text in several languages, without a network."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronsteer import demo
from neuronsteer.demo import toy
from neuronsteer.demo.judge import judge
from neuronsteer.demo.sentences import LANGUAGES, share, texts

from .conftest import Disk, Result

Call = Callable[..., Result]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no model in the package: the toy takes its place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "embedded", lambda: False)
    return tmp_path


def test_demo_trains_once_and_shows_every_span(
    call: Call, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy, "train", functools.partial(toy.train, steps=3))
    first = call("demo", "--schedule", "en,5:fr,10:de", "--max-new-tokens", "15")
    assert first.code == 0, first.err
    assert "Trained a toy model" in first.err
    assert all(f"⟦{label}⟧" in first.out for label in ("en", "fr", "de"))
    assert "of 3 spans are in the language asked for" in first.out

    again = call("demo", "--schedule", "en,5:fr,10:de", "--max-new-tokens", "15")
    assert "trained earlier" in again.err
    assert again.out == first.out

    found = json.loads(call("demo", "--json", "--max-new-tokens", "8").out)
    assert len(found["spans"]) == 3
    assert {"text", "found", "start", "end"} <= set(found["spans"][0])


def test_demo_is_a_model_and_a_set_everywhere(
    call: Call, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy, "train", functools.partial(toy.train, steps=3))
    done = call("generate", "demo", "demo", "--to", "fr", "-p", "The cat", "--max-new-tokens", "3")
    assert done.code == 0, done.err
    assert call("show", "demo").code == 0


def test_demo_runs_on_another_model(call: Call, disk: Disk):
    done = call("demo", "--model", disk.model, "--set", disk.set, "--max-new-tokens", "9", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["spans"]) == 3


@pytest.mark.slow
def test_the_toy_really_changes_its_language(call: Call, cache: Path):
    found = json.loads(call("demo", "--json").out)
    right = sum(span["found"] == span["label"] for span in found["spans"])
    assert right >= 2, found["text"]


@pytest.mark.skipif(not demo.embedded(), reason="this checkout carries no demo model")
def test_the_embedded_model_really_changes_its_language(call: Call):
    pytest.importorskip("lingua")
    found = json.loads(call("demo", "--json").out)
    right = sum(span["found"] == span["label"] for span in found["spans"])
    assert right >= 2, found["text"]


def test_sentences_are_told_apart_by_their_words():
    tell = judge(LANGUAGES, toy=True)
    assert tell is not None
    for language in LANGUAGES:
        text = texts(language, 1, 20, seed=5)[0]
        assert "{" not in text
        assert share(text, language) == 1
        assert tell(text) == language
    assert tell("qwerty uiop") is None


def test_a_language_identifier_judges_real_models():
    pytest.importorskip("lingua")
    tell = judge(("en", "fr", "python"), toy=False)
    assert tell is not None
    assert tell("Le chat dort dans le jardin depuis ce matin.") == "fr"
    assert judge(("python", "rust"), toy=False) is None
