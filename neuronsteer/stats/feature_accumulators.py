"""Reading text by text: features of a codec, and reducers that count texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .accumulators import Current, Slot, Texts
from .reducers import Chunk, Reducer, Scratch
from .reducers.responses import Responses
from .reducers.texts import Texts as TextCount

# Numbers in one piece of a text: features are many, and nearly all of them are off.
_CPU_PIECE = 2**20
_GPU_PIECE = 2**26


class TextWatch:
    """What is read at one tap, one text after the other.

    Args:
        layer: Layer of the tap.
        width: Its number of neurons or features.
        slots: Reducers with their accumulators.
        texts: Accumulators of per-text means.
        values: Turns a reading `[tokens, …]` into the values `[tokens, width]`.
    """

    def __init__(
        self,
        layer: int,
        width: int,
        slots: list[tuple[Reducer, Slot]],
        texts: list[Texts],
        values: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.layer = layer
        self.width = width
        self.slots = slots
        self.texts = texts
        self.values = values

    def read(self, tensor: Tensor, current: Current, scratch: Scratch) -> None:
        """Fold every token of the batch into the stages."""
        weight = current.weight_on(tensor.device)
        shaped = tensor.reshape(*weight.shape, -1)
        device, layer, width = tensor.device, self.layer, self.width
        limit = _CPU_PIECE if device.type == "cpu" else _GPU_PIECE
        step = max(16, limit // width)
        stages = [(r, s.stage(device)[layer, :width]) for r, s in self.slots]
        means = torch.zeros(current.real, width, device=device) if self.texts else None
        for row in range(current.real):
            seen = torch.zeros(width, device=device)
            share = weight[row] / weight[row].sum().clamp(min=1)
            for start in range(0, shaped.shape[1], step):
                part = slice(start, start + step)
                kept = weight[row, part]
                if not bool(kept.any()):
                    continue
                piece = shaped[row, part]
                found = piece if self.values is None else self.values(piece)
                chunk = Chunk(found, kept, bool((kept == 1).all()), scratch)
                for reducer, stage in stages:
                    if isinstance(reducer, TextCount):
                        torch.maximum(seen, reducer.marks(found, kept), out=seen)
                    else:
                        reducer.observe(chunk, stage)
                if means is not None:
                    means[row] += Responses.rows(found[None], kept[None])[0] * share[part].sum()
            for reducer, stage in stages:
                if isinstance(reducer, TextCount):
                    stage.add_(seen)
        if means is not None:
            for texts in self.texts:
                texts.add(layer, means)
