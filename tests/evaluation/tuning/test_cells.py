"""The number for a strength, the best of several, and reading budgets."""

from __future__ import annotations

import itertools

import pytest

from neuronsteer.errors import ParameterError
from neuronsteer.evaluation.tuning.budget import Budget, BudgetSpentError, seconds_of
from neuronsteer.evaluation.tuning.cells import Cell, best, best_together, rank, score, steady


def cell(strength: float = 1.0, success: float = 1.0, **numbers: float | None) -> Cell:
    given = {"texts": 8, "stayed": 0.0, "distinct": 1.0, **numbers}
    return Cell("fr", strength, None, success=success, **given)  # type: ignore[arg-type]


def test_the_score_is_a_product_of_shares_of_at_most_one():
    assert score(0.5, 1.0, 0.8, 1.0) == 0.5
    assert score(1.0, 0.5, 0.4, 0.5) == pytest.approx(0.125)
    # Nothing makes up for something else.
    assert score(0.5, 2.0, 1.0, 3.0) == 0.5
    # What was not measured does not count.
    assert score(0.75) == 0.75
    assert score(1.0, 1.0, 0.0, 1.0) == score(1.0, 0.0) == score(0.0) == 0


def test_success_is_a_floor():
    poor = cell(success=0.45, natural=0.8, relevance=1.0)
    broken = cell(success=0.5, distinct=0.1, natural=0.1, relevance=0.1)
    assert poor.score > broken.score
    assert best([poor, broken]) is broken
    assert rank(broken) > rank(poor)


def test_equal_scores_prefer_what_is_close_to_natural_and_then_what_is_weak():
    far, near = (cell(s, natural=0.0, away=a, relevance=1.0) for s, a in ((0.5, 2.0), (1.0, 0.2)))
    assert best([far, near]) is near
    weak, strong = cell(0.5), cell(1.0)
    assert best([strong, weak]) is weak


def test_cells_are_compared_on_what_several_were_measured_on():
    loops = cell(1.0, success=1.0, natural=0.1, away=0.1)
    better = cell(0.75, success=0.9, natural=0.8, away=0.0)
    # Only one has a relevance, which is held against nobody.
    measured = cell(0.5, success=0.8, natural=0.7, away=0.0, relevance=0.2)
    assert best([loops, better, measured]) is better
    # A strength of which only the cheap numbers are known has not been found out.
    cheap = cell(2.0)
    assert best([loops, better, cheap]) is better
    assert best([loops, cell(0.5)]) == cell(0.5)
    assert best([loops]) is loops and best([]) is None


def test_what_few_texts_cannot_tell_apart_gives_the_middle():
    few = [cell(s, natural=n, texts=10) for s, n in [(0.5, 0.4), (1.0, 0.3), (1.5, 0.3)]]
    assert best(few) is few[0] and steady(few) is few[1]
    # Of two the stronger one, and only what is about as good as the best.
    assert steady(few[:2]) is few[1]
    assert steady([few[0], cell(1.0, natural=0.1, texts=10)]) is few[0]
    # A hundred times as many texts tell them apart.
    assert steady([cell(c.strength, natural=c.natural, texts=1000) for c in few]) == cell(
        0.5, natural=0.4, texts=1000
    )
    # Those that do what they are for are never left for others.
    assert steady([few[0], cell(1.0, success=0.8, natural=0.6, texts=10)]) is few[0]
    # What was compared in less detail does not count.
    assert steady([few[0], cell(1.0, texts=10)]) is few[0]
    assert steady([]) is None


def test_a_set_is_worth_the_mean_of_its_labels():
    uneven, even = [cell(success=1.0), cell(success=0.6)], [cell(success=0.9)] * 2
    assert best_together([uneven, even], 2) == 1
    assert best_together([even, even], 2) == 0
    # Below one half a label is worth nothing, and so is one that is not there.
    assert (
        best_together([[cell(success=1.0), cell(success=0.45)], [cell(success=0.55)] * 2], 2) == 1
    )
    assert best_together([[cell(success=1.0)], [cell(success=0.55)] * 2], 2) == 1
    assert best_together([[], [cell(success=0.1)]], 1) == 1
    # What only one of them was measured on is not held against it.
    full = [cell(success=0.9, natural=0.4, relevance=0.5)]
    assert best_together([[cell(success=0.8)], full], 1) == 1
    middle = [cell(success=0.9, natural=0.6)]
    assert best_together([full, middle, [cell(success=1.0)]], 1) == 1


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (90, 90.0),
        ("90", 90.0),
        ("90s", 90.0),
        ("20m", 1200.0),
        (" 1h30m ", 5400.0),
        ("1.5 H", 5400.0),
    ],
)
def test_budgets_are_read(given, seconds):
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", ["", "soon", "20x", "m", 0, -1, "0s", float("inf"), "nan"])
def test_other_budgets_are_refused(given):
    with pytest.raises(ParameterError, match=r"budget .* such as 1200"):
        seconds_of(given)


def test_no_step_begins_that_would_end_too_late():
    times = iter([0.0, 0.0, 3.0, 4.0, 5.0])
    budget = Budget(7.0, lambda: next(times))
    budget.step("score")  # takes 3 seconds
    budget.step("token")  # 1
    budget.step("token")
    with pytest.raises(BudgetSpentError):
        budget.step("score")  # would end at 8
    ticks = itertools.count()
    unlimited = Budget(None, lambda: float(next(ticks)))
    for _ in range(9):
        unlimited.step("score")
