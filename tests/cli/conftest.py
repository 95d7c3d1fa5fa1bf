"""A tiny model, texts, statistics and a neuron set on disk, and a way to call the command line."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import neuronsteer as ns
from neuronsteer.cli import main

from ..tiny_models import tiny_model, tiny_tokenizer

LABELS = ("en", "fr", "ja")
_ALPHABETS = {"en": "the cat sat ", "fr": "été où ça va ", "ja": "猫は庭で寝る"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Disk:
    """Folders that commands are given."""

    root: Path

    @property
    def model(self) -> str:
        return str(self.root / "model")

    @property
    def texts(self) -> str:
        return str(self.root / "texts")

    @property
    def stats(self) -> str:
        return str(self.root / "stats")

    @property
    def set(self) -> str:
        return str(self.root / "set")


def make_texts(folder: Path) -> None:
    """Write a file of random words per label."""
    folder.mkdir()
    for label in LABELS:
        rng = random.Random(label)
        lines = ["".join(rng.choices(_ALPHABETS[label], k=40)) for _ in range(20)]
        (folder / f"{label}.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A saved model, texts, statistics and set; not to be changed."""
    disk = Disk(tmp_path_factory.mktemp("disk"))
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.save_pretrained(disk.model)
    tokenizer.save_pretrained(disk.model)
    make_texts(Path(disk.texts))
    stats = ns.collect(model, tokenizer, disk.texts, progress=False)
    stats.save(disk.stats)
    ns.detect(stats, "lape", rate=0.2, filter=0.5, bar=0.5).save_pretrained(disk.set)
    return disk


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs the command line in this process."""
    # Help is laid out for the terminal; a test must not depend on whose it is.
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*args: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["neuronsteer", *args])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        captured = capsys.readouterr()
        return Result(int(done.value.code or 0), captured.out, captured.err)

    return run
