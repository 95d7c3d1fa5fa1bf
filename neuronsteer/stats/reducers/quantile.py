"""Quantiles from a histogram with logarithmic bins: mergeable, exact counts, stated error."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from . import REDUCERS, Chunk, Reducer

PER_OCTAVE = 4
LOWEST, HIGHEST = -10, 6  # powers of two between which values are told apart
_STEPS = (HIGHEST - LOWEST) * PER_OCTAVE


def edges(device: torch.device | None = None) -> Tensor:
    """Return the boundaries between bins, ascending, negative and positive."""
    powers = torch.arange(_STEPS + 1, dtype=torch.float64) / PER_OCTAVE + LOWEST
    positive = torch.exp2(powers)
    return torch.cat([-positive.flip(0), positive]).float().to(device)


BINS = 2 * (_STEPS + 1) + 1
RELATIVE_ERROR = 2 ** (0.5 / PER_OCTAVE) - 1


def centres() -> Tensor:
    """Return the value that stands for each bin: the geometric mean of its boundaries."""
    found = edges().double()
    inner = torch.sign(found[1:]) * (found[1:] * found[:-1]).abs().sqrt()
    inner[found[1:] * found[:-1] < 0] = 0.0
    return torch.cat([found[:1], inner, found[-1:]])


class Quantile(Reducer):
    """Histogram of the values, from which any quantile can be estimated.

    129 bins per neuron: four per power of two from 2**-10 to 2**6 on both sides of zero.
    """

    name = "quantile"
    error: ClassVar[str] = (
        "a quantile is within 9.1 % of the true one for magnitudes from 2**-10 to 2**6; smaller "
        "ones read as 0, larger ones as 64"
    )
    pending_dtype = torch.int32
    total_dtype = torch.int32
    entry_shape: ClassVar[tuple[int, ...]] = (BINS,)

    def __init__(self) -> None:
        self._edges: dict[torch.device, Tensor] = {}

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Count each value in its bin."""
        values = chunk.floats
        boundaries = self._edges.get(values.device)
        if boundaries is None:
            boundaries = self._edges[values.device] = edges(values.device)
        bins = torch.bucketize(values.contiguous(), boundaries, right=True)
        bins += torch.arange(values.shape[1], device=values.device) * BINS
        weight = chunk.weight.to(torch.int32)[:, None].expand_as(bins)
        flat = pending.view(-1) if pending.is_contiguous() else pending.reshape(-1)
        flat.scatter_add_(0, bins.flatten(), weight.flatten())


REDUCERS.register("quantile")(Quantile())


def estimate(histogram: Tensor, q: float) -> Tensor:
    """Return the `q` quantile of histograms `[..., BINS]`, NaN where they are empty."""
    below = histogram.long().cumsum(-1)
    total = below[..., -1:]
    rank = (q * (total - 1).clamp(min=0).double()).floor().long()
    index = (below <= rank).sum(-1).clamp(max=BINS - 1)
    found = centres()[index]
    return torch.where(total[..., 0] > 0, found, torch.nan).float()
