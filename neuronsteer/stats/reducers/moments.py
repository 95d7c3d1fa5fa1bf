"""How often positive, sum, sum of squares, largest value."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from . import REDUCERS, Chunk, Reducer


class Count(Reducer):
    """Number of tokens with a value above 0."""

    name = "count"
    sign_only = True
    error: ClassVar[str] = "exact integers"
    # Zeros and ones add up exactly in float32 below 2**24, far more tokens than a forward holds.
    pending_dtype = torch.float32
    total_dtype = torch.int64

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Add a product of the token weights with a matrix of zeros and ones."""
        pending.add_(chunk.total(torch.gt(chunk.values, 0, out=chunk.buffer())))


class Sum(Reducer):
    """Sum of the values."""

    name = "sum"
    error: ClassVar[str] = "float32 inside a chunk of tokens, float64 beyond"

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Add the chunk's sum."""
        pending.add_(chunk.total(chunk.floats))


class SumOfSquares(Reducer):
    """Sum of the squared values."""

    name = "sumsq"
    error: ClassVar[str] = "float32 inside a chunk of tokens, float64 beyond"

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Add the chunk's sum of squares."""
        pending.add_(chunk.total(torch.mul(chunk.floats, chunk.floats, out=chunk.buffer())))


class Max(Reducer):
    """Largest value."""

    name = "max"
    merging = "max"
    error: ClassVar[str] = "exact float32"
    pending_dtype = torch.float32
    total_dtype = torch.float32
    empty: ClassVar[float] = float("-inf")

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Raise what is pending to the chunk's maximum."""
        values = chunk.values
        if not chunk.all_count:
            keep = chunk.weight[:, None] > 0
            values = torch.where(keep, values, torch.full_like(values[:1, :1], float("-inf")))
        torch.maximum(pending, values.amax(0).to(pending.dtype), out=pending)


for _reducer in (Count(), Sum(), SumOfSquares(), Max()):
    REDUCERS.register(_reducer.name)(_reducer)
