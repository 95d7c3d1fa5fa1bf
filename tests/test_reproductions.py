"""The papers on a real model: what rules say, and what the page shows of what was measured."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "papers"


def load(name: str):
    before, path = dict(os.environ), list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(f"papers_{name}", FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up by name.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        # The scripts work offline; other tests in this process need not.
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path


reproduction, page = load("reproduction"), load("page")
Rule = reproduction.Rule
LESS = Rule(0.05, partly=0.1, higher=False, beyond_random=False)
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py"))
SCRIPTS = [name for name in SCRIPTS if name not in ("page", "reproduction")]


@pytest.mark.parametrize(
    ("rule", "value", "interval", "random", "verdict"),
    [
        (Rule(0.5), 0.6, (0.55, 0.7), [0.1, 0.2], "holds here"),
        (Rule(0.5), 0.6, (0.15, 0.7), [0.1, 0.2], "holds partly"),
        (Rule(0.5), 0.3, (0.25, 0.4), [0.1, 0.2], "holds partly"),
        (Rule(0.5, partly=0.4), 0.3, (0.25, 0.4), [0.1, 0.2], "does not hold here"),
        (Rule(0.5), 0.6, (0.55, 0.7), [0.1, 0.65], "does not hold here"),
        (Rule(0.5), None, None, [], "not measured yet"),
        (Rule(0.1, higher=False), 0.05, (0.01, 0.08), [0.2, 0.3], "holds here"),
        (Rule(0.1, higher=False), 0.05, (0.01, 0.25), [0.2, 0.3], "holds partly"),
        (LESS, 0.07, None, [], "holds partly"),
        (LESS, 0.2, None, [], "does not hold here"),
        (Rule(0.05, higher=False, beyond_random=False), 0.05, None, [], "holds here"),
        (Rule(0.05, higher=False, beyond_random=False), 0.06, None, [], "does not hold here"),
    ],
)  # fmt: skip
def test_a_rule_decides(rule, value, interval, random, verdict):
    assert rule.verdict(value, interval, random) == verdict


def test_a_rule_about_random_neurons_needs_some():
    with pytest.raises(ValueError, match="none were measured"):
        Rule(0.5).verdict(0.6, None, [])


def test_the_page_shows_what_was_measured_and_what_was_not():
    found = {"value": 0.75, "interval": [0.5, 1.0], "n": 8, "random": [0.1, 0.25]}
    result = {
        "title": "A title",
        "reference": "Somebody 2024",
        "notes": ["A note."],
        "claims": {
            "first": {"says": "First.", "measured": "a share", "rule": "holds: ≥ 0.5"},
            "second": {"says": "Second.", "measured": "another", "rule": "holds: ≥ 1"},
        },
        "models": {
            "gemma": {
                "model": "google/gemma",
                "minutes": 2.5,
                "found": {"first": {**found, "verdict": "holds here"}},
                "figures": {"lape-gemma-layers.svg": "By layer"},
            }
        },
    }
    text = page.render({"lape": result})
    assert "| 0.75 (0.5 to 1) | 0.1 to 0.25 | 8 | holds: ≥ 0.5 | **holds here** |" in text
    assert "Second. *Measured:* another. | – | – | – | holds: ≥ 1 | not measured yet |" in text
    assert "holds here (gemma)" in text
    assert "![By layer](images/reproductions/lape-gemma-layers.svg)" in text
    assert text.count("there is no script yet") == sum(
        not (FOLDER / f"{name}.py").is_file() for name in page.PAPERS if name != "lape"
    )


def test_the_page_says_why_something_was_not_measured():
    why = {"value": None, "verdict": "not measured yet", "details": {"why": "it knows no facts"}}
    result = {
        "title": "A title",
        "reference": "Somebody 2024",
        "notes": [],
        "claims": {"first": {"says": "First.", "measured": "a share", "rule": "holds: ≥ 0.5"}},
        "models": {"gemma": {"model": "g", "minutes": 1, "found": {"first": why}, "figures": {}}},
    }
    assert "not measured: it knows no facts |" in page.render({"lape": result})


def test_make_measures_every_paper():
    makefile = (FOLDER.parents[1] / "Makefile").read_text(encoding="utf-8")
    line = next(line for line in makefile.splitlines() if line.startswith("PAPERS := "))
    assert sorted(line.removeprefix("PAPERS := ").split()) == SCRIPTS


def test_ranks_of_equal_numbers_are_shared():
    left = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0}
    # Ranks 1, 2.5, 2.5, 4 against 4, 3, 2, 1.
    right = {"d": -9.0, "c": 0.0, "b": 0.5, "a": 7.0}
    assert reproduction.rank_correlation(left, right) == pytest.approx(-(4.5 / 22.5**0.5))
    assert reproduction.rank_correlation(left, dict.fromkeys(left, 1.0)) is None


def test_the_page_is_what_its_files_say():
    results = {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name in page.PAPERS
        for file in [page.RESULTS / f"{name}.json"]
        if file.is_file()
    }
    assert page.PAGE.read_text(encoding="utf-8") == page.render(results)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_name_their_claims(name: str):
    paper = load(name).PAPER
    assert paper.name == name and name in page.PAPERS
    assert paper.claims and all(claim.says and claim.measured for claim in paper.claims.values())
    # They become cells of a table.
    assert not any("|" in claim.says + claim.measured for claim in paper.claims.values())
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 120
