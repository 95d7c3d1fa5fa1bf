"""Per-text mean responses: what methods that rank texts need."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from . import REDUCERS, Chunk, Reducer


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


REDUCERS.register("responses")(Responses())
