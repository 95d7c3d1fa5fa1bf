"""What is kept of numbers per document: accumulators that do not grow with their number."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from . import REDUCERS, DocumentReducer


class Least(DocumentReducer):
    """Smallest number over the documents: at least this much in every one of them."""

    merging = "min"
    error: ClassVar[str] = "exact minimum of float32 measurements"
    pending_dtype = torch.float32
    total_dtype = torch.float32
    empty: ClassVar[float] = float("inf")

    def fold(self, scores: Tensor, pending: Tensor) -> None:
        """Lower what is pending to the documents' minimum."""
        if len(scores):
            torch.minimum(pending, scores.amin(0).to(pending.dtype), out=pending)


class WorstRank(DocumentReducer):
    """Worst rank over the documents, among the units of a layer; 0 is the largest number.

    A unit is among the first k of every document exactly if its worst rank is below k, so that any
    k can be chosen afterwards. Ties go to the lower index.
    """

    merging = "max"
    error: ClassVar[str] = "exact ranks of float32 measurements"
    pending_dtype = torch.int32
    total_dtype = torch.int32
    empty: ClassVar[float] = -1

    def fold(self, scores: Tensor, pending: Tensor) -> None:
        """Raise what is pending to the documents' worst rank."""
        if not len(scores):
            return
        order = scores.argsort(dim=1, descending=True, stable=True)
        positions = torch.arange(scores.shape[1], dtype=pending.dtype, device=scores.device)
        ranks = torch.empty_like(order, dtype=pending.dtype)
        ranks.scatter_(1, order, positions.expand_as(ranks))
        torch.maximum(pending, ranks.amax(0), out=pending)


class Moments(DocumentReducer):
    """Sums of the first four powers over the documents: mean, variance, skewness and kurtosis."""

    error: ClassVar[str] = "float64 sums of float32 measurements"
    entry_shape: ClassVar[tuple[int, ...]] = (4,)

    def fold(self, scores: Tensor, pending: Tensor) -> None:
        """Add the powers of each document."""
        values = scores.double()
        square = values.square()
        powers = (values, square, square * values, square.square())
        for position, power in enumerate(powers):
            pending[..., position] += power.sum(0)


class Total(DocumentReducer):
    """Sum over the documents."""

    error: ClassVar[str] = "float64 sum of float32 measurements"

    def fold(self, scores: Tensor, pending: Tensor) -> None:
        """Add the documents' numbers."""
        pending.add_(scores.double().sum(0))


def _named(base: type[DocumentReducer], reducer: str, measured: str) -> DocumentReducer:
    return type(
        base.__name__,
        (base,),
        {"name": reducer, "document_measure": measured, "__doc__": base.__doc__},
    )()


for _reducer in (
    _named(Least, "importance_min", "importance"),
    _named(WorstRank, "importance_rank", "importance"),
    _named(Least, "released_min", "importance_released"),
    _named(WorstRank, "released_rank", "importance_released"),
    _named(Total, "attribution", "attribution"),
    _named(Moments, "relevance_moments", "relevance"),
    _named(Moments, "row_gradient_moments", "row_gradient"),
):
    REDUCERS.register(_reducer.name)(_reducer)
