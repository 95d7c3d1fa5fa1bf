"""What is kept text by text: mean responses, how many texts a neuron was active in, last tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from . import REDUCERS, Chunk, Reducer

BY_TEXT = "texts"


class Responses(Reducer):
    """Mean over the counted tokens of each text; one row of numbers per text is kept."""

    name = "responses"
    per_text = True
    error: ClassVar[str] = "float32"
    pending_dtype = torch.float32
    total_dtype = torch.float32

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Add the chunk's sum to the text's row; `rows` is what collecting calls."""
        pending.add_(chunk.total(chunk.floats))

    @staticmethod
    def rows(values: Tensor, weight: Tensor) -> Tensor:
        """Return means `[texts, width]` of `[texts, length, width]` with `[texts, length]`."""
        share = weight / weight.sum(1, keepdim=True).clamp(min=1)
        return torch.bmm(share[:, None], values.float())[:, 0]


class TextCount(Reducer):
    """Number of texts with a value above 0 at some counted token."""

    name = BY_TEXT
    error: ClassVar[str] = "exact integers"
    pending_dtype = torch.float32
    total_dtype = torch.int64

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Raise what is pending to 1 where a token of the chunk, all of one text, is positive."""
        torch.maximum(pending, self.marks(chunk.values, chunk.weight), out=pending)

    @staticmethod
    def marks(values: Tensor, weight: Tensor) -> Tensor:
        """Return 1 for every neuron that is positive at a counted token of `[tokens, width]`."""
        return ((values > 0) & (weight > 0)[:, None]).any(0).float()


class Last(Reducer):
    """Sum, over the texts, of the value at the last counted token: where an answer would begin."""

    name = "last"
    last_only = True
    error: ClassVar[str] = "float32 inside a batch of texts, float64 beyond"

    def observe(self, chunk: Chunk, pending: Tensor) -> None:
        """Add the sum of a chunk of last tokens."""
        pending.add_(chunk.total(chunk.floats))


for _reducer in (Responses(), TextCount(), Last()):
    REDUCERS.register(_reducer.name)(_reducer)
