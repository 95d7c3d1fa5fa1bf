"""Several sets: which are measured further, and what the result is made of."""

from __future__ import annotations

import pytest

from neuronsteer.evaluation.tuning.budget import BudgetSpentError
from neuronsteer.evaluation.tuning.choice import candidates, choose, search_all
from neuronsteer.evaluation.tuning.search import Search
from tests.evaluation.tuning.curves import Curves

#: Where steering begins to work, and where texts break down.
GOOD, FAIR, BAD = (0.3, 0.9), (0.45, 0.8), (1.0, 0.2)


def searches(*sets: Curves) -> list[Search]:
    return [Search(each, list(each.limits)) for each in sets]  # type: ignore[arg-type]


def searched(*sets: Curves, labels: tuple[str, ...] = ("fr", "zh")) -> list[Search]:
    found = searches(*sets)
    search_all(found, labels, lambda _search, _done, _count: None)
    return found


def test_what_is_clearly_behind_is_given_up_after_the_first_look():
    good, bad = (Curves({"fr": c, "zh": c}, n) for c, n in ((GOOD, "good"), (BAD, "bad")))
    found = searched(bad, good)
    assert [each.left_after for each in found] == ["coarse", None]
    assert bad.generated and not bad.compared and not bad.retrieved
    search, cells = choose(found, ["fr", "zh"])
    assert search.measured.candidate == "good"
    assert [cell.candidate for cell in cells.values()] == ["good", "good"]
    behind, ahead = candidates(found, ["fr", "zh"], cells)
    assert (behind.left_after, behind.labels, ahead.labels) == ("coarse", (), ("fr", "zh"))
    assert ahead.score > behind.score and ahead.neurons == 1


def test_sets_that_steer_alike_are_mixed_label_by_label():
    one = Curves({"fr": GOOD, "zh": FAIR, "ru": GOOD}, "one")
    two = Curves({"fr": FAIR, "zh": GOOD, "ru": FAIR}, "two")
    labels = ["fr", "zh", "ru"]
    search, cells = choose(searched(one, two, labels=("fr", "zh", "ru")), labels)
    assert {label: cell.candidate for label, cell in cells.items()} == {
        "fr": "one", "zh": "two", "ru": "one",
    }  # fmt: skip
    assert search.measured.candidate == "one"


def test_of_sets_that_steer_otherwise_one_wins_as_a_whole():
    one = Curves({"fr": GOOD, "zh": FAIR}, "one", "zero")
    two = Curves({"fr": GOOD, "zh": GOOD}, "two", "scale")
    found = searched(one, two)
    assert [each.left_after for each in found] == [None, None]
    _, cells = choose(found, ["fr", "zh"])
    assert {cell.candidate for cell in cells.values()} == {"two"}


def test_a_label_without_neurons_counts_as_nothing():
    half, whole = Curves({"fr": GOOD}, "half", "zero"), Curves({"fr": FAIR, "zh": FAIR}, "whole")
    found = searched(half, whole)
    assert [each.left_after for each in found] == ["coarse", None]


def test_only_a_few_are_measured_in_full():
    sets = [Curves({"fr": (0.3, 0.9 + i / 100)}, str(i)) for i in range(5)]
    found = searched(*sets, labels=("fr",))
    assert [each.left_after for each in found].count("fine") == 2
    assert sum(bool(each.retrieved) for each in sets) == 3


def test_when_time_is_over_the_best_so_far_is_chosen():
    one, two = (Curves({"fr": c, "zh": c}, n) for c, n in ((FAIR, "one"), (GOOD, "two")))
    two.steps_left = 2
    found = searches(one, two)
    with pytest.raises(BudgetSpentError):
        search_all(found, ["fr", "zh"], lambda _search, _done, _count: None)
    _, cells = choose(found, ["fr", "zh"])
    assert list(cells) == ["fr", "zh"]
    nothing = searches(Curves({"fr": GOOD}, "a"), Curves({"fr": GOOD}, "b"))
    search, cells = choose(nothing, ["fr"])
    assert search is nothing[0] and not cells
