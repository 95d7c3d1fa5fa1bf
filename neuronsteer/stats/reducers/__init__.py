"""Reducers: what is kept of a neuron's values. One file per family, found by scanning.

A reducer sees the values of the counted tokens of one forward pass, chunk by chunk, and folds them
into a *stage*. Only when the whole forward pass has succeeded is the stage added to the *total*, so
that a batch that ran out of memory half-way leaves no trace. Totals of several processes, shards or
checkpoints are combined with `merge`, in any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...registry import Registry


class Scratch:
    """One float32 buffer per device, reused for every chunk."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, int], Tensor] = {}

    def take(self, like: Tensor, slot: int = 0) -> Tensor:
        """Return an uninitialised float32 tensor of the shape of `like`, on its device."""
        key = (like.device, slot)
        size = like.numel()
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key] = torch.empty(size, device=like.device)
        return buffer[:size].view(like.shape)

    def clear(self) -> None:
        """Give the memory back."""
        self._buffers.clear()


class Chunk:
    """Some tokens' values at one site of one layer.

    Attributes:
        values: `[tokens, width]` in the model's dtype.
        weight: `[tokens]` float32, 1 for tokens that count and 0 for all others.
        whole: Every token counts.
    """

    def __init__(self, values: Tensor, weight: Tensor, whole: bool, scratch: Scratch) -> None:
        self.values = values
        self.weight = weight
        self.whole = whole
        self._scratch = scratch
        self._floats: Tensor | None = None

    @property
    def floats(self) -> Tensor:
        """The values in float32; not to be written to."""
        if self.values.dtype == torch.float32:
            return self.values
        if self._floats is None:
            self._floats = self._scratch.take(self.values, 1).copy_(self.values)
        return self._floats

    def buffer(self) -> Tensor:
        """Return a float32 tensor of the values' shape to compute in."""
        return self._scratch.take(self.values)

    def total(self, buffer: Tensor) -> Tensor:
        """Return the sum over the counted tokens, `[width]` float32."""
        return self.weight @ buffer


class Reducer(ABC):
    """Base of all reducers. Stateless: the accumulators are plain tensors."""

    name: ClassVar[str] = ""
    #: How accumulators combine: "sum", "max" or "min".
    merging: ClassVar[str] = "sum"
    #: Whether the sign is enough, so that the pre-activation may be read instead of the activation.
    sign_only: ClassVar[bool] = False
    #: Whether it keeps something per text; then `rows` is called instead of `observe`.
    per_text: ClassVar[bool] = False
    #: The meter that gives it one number per document (see `meters/`); then `fold` is called.
    meter: ClassVar[str] = ""
    #: What the numbers are worth, for documentation: exactness or error.
    error: ClassVar[str] = "exact"
    stage_dtype: ClassVar[torch.dtype] = torch.float64
    total_dtype: ClassVar[torch.dtype] = torch.float64
    #: Size of what is kept per neuron; `()` is one number.
    tail: ClassVar[tuple[int, ...]] = ()
    #: Value of an accumulator that has seen nothing.
    empty: ClassVar[float] = 0

    @abstractmethod
    def observe(self, chunk: Chunk, stage: Tensor) -> None:
        """Fold a chunk into `stage` `[width, *tail]`, in place."""

    def start(self, shape: tuple[int, ...], device: torch.device, total: bool) -> Tensor:
        """Return accumulators `[*shape, *tail]` that have seen nothing."""
        dtype = self.total_dtype if total else self.stage_dtype
        return torch.full((*shape, *self.tail), self.empty, dtype=dtype, device=device)

    def merge(self, total: Tensor, other: Tensor) -> None:
        """Fold another accumulator, or a stage, into `total`, in place."""
        other = other.to(device=total.device, dtype=total.dtype)
        if self.merging == "max":
            torch.maximum(total, other, out=total)
        elif self.merging == "min":
            torch.minimum(total, other, out=total)
        else:
            total.add_(other)


class DocumentReducer(Reducer):
    """Base of reducers that are given one number per document and unit by a meter."""

    @abstractmethod
    def fold(self, scores: Tensor, stage: Tensor) -> None:
        """Fold `scores` `[documents, width]` into `stage` `[width, *tail]`, in place."""

    def observe(self, chunk: Chunk, stage: Tensor) -> None:
        """Fold every counted token as if it were a document of its own."""
        self.fold(chunk.floats[chunk.weight > 0], stage)


REDUCERS: Registry[Reducer] = Registry("reducer", "neuronsteer.stats.reducers")
