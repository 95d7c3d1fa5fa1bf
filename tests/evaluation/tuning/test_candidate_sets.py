"""Names of several sets, and the one that is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronsteer.errors import ParameterError
from neuronsteer.evaluation.tuning.candidate_sets import candidate_sets, combined, way_of_steering
from neuronsteer.evaluation.tuning.cells import Cell
from neuronsteer.neuron_set import NeuronSet


def neurons(index: int, method: str, **header: object) -> NeuronSet:
    """Return a set with two neurons for each of three labels, from `index` on."""
    return NeuronSet.from_rows(
        ["en", "fr", "zh"], [0, 0, 1, 1, 2, 2], [0] * 6, [index, index + 1] * 3,
        [2.0, 1.0] * 3, site="mlp.neuron", num_layers=2, width=80,
        method={"name": method, "parameters": {}}, **header,
    )  # fmt: skip


def cell(label: str, candidate: str, share: float | None = None) -> Cell:
    return Cell(label, 1.0, share, 8, 1.0, 0.0, 1.0, candidate=candidate)


ONE, TWO = neurons(0, "effect"), neurons(10, "lape")


def test_sets_are_named(tmp_path: Path):
    assert list(candidate_sets(ONE)) == [""]
    TWO.save_pretrained(tmp_path / "mine")
    assert candidate_sets(str(tmp_path / "mine")) == {"": TWO}
    assert list(candidate_sets([ONE, TWO, ONE, tmp_path / "mine"])) == [
        "effect", "lape", "effect 2", "mine",
    ]  # fmt: skip
    assert candidate_sets({"a": ONE, "b": str(tmp_path / "mine")}) == {"a": ONE, "b": TWO}
    for wrong in ([], {"": ONE}):
        with pytest.raises(ParameterError, match="no set to tune|a name for each"):
            candidate_sets(wrong)


def test_what_a_set_has_only_one_of_decides_whether_labels_can_be_mixed():
    assert way_of_steering(ONE) == way_of_steering(TWO)
    others = ({"operation": {"name": "scale", "factor": 2.0}}, {"schedule": "fr@4"})
    assert all(
        way_of_steering(neurons(0, "effect", **each)) != way_of_steering(ONE) for each in others
    )


def test_every_label_has_the_neurons_that_won():
    sets = {"one": ONE, "two": TWO}
    best = {"fr": cell("fr", "two"), "zh": cell("zh", "one", 1 / 160)}
    found = combined(sets, best, "one")
    assert found.labels == ("en", "fr", "zh")
    by_label = {label: found.only(label).index.tolist() for label in found.labels}
    # What was not tuned comes from the base.
    assert by_label == {"en": [0, 1], "fr": [10, 11], "zh": [0]}
    assert found.method == {"name": "mixed", "parameters": {"fr": TWO.method, "zh": ONE.method}}
    assert found.operation == ONE.operation


def test_a_set_that_won_as_a_whole_stays_as_it_is():
    sets = {"one": ONE, "two": TWO}
    assert combined(sets, {"fr": cell("fr", "two")}, "two") is TWO
    assert combined(sets, {}, "one") is ONE
    assert combined(sets, {"fr": cell("fr", "two", 1 / 160)}, "two").method == TWO.method
