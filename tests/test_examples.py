"""The examples run as they are, on the embedded model."""

from __future__ import annotations

import inspect
import runpy
import sys
from pathlib import Path

import pytest

from neuronsteer.detectors import DETECTORS
from tests.detectors import test_contracts as contracts

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
# What takes minutes as it is, in seconds.
SMALL = {
    "03_evaluate.py": ["--limit=1", "--seeds=1", "--tasks=forcing,lss"],
    "04_compare_methods.py": ["--limit=6", "--prompts=1", "--methods=lape,effect,sae_lape,culture"],
    "07_amplification_sweep.py": ["--limit=1", "--strengths=1", "--labels", "en", "fr", "ja"],
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch):
    """Forget the methods that examples add."""
    monkeypatch.setattr(DETECTORS, "_items", dict(DETECTORS.items()))


@pytest.mark.parametrize(
    "file", [file for file in EXAMPLES if file.name not in SMALL], ids=lambda file: file.name
)
def test_example_runs(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [str(file)])
    runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example_is_short(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 80


def test_the_added_detector_keeps_the_contract(tmp_path: Path):
    file = ROOT / "examples" / "05_add_a_detector.py"
    assert len(file.read_text(encoding="utf-8").splitlines()) < 40
    runpy.run_path(str(file))
    suite = contracts.TestEveryDetector()
    checks = [name for name in dir(suite) if name.startswith("test_")]
    assert len(checks) > 5
    for name in checks:
        check = getattr(suite, name)
        folder = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(check).parameters else {}
        check("loudest", **folder)


def test_the_comparison_has_every_method_and_its_control(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = ROOT / "examples" / "04_compare_methods.py"
    monkeypatch.setattr(sys, "argv", [str(file), *SMALL[file.name]])
    runpy.run_path(str(file), run_name="__main__")
    said = capsys.readouterr().out
    rows = [line.split("│")[1].strip() for line in said.splitlines() if line.startswith("│")]
    assert rows == ["lape", "effect", "sae_lape", "random"]
    assert "culture is left out: The detector" in said
    for share in ("0.1%", "0.3%", "1.0%", "3.0%", "10.0%"):
        assert share in said


@pytest.mark.parametrize("name", ["03_evaluate.py", "07_amplification_sweep.py"])
def test_the_evaluations_show_their_control(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("lingua", reason="the language identifier is not installed")
    arguments = [*SMALL[name], "--out", str(tmp_path / "report")]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert "random" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").exists()
