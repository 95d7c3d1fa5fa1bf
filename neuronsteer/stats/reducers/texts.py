"""In how many texts a neuron was active at all: what rules about examples need."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from . import REDUCERS, Chunk, Reducer

BY_TEXT = "texts"


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


REDUCERS.register(BY_TEXT)(TextCount())
