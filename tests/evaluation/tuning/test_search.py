"""Which strengths are tried, on curves that stand for a model."""

from __future__ import annotations

from typing import Any

import pytest

from neuronsteer.evaluation.tuning.search import Search
from tests.evaluation.tuning.curves import Curves


def search(limits: dict[str, tuple[float, float]], **options: Any) -> Search:
    found = Search(Curves(limits), list(limits), **options)  # type: ignore[arg-type]
    found.run()
    return found


def test_every_label_gets_a_strength_between_working_and_breaking():
    limits = {"fr": (0.35, 0.8), "zh": (0.2, 0.5), "ru": (1.0, 3.0)}
    found = search(limits)
    for label, (works, breaks) in limits.items():
        cell = found.best(label)
        assert cell is not None and works < cell.strength < breaks
        assert cell.score > 0.8 and cell.depth == 2


def test_refining_finds_what_the_grid_jumps_over():
    # At 0.5 it does not work yet, at 0.75 it is broken.
    found = search({"fr": (0.54, 0.68)})
    cell = found.best("fr")
    assert cell is not None and cell.strength not in (0.5, 0.75)
    coarse = max(c.score for c in found.cells() if c.strength in (0.5, 0.75))
    assert cell.score > coarse


def test_beyond_the_grid_only_where_more_means_something():
    assert max(search({"fr": (2.3, 9.0)}).measured.strengths("fr")) > 2  # type: ignore[attr-defined]
    bounded = search({"fr": (2.3, 9.0)}, unbounded=False)
    assert max(bounded.measured.strengths("fr")) == 1  # type: ignore[attr-defined]


def test_what_cannot_be_better_is_not_measured():
    measured = search({"fr": (0.3, 0.6)}).measured
    assert not {1.5, 2.0} & measured.strengths("fr")  # type: ignore[attr-defined]
    measured = search({"fr": (1.4, 4.0)}).measured
    assert 0.25 not in measured.strengths("fr")  # type: ignore[attr-defined]


def test_only_the_best_see_more_prompts():
    found = search({"fr": (0.35, 2.0)})
    measured: Any = found.measured
    assert {b for _, b in measured.generated} == {0, 1, 2}
    assert len({each for each, b in measured.generated if b}) == 2
    assert len(measured.retrieved) <= 3 and len(measured.compared) < len(found.cells())


def test_a_clear_winner_is_not_measured_again():
    # Of the two best at first, one turns out to be far behind.
    found = search({"fr": (0.9, 1.05)}, grid=(0.5, 1.0))
    measured: Any = found.measured
    assert 2 not in {b for _, b in measured.generated}


@pytest.mark.parametrize("grid", [(1.0,), (0.1, 3.0)])
def test_grids_may_be_small(grid: tuple[float, ...]):
    assert search({"fr": (0.4, 2.0)}, grid=grid).best("fr") is not None
