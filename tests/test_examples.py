"""The examples run as they are, on the toy model."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from neuronsteer.demo import toy, toy_folder

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy trained for a moment, kept where the examples look for it."""
    folder = tmp_path_factory.mktemp("cache")
    words = toy.tokenizer()
    model = toy.train(words, steps=3)
    model.save_pretrained(folder / "neuronsteer" / toy_folder().name / "model")
    words.save_pretrained(folder / "neuronsteer" / toy_folder().name / "model")
    toy.find(model, words).save_pretrained(folder / "neuronsteer" / toy_folder().name / "set")
    return folder


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_runs(
    file: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("neuronsteer.demo.embedded", lambda: False)
    monkeypatch.setattr(sys, "argv", [str(file)])
    runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_is_short(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 80
