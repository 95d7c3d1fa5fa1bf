"""Means, and confidence intervals: how far a number would move with other items."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from ..errors import ParameterError

#: Resamples. The 95 % bounds of a percentile interval are steady to about 1 % of its width here.
SAMPLES = 1000
#: At most this many drawn numbers are in memory at a time.
_BLOCK = 4_000_000


def interval(
    values: Sequence[Any],
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval, or `None` for fewer than two items.

    The same seed and number of items draw the same resamples, so that two systems measured on the
    same items are resampled alike.

    Args:
        values: One number per item. With `statistic`: anything, only its length counts.
        statistic: Function of the drawn positions. Default: the mean of `values`.
        weights: With the default statistic: Σ values / Σ weights instead, e.g. nats per token.
        level: Coverage.
        samples: Number of resamples.
        seed: Seed of the draws.
    """
    if not 0 < level < 1 or samples < 1:
        raise ParameterError(
            f"A bootstrap needs 0 < level < 1 and samples ≥ 1; got {level} and {samples}."
        )
    n = len(values)
    if n < 2:
        return None
    draws = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    left = samples
    while left:
        rows = min(left, max(1, _BLOCK // n))
        chosen = draws.integers(0, n, size=(rows, n))
        if statistic is not None:
            found.append(np.array([statistic(row) for row in chosen], dtype=np.float64))
        else:
            drawn = np.asarray(values, dtype=np.float64)[chosen].sum(1)
            over = n if weights is None else np.asarray(weights, dtype=np.float64)[chosen].sum(1)
            found.append(drawn / over)
        left -= rows
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(share: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a share of `count` items.

    It has a width where all items agree, where a bootstrap has none: of eight texts of which all
    are right, the share among further ones may be as low as 0.68.
    """
    if not 0 < level < 1 or count < 1 or not 0 <= share <= 1:
        raise ParameterError(
            f"An interval needs 0 < level < 1 and a share, from 0 to 1, of at least one item; got "
            f"level={level}, share={share}, count={count}."
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    whole = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / whole
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / whole
    return max(middle - half, 0.0), min(middle + half, 1.0)


def averaged(
    values: Mapping[str, float | None | Sequence[float | bool]], *, seed: int = 0
) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    """Return numbers by name, and the intervals of those that were given as one number per item."""
    means: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for name, value in values.items():
        if isinstance(value, Sequence):
            means[name], intervals[name] = mean(value), interval(value, seed=seed)
        else:
            means[name] = value
    return means, intervals


def mean(values: Sequence[float | bool]) -> float | None:
    """Return the mean, or `None` for no values."""
    return math.fsum(values) / len(values) if values else None
