"""Choosing among candidates: which of them are measured further, and which make up the result."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .candidate_sets import way_of_steering
from .cells import Cell, average, best_together, steady
from .search import CLEAR, COARSE, FINE, STAGES, Search

#: Candidates that are measured in full.
_IN_FULL = 3

#: Called before a search goes through a stage: the search, how many went through it, and how many
#: will.
Before = Callable[[Search, int, int], object]


@dataclass(frozen=True)
class Candidate:
    """One set that was tried, at one share of its neurons: means over the labels.

    Attributes:
        name: Name of the set; empty if there was only one.
        share: Share of all units per label; `None` is the whole set.
        neurons: Neurons per label.
        score: Mean of the labels' best scores; 0 of a label that it cannot be steered to.
        labels: The labels that it won.
        left_after: The stage after which it was given up, because it was clearly behind.
        cells: The best cell of each label.
    """

    name: str
    share: float | None
    neurons: float
    score: float
    labels: tuple[str, ...]
    left_after: str | None
    cells: tuple[Cell, ...]

    def mean(self, name: str) -> float | None:
        """Return the mean of a number over the labels where it was measured."""
        known = [value for cell in self.cells if (value := getattr(cell, name)) is not None]
        return sum(known) / len(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the cells, JSON-able."""
        names = ("name", "share", "neurons", "score", "left_after")
        return {**{name: getattr(self, name) for name in names}, "labels": list(self.labels)}


def search_all(searches: Sequence[Search], labels: Sequence[str], before: Before) -> None:
    """Search with all candidates, stage by stage, and give up those that are clearly behind.

    Stage by stage, so that they have been measured alike when the budget is spent.

    Raises:
        BudgetSpentError: If there is no time left; what was measured is kept.
    """
    going = list(searches)
    for stage in STAGES:
        for i, search in enumerate(going):
            before(search, i, len(going))
            search.run(stage)
        if stage in (COARSE, FINE):
            kept = _kept(going, labels, len(going) if stage == COARSE else _IN_FULL)
            for search in going:
                search.left_after = None if search in kept else stage
            going = kept


def _kept(going: Sequence[Search], labels: Sequence[str], most: int) -> list[Search]:
    """Return the best so many that are not clearly behind, in the order that they have."""
    scores = [average(_best(each, labels), len(labels))[1] for each in going]
    order = sorted(range(len(going)), key=lambda i: -scores[i])[:most]
    return [going[i] for i in sorted(order) if max(scores) - scores[i] < CLEAR]


def choose(searches: Sequence[Search], labels: Sequence[str]) -> tuple[Search, dict[str, Cell]]:
    """Return the search whose set is the base of the result, and the cell that won each label.

    Candidates that steer in the same way are mixed: every label gets the best one. Of those that do
    not, a set can have one only: what is best on average.
    """
    groups: dict[Hashable, list[Search]] = {}
    for search in searches:
        if search.left_after is None:
            groups.setdefault(way_of_steering(search.measured.neurons), []).append(search)
    choices = [_best_of_group(each, labels) for each in groups.values()]
    chosen = best_together([list(each.values()) for each in choices], len(labels))
    group, cells = list(groups.values())[chosen], choices[chosen]
    return max(group, key=lambda search: len(_won(search, cells))), cells


def candidates(
    searches: Sequence[Search], labels: Sequence[str], won: Mapping[str, Cell]
) -> tuple[Candidate, ...]:
    """Return what became of every candidate."""
    return tuple(
        Candidate(
            name=search.measured.candidate,
            share=search.share,
            neurons=_neurons(search),
            score=average(_best(search, labels), len(labels))[1],
            labels=tuple(_won(search, won)),
            left_after=search.left_after,
            cells=tuple(_best(search, labels)),
        )
        for search in searches
    )


def _best(search: Search, labels: Sequence[str]) -> list[Cell]:
    return [cell for label in labels if (cell := search.best(label)) is not None]


def _best_of_group(group: Sequence[Search], labels: Sequence[str]) -> dict[str, Cell]:
    cells = [cell for search in group for cell in search.cells()]
    found = {label: steady([each for each in cells if each.label == label]) for label in labels}
    return {label: cell for label, cell in found.items() if cell is not None}


def _won(search: Search, cells: Mapping[str, Cell]) -> list[str]:
    mine = (search.measured.candidate, search.share)
    return [label for label, cell in cells.items() if (cell.candidate, cell.share) == mine]


def _neurons(search: Search) -> float:
    counts = search.measured.part(search.share).counts
    return sum(counts[label] for label in search.labels) / max(len(search.labels), 1)
