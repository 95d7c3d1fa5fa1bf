"""Average precision of very many units at once: one sort per unit serves all labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

# Responses in one chunk: a few hundred megabytes with everything that is derived from them.
_CHUNK = 2**23


def average_precision(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the average precision of each unit for each label against all others.

    AP is the sum over thresholds of the gain in recall times the precision, texts being ranked by
    their response; texts with equal responses are ranked together, as scikit-learn does.

    Args:
        rows: Per label the responses `[texts, units]` float32, at least one text each.

    Returns:
        `[labels, units]` float64.
    """
    sizes = [len(part) for part in rows]
    units, texts = rows[0].shape[1], sum(sizes)
    found = np.empty((len(rows), units))
    step = max(1, _CHUNK // texts)
    for start in range(0, units, step):
        piece = slice(start, min(units, start + step))
        # [units, texts], the texts of a label side by side.
        values = torch.cat([part[:, piece] for part in rows]).T.contiguous().numpy()
        ranks = _ranks(values)
        first = 0
        for k, size in enumerate(sizes):
            mine = np.sort(ranks[:, first : first + size], axis=1)
            # At a text's rank, this many texts of the label have been seen.
            seen = _run_ends(mine)
            found[k, piece] = (seen / mine).mean(1)
            first += size
    return torch.from_numpy(found)


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return, per row, how many values are at least as large as each one."""
    # Ascending order of the negated values; adding 0 makes -0 equal to 0.
    negated = 0.0 - values
    order = np.argsort(negated, axis=1)
    ends = _run_ends(np.take_along_axis(negated, order, axis=1))
    ranks = np.empty(values.shape, dtype=np.int32)
    np.put_along_axis(ranks, order, ends, axis=1)
    return ranks


def _run_ends(ordered: NDArray[np.generic]) -> NDArray[np.int32]:
    """Return, per sorted row, the position (from 1) of the last value equal to each one."""
    count = ordered.shape[1]
    ends = np.broadcast_to(np.arange(1, count + 1, dtype=np.int32), ordered.shape)
    equal = ordered[:, 1:] == ordered[:, :-1]
    tied = equal.any(1)
    if tied.any():
        ends = ends.copy()
        open_ended = np.where(equal[tied], np.int32(count), ends[tied, :-1])
        last = np.full((len(open_ended), 1), count, dtype=np.int32)
        backwards = np.concatenate([open_ended, last], axis=1)[:, ::-1]
        ends[tied] = np.minimum.accumulate(backwards, axis=1)[:, ::-1]
    return ends


def median(rows: torch.Tensor) -> torch.Tensor:
    """Return the median over the first dimension; the mean of the middle two if it is even."""
    ordered = rows.sort(dim=0).values
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
