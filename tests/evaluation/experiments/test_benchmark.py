"""The experiment on language confusion with the prompts of the Language Confusion Benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from neuronsteer.errors import MissingExtraError, TextError
from neuronsteer.evaluation.experiments.run import evaluate
from neuronsteer.evaluation.metrics import confusion_benchmark
from neuronsteer.evaluation.reports import Report

from .material import WORDS, by_script, subject

TASK = {"name": "confusion", "tokens": 6}


def benchmark(folder: Path, *labels: str) -> Path:
    """Write prompts, two of each task."""
    for label in labels:
        for task, source in (("monolingual", "native"), ("crosslingual", "complex_prompts")):
            file = folder / task / source / f"{label}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            prompts = [WORDS[label][:9], "Reply, please"]
            file.write_text("\n".join(["prompt", *(f'"{each}"' for each in prompts)]), "utf-8")
    (folder / "words").write_text("bridge\nriver\n")
    return folder


def run(folder: Path, **options) -> Report:
    model, tokenizer, neurons = subject()
    return evaluate(
        model, neurons, tokenizer=tokenizer, tasks=[TASK], controls="none,random:1",
        data={"lcb": folder}, identifier=by_script, labels=["en", "ru"], **options,
    )  # fmt: skip


def test_prompts_and_rules_are_the_benchmarks(tmp_path: Path):
    report = run(benchmark(tmp_path, "en", "ru", "ja"), limit=1)
    task = report.task("confusion")
    assert task["reads"] == ["lcb"]
    assert report.data["lcb"]["items"] == {"en": 4, "ru": 4}
    found = task["treatments"]["neurons"]
    assert found["n"] == 4, "one per task, source and language"
    assert {"line_pass_rate", "crosslingual_line_pass_rate", "monolingual_word_pass_rate"} <= set(
        found["values"]
    )
    tables = [block for block in found["blocks"] if block["kind"] == "table"]
    places = {tuple(row[:3]) for row in tables[0]["rows"]}
    assert ("crosslingual", "complex_prompts", "ru") in places
    assert ("monolingual", "native", "all") in places and ("monolingual", "all", "all") in places
    assert set(found["labels"]) == {"en", "ru"}
    assert "benchmark" in report.to_markdown()


def test_what_is_missing_is_told_before_anything_is_generated(tmp_path: Path, monkeypatch):
    folder = benchmark(tmp_path, "en", "ru", "ja")
    (folder / "words").unlink()
    with pytest.raises(TextError, match="no list of English words"):
        run(folder)
    benchmark(tmp_path, "en")
    monkeypatch.setitem(sys.modules, "fugashi", None)
    confusion_benchmark._japanese.cache_clear()
    model, tokenizer, neurons = subject()
    with pytest.raises(MissingExtraError, match=r"Japanese words .*neuronsteer\[lcb\]"):
        evaluate(
            model, neurons, tokenizer=tokenizer, tasks="confusion", data={"lcb": folder},
            identifier=by_script,
        )  # fmt: skip
