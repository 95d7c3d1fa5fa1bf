"""Batches whose composition depends on the rows alone, never on memory, speed or processes.

The last bits of a matrix product depend on the shape of the matrices, and a value just above zero
may come out just below it in another shape. Counts that do not depend on the batch size, on the
order of the texts or on the number of processes are therefore a matter of shapes:

- a row is padded on the right to a length that depends on its own length only; being causal, the
  model cannot look at the padding, so no mask is needed and every row takes the same kernel;
- a batch is filled up with copies of a row until it holds a multiple of 32 positions, at least 64.
  From there on the CPU kernels of torch compute a row the same way in every batch (otherwise they
  switch to kernels for few rows, and to scalar code for what is left of a vector loop);
- rows are sorted by length inside a window of the stream, so that memory stays bounded, and batches
  are given to processes by their position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .tokens import TokenRow

ALIGNMENT = 32  # one step of an unrolled loop over AVX-512 vectors of float32
LEAST = 64
LARGEST_FILL = 4096
WINDOW_TOKENS = 2**17
WINDOW_ROWS = 2**12


def padded(length: int, longest: int | None) -> int:
    """Return the length to which a row is padded: at most an eighth or 3 tokens more.

    Args:
        length: Tokens in the row.
        longest: Longest sequence the model takes, if known.
    """
    step = max(4, 2 ** (max(length - 1, 1).bit_length() - 4))
    found = -(-length // step) * step
    return found if longest is None else max(length, min(found, longest))


def alignment(length: int) -> int:
    """Return the number of rows of this length that a batch must be a multiple of."""
    step = ALIGNMENT // math.gcd(length, ALIGNMENT)
    # Only a model with an odd context length gets here with long rows; it is not aligned.
    return step if step * length <= LARGEST_FILL else 1


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one padded length.

    Attributes:
        length: The padded length.
        rows: The rows.
    """

    length: int
    rows: tuple[TokenRow, ...]

    @property
    def tokens(self) -> int:
        """Number of tokens that count."""
        return sum(int(row.counts.sum()) for row in self.rows)

    def halves(self) -> tuple[Batch, Batch]:
        """Return two smaller batches with the same rows."""
        middle = (len(self.rows) + 1) // 2
        return Batch(self.length, self.rows[:middle]), Batch(self.length, self.rows[middle:])

    def tensors(self, align: bool = True) -> tuple[Tensor, Tensor]:
        """Return ids and weights, `[rows, length]` int64 and float32 (0 or 1), on the CPU.

        Args:
            align: Fill the batch up with copies of its last row.
        """
        step, least = (alignment(self.length), LEAST) if align else (1, 1)
        count = max(len(self.rows), -(-least // self.length))
        count = -(-count // step) * step
        ids = np.empty((count, self.length), dtype=np.int64)
        weight = np.zeros((count, self.length), dtype=np.float32)
        for i, row in enumerate(self.rows):
            size = len(row.ids)
            ids[i, :size] = row.ids
            # Any id will do; the padding token would make transformers warn about a missing mask.
            ids[i, size:] = row.ids[-1]
            weight[i, :size] = row.counts
        ids[len(self.rows) :] = ids[len(self.rows) - 1]
        return torch.from_numpy(ids), torch.from_numpy(weight)


@dataclass(frozen=True)
class BatchPlan:
    """How rows become batches.

    Attributes:
        tokens: Positions per batch that are aimed at.
        rows: Fixed number of rows per batch, instead.
        longest: Longest sequence the model takes, if known.
    """

    tokens: int
    rows: int | None = None
    longest: int | None = None

    def capacity(self, length: int) -> int:
        """Return the number of rows of a padded length in a full batch."""
        if self.rows is not None:
            return self.rows
        step = alignment(length)
        return max(1, self.tokens // (length * step) * step or self.tokens // length)

    def windows(self, rows: Iterable[TokenRow]) -> Iterator[list[TokenRow]]:
        """Yield the rows in groups that are sorted and batched together."""
        window: list[TokenRow] = []
        size = 0
        for row in rows:
            window.append(row)
            size += len(row.ids)
            if size >= max(WINDOW_TOKENS, 8 * self.tokens) or len(window) >= WINDOW_ROWS:
                yield window
                window, size = [], 0
        if window:
            yield window

    def batches(self, window: list[TokenRow]) -> list[Batch]:
        """Return the batches of a window, long rows first: they are the ones that may not fit."""
        classes: dict[int, list[TokenRow]] = {}
        for row in window:
            classes.setdefault(padded(len(row.ids), self.longest), []).append(row)
        found: list[Batch] = []
        for length in sorted(classes, reverse=True):
            members = classes[length]
            size = self.capacity(length)
            for start in range(0, len(members), size):
                found.append(Batch(length, tuple(members[start : start + size])))
        return found
