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
    stage_dtype = torch.float32
    total_dtype = torch.float32
    empty: ClassVar[float] = float("inf")

    def fold(self, scores: Tensor, stage: Tensor) -> None:
        """Lower the stage to the documents' minimum."""
        if len(scores):
            torch.minimum(stage, scores.amin(0).to(stage.dtype), out=stage)


class WorstRank(DocumentReducer):
    """Worst rank over the documents, among the units of a layer; 0 is the largest number.

    A unit is among the first k of every document exactly if its worst rank is below k, so that any
    k can be chosen afterwards. Ties go to the lower index.
    """

    merging = "max"
    error: ClassVar[str] = "exact ranks of float32 measurements"
    stage_dtype = torch.int32
    total_dtype = torch.int32
    empty: ClassVar[float] = -1

    def fold(self, scores: Tensor, stage: Tensor) -> None:
        """Raise the stage to the documents' worst rank."""
        if not len(scores):
            return
        order = scores.argsort(dim=1, descending=True, stable=True)
        places = torch.arange(scores.shape[1], dtype=stage.dtype, device=scores.device)
        ranks = torch.empty_like(order, dtype=stage.dtype)
        ranks.scatter_(1, order, places.expand_as(ranks))
        torch.maximum(stage, ranks.amax(0), out=stage)


class Moments(DocumentReducer):
    """Sums of the first four powers over the documents: mean, variance, skewness and kurtosis."""

    error: ClassVar[str] = "float64 sums of float32 measurements"
    tail: ClassVar[tuple[int, ...]] = (4,)

    def fold(self, scores: Tensor, stage: Tensor) -> None:
        """Add the powers of each document."""
        values = scores.double()
        square = values.square()
        powers = (values, square, square * values, square.square())
        for position, power in enumerate(powers):
            stage[..., position] += power.sum(0)


class Total(DocumentReducer):
    """Sum over the documents."""

    error: ClassVar[str] = "float64 sum of float32 measurements"

    def fold(self, scores: Tensor, stage: Tensor) -> None:
        """Add the documents' numbers."""
        stage.add_(scores.double().sum(0))


def _named(base: type[DocumentReducer], reducer: str, measured: str) -> DocumentReducer:
    return type(
        base.__name__, (base,), {"name": reducer, "meter": measured, "__doc__": base.__doc__}
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
