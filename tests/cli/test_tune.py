"""Tune, and detect --tune: what a shell sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuronsteer.evaluation.metrics.langid import identifier
from neuronsteer.neuron_set import NeuronSet

QUICK = ("--max-new-tokens", "4", "--strengths", "0.5,1", "-q")


@pytest.fixture(autouse=True)
def by_length(monkeypatch: pytest.MonkeyPatch):
    """Tell languages by length: no models of languages are loaded."""

    def chosen(spec: Any, _labels: Any = None) -> Any:
        found = ("en", "fr", "ja", "de", "es")
        return identifier(lambda text: found[len(text) % 5] if spec == "lingua" else None)

    monkeypatch.setattr("neuronsteer.evaluation.candidates.identifier", chosen)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.txt"
    file.write_text("the hat on\nthe mat sat for\na cat\n", encoding="utf-8")
    return str(file)


def test_tune_writes_a_set_with_strengths(disk, call, tmp_path, prompts):
    out = tmp_path / "tuned"
    line = ("tune", disk.model, disk.set, "--prompts", prompts, "--texts", disk.texts)
    done = call(*line, "--labels", "fr,ja", "-o", str(out), *QUICK)
    assert (done.code, done.out, done.err) == (0, "", "")
    found = json.loads((out / "tuning.json").read_text("utf-8"))
    assert NeuronSet.from_pretrained(out).strengths == found["strengths"]
    assert {cell["label"] for cell in found["cells"]} <= {"fr", "ja"}
    assert all(cell["natural"] is not None for cell in found["best"].values())
    assert not (tmp_path / "tuned.partial").exists()
    again = call(*line, "--labels", "fr", *QUICK, "--json")
    assert list(json.loads(again.out)["best"]) == ["fr"]


def test_tune_shows_what_it_found(disk, call, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "tuned.png"
    line = ("tune", disk.model, disk.set, "--texts", disk.texts, "--prompts", disk.texts)
    done = call(*line, "--limit", "2", *QUICK[:4], "--plot", str(plot))
    assert done.code == 0, done.err
    assert "relevance" in done.out and "fr" in done.out
    assert "Nothing was written" in done.err and "tuned.png" in done.err
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_demo_needs_no_texts(call):
    line = ("tune", "demo", "demo", "--budget", "1h", "--limit", "2", "--json")
    done = call(*line, *QUICK[:2], "--strengths", "1", "--labels", "fr", "-q")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["settings"]["texts"] == {"fr": 40} and found["finished"]


def test_detect_tunes_what_it_found(disk, call, tmp_path, prompts):
    out = tmp_path / "neurons"
    done = call(
        "detect", disk.stats, "-o", str(out), "--method", "lape", "--rate", "0.2",
        "--set", "filter=0.5", "--set", "bar=0.5", "--tune", disk.model,
        "--prompts", prompts, "--texts", disk.texts, *QUICK[:4], "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["labels"] == ["en", "fr", "ja"]
    found = json.loads((out / "tuning.json").read_text("utf-8"))
    assert NeuronSet.from_pretrained(out).strengths == found["strengths"] and found["cells"]


def test_tune_chooses_among_sets(disk, call, tmp_path, prompts):
    out, other = tmp_path / "tuned", tmp_path / "other"
    NeuronSet.from_pretrained(disk.set).top(2).save_pretrained(other)
    line = ("tune", disk.model, disk.set, str(other), "--prompts", prompts, "--texts", disk.texts)
    done = call(*line, "--shares", "0.02", "--labels", "fr", "-o", str(out), *QUICK[:4])
    assert done.code == 0, done.err
    assert "other" in done.out and "2.0%" in done.out and "taken for fr" in done.out
    found = json.loads((out / "tuning.json").read_text("utf-8"))
    assert {(c["name"], c["share"]) for c in found["candidates"]} == {
        ("set", None), ("set", 0.02), ("other", None), ("other", 0.02),
    }  # fmt: skip
    twice = call(*line[:4], disk.set, "-q")
    assert twice.code == 2 and "same name" in twice.err


def test_detect_chooses_among_methods_and_layers(disk, call, tmp_path, prompts):
    out = tmp_path / "neurons"
    line = ("detect", disk.stats, "-o", str(out), "--method", "effect,lape", "--layers", "0,all")
    done = call(
        *line, "--rate", "0.2", "--set", "filter=0.5", "--set", "bar=0.5", "--tune", disk.model,
        "--prompts", prompts, "--texts", disk.texts, *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((out / "tuning.json").read_text("utf-8"))
    names = ["effect-0", "effect-all", "lape"]
    assert [each["name"] for each in found["candidates"]] == names
    kept = {
        name: NeuronSet.from_pretrained(tmp_path / "neurons.candidates" / name) for name in names
    }
    assert set(kept["effect-0"].layer.tolist()) == {0}
    assert kept["lape"].method["parameters"]["bar"] == 0.5
    assert NeuronSet.from_pretrained(out).strengths == found["strengths"]


def test_one_choice_of_layers_needs_no_tuning(disk, call, tmp_path):
    line = ("detect", disk.stats, "-o", str(tmp_path / "s"), "--method", "effect", "-q")
    assert call(*line, "--layers", "late").code == 0
    assert set(NeuronSet.from_pretrained(tmp_path / "s").layer.tolist()) == {1}
    done = call(*line, "--layers", "0,1", "--overwrite")
    assert done.code == 2 and "needs --tune MODEL" in done.err and "--set layers=" in done.err


def test_an_interruption_says_how_to_go_on(disk, call, tmp_path, prompts, monkeypatch):
    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuronsteer.evaluation.tuning.measurements.continue_rows", interrupted)
    done = call("tune", disk.model, disk.set, "--prompts", prompts, "-o", str(tmp_path / "t"))
    assert done.code == 130 and "--resume" in done.err and "Traceback" not in done.err


def test_help_teaches(call):
    done = call("tune", "-h")
    assert done.code == 0
    assert "neuronsteer tune demo demo --budget 1m" in done.out and "20m" in done.out
    assert "--tune" in call("detect", "-h").out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--budget soon", "20m"),
        ("--resume", "--resume needs --out"),
        ("--strengths a,b", "Cannot read --strengths 'a'"),
        ("--strengths 0", "above 0"),
        ("--shares few", "Cannot read --shares 'few'"),
        ("./nowhere", "No folder './nowhere'"),
        ("--prompts nowhere", "no folder 'nowhere'"),
        ("--labels xx", "Unknown label"),
        ("--suppress <nope>", "no token '<nope>'"),
        ("--max-new-tokens 1", "--max-new-tokens"),
    ],
)
def test_mistakes_are_one_message(disk, call, line, said):
    done = call("tune", disk.model, disk.set, "-q", *line.split())
    assert done.code == 2 and done.out == ""
    assert said in done.err and "Traceback" not in done.err


def test_options_of_tuning_need_a_model(disk, call, tmp_path):
    done = call("detect", disk.stats, "-o", str(tmp_path / "s"), "--budget", "3m")
    assert done.code == 2 and "--tune MODEL" in done.err and not (tmp_path / "s").exists()
    wrong = ("--tune", disk.model, "--budget", "soon")
    done = call("detect", disk.stats, "-o", str(tmp_path / "s"), *wrong)
    assert done.code == 2 and "20m" in done.err and not (tmp_path / "s").exists()
