"""Cutting a sequence of layers into parts, each as uniform as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ParameterError


class Cut(NamedTuple):
    """The best division of a curve into parts.

    Attributes:
        spans: First and last layer of each part.
        explained: Share of the variance over layers that lies between the parts, 0 to 1; `None` if
            the curve is flat.
        by_chance: The same for the layers in random order, on average: how much any curve of that
            length is explained by so many parts.
    """

    spans: list[tuple[int, int]]
    explained: float | None
    by_chance: float | None


def cut(curve: Sequence[Sequence[float]], parts: int, *, shuffles: int = 50, seed: int = 0) -> Cut:
    """Return the division into consecutive parts with the least squared deviation within them.

    Exact, by dynamic programming; of equal divisions, the one with the earlier cuts.

    Args:
        curve: `[layers][dimensions]`.
        parts: How many parts, each of at least one layer.
        shuffles: Random orders of the layers for `by_chance`.
        seed: Seed of these.

    Raises:
        ParameterError: If there are fewer layers than parts.
    """
    table = np.asarray(curve, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if len(table) < parts:
        raise ParameterError(f"{len(table)} layers cannot be divided into {parts} parts.")
    ends, within = _best(table, parts)
    total = float(((table - table.mean(0)) ** 2).sum())
    spans = [(start, end - 1) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    if total <= 1e-12 * max(1.0, float((table**2).sum())):
        return Cut(spans, None, None)
    rng = np.random.default_rng(seed)
    drawn = [1 - _best(rng.permutation(table), parts)[1] / total for _ in range(shuffles)]
    return Cut(spans, 1 - within / total, float(np.mean(drawn)) if drawn else None)


def caption(facts: Mapping[str, Any], count: str) -> str:
    """Return the note below a plot of a cut: its shape, and how much it explains."""
    shape = "as in the paper" if facts["follows_the_paper"] else "not the shape of the paper"
    note = f"Cut into {count} even stretches: {shape}"
    if facts["explained"] is not None:
        note += f"; explains {facts['explained']:.0%} (shuffled layers: "
        note += f"{facts['by_chance']:.0%})"
    return note + "."


def _best(table: np.ndarray, parts: int) -> tuple[list[int], float]:
    """Return the end (exclusive) of each part, and the deviation within."""
    depth = len(table)
    sums = np.concatenate([np.zeros((1, table.shape[1])), table.cumsum(0)])
    squares = np.concatenate([[0.0], (table**2).sum(1).cumsum()])

    def cost(start: int, end: int) -> float:
        inside = sums[end] - sums[start]
        return float(squares[end] - squares[start] - inside @ inside / (end - start))

    best = np.full((parts + 1, depth + 1), np.inf)
    came = np.zeros((parts + 1, depth + 1), dtype=int)
    best[0, 0] = 0.0
    for part in range(1, parts + 1):
        for end in range(part, depth + 1):
            for start in range(part - 1, end):
                value = best[part - 1, start] + cost(start, end)
                if value < best[part, end] - 1e-12:
                    best[part, end], came[part, end] = value, start
    ends: list[int] = []
    end = depth
    for part in range(parts, 0, -1):
        ends.insert(0, end)
        end = int(came[part, end])
    return ends, max(0.0, float(best[parts, depth]))
