"""Reducers: what is kept of a neuron's values. One file per family, found by scanning.

A reducer sees the values of the counted tokens of one forward pass, chunk by chunk, and folds them
into what is *pending*. Only when the whole batch has run is that added to the *total*, so that one
that ran out of memory or was interrupted half-way leaves no trace. Totals of several processes,
shards or checkpoints are combined with `merge`, in any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...registry import Registry


class Scratch:
    """Float32 buffers on each device, reused for every chunk."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, int], Tensor] = {}

    def take(self, like: Tensor, number: int = 0) -> Tensor:
        """Return an uninitialised float32 tensor of the shape of `like`, on its device.

        Args:
            like: A tensor.
            number: Which buffer: one with another number is not overwritten.
        """
        key = (like.device, number)
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
        all_count: Every token counts.
    """

    def __init__(self, values: Tensor, weight: Tensor, all_count: bool, scratch: Scratch) -> None:
        self.values = values
        self.weight = weight
        self.all_count = all_count
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
    #: Whether it is shown the last counted token of each text only.
    last_only: ClassVar[bool] = False
    #: The measure that gives it one number per document (see `document_measures/`); then `fold`
    #: is called.
    document_measure: ClassVar[str] = ""
    #: How exact the numbers are, for documentation.
    error: ClassVar[str] = "exact"
    pending_dtype: ClassVar[torch.dtype] = torch.float64
    total_dtype: ClassVar[torch.dtype] = torch.float64
    #: Size of what is kept per neuron; `()` is one number.
    entry_shape: ClassVar[tuple[int, ...]] = ()
    #: Value of an accumulator that has seen nothing.
    empty: ClassVar[float] = 0

    @abstractmethod
    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Fold a chunk into `pending` `[width, *entry_shape]`, in place."""

    def start(self, shape: tuple[int, ...], device: torch.device, total: bool) -> Tensor:
        """Return accumulators `[*shape, *entry_shape]` that have seen nothing."""
        dtype = self.total_dtype if total else self.pending_dtype
        return torch.full((*shape, *self.entry_shape), self.empty, dtype=dtype, device=device)

    def merge(self, total: Tensor, other: Tensor) -> None:
        """Fold another accumulator, or what is pending, into `total`, in place."""
        other = other.to(device=total.device, dtype=total.dtype)
        if self.merging == "max":
            torch.maximum(total, other, out=total)
        elif self.merging == "min":
            torch.minimum(total, other, out=total)
        else:
            total.add_(other)


class DocumentReducer(Reducer):
    """Base of reducers that are given one number per document and unit by a document measure."""

    @abstractmethod
    def fold(self, scores: Tensor, pending: Tensor) -> None:
        """Fold `scores` `[documents, width]` into `pending` `[width, *entry_shape]`, in place."""

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Fold every counted token as if it were a document of its own."""
        self.fold(chunk.floats[chunk.weight > 0], pending)


REDUCERS: Registry[Reducer] = Registry("reducer", "neuronsteer.stats.reducers")
