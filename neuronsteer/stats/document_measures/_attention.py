"""Reading queries and keys where they meet, through transformers' attention interface."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...errors import LayoutError

NAME = "neuronsteer_observed"


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """What one attention was called with.

    Attributes:
        query: `[rows, heads, length, size]`.
        key: `[rows, groups, length, size]`.
        value: `[rows, groups, length, size]`.
        mask: `[rows or 1, heads or 1, length, length]`, added to the scores.
        scaling: What scores are multiplied with.
        softcap: Limit of the scores, if there is one.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor
    scaling: float
    softcap: float | None

    def bias(self, texts: int, heads: slice) -> Tensor:
        """Return the mask of some texts and heads, `[texts, heads or 1, length, length]`."""
        found = self.mask if self.mask.shape[1] == 1 else self.mask[:, heads]
        return found[:texts].expand(texts, -1, -1, -1).float()

    def weights(self, raw: Tensor, bias: Tensor) -> Tensor:
        """Return attention weights for scaled scores, in float32."""
        if self.softcap is not None:
            raw = self.softcap * torch.tanh(raw / self.softcap)
        return (raw + bias).softmax(-1)


_CALLS: dict[nn.Module, list[Callable[[AttentionInputs], None]]] = {}


@contextmanager
def attention_inputs(
    root: Any, calls: dict[nn.Module, Callable[[AttentionInputs], None]]
) -> Generator[None, None, None]:
    """Call each function with what its attention module is called with, inside the block.

    The model runs plain attention meanwhile, whatever kernel it was loaded with. Blocks may be
    nested.
    """
    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
    before = root.config._attn_implementation
    try:
        if before != NAME:
            root.set_attn_implementation(NAME)
        for module, call in calls.items():
            _CALLS.setdefault(module, []).append(call)
        yield
    finally:
        for module, call in calls.items():
            found = _CALLS.get(module, [])
            if call in found:
                found.remove(call)
            if not found:
                _CALLS.pop(module, None)
        if before != NAME:
            root.set_attn_implementation(before)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001 - off in eval mode
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if s_aux is not None:
        raise LayoutError(
            f"{type(module).__name__} has attention sinks, which are not measured. Measure "
            f"'mlp.neuron', 'attn.v' or 'attn.o'."
        )
    length = query.shape[2]
    if attention_mask is None:
        shape = (length, length)
        attention_mask = torch.full(shape, -torch.inf, device=query.device).triu(1)[None, None]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    inputs = AttentionInputs(query, key, value, attention_mask[..., :length], scale, softcap)
    repeats = query.shape[1] // key.shape[1]
    keys, values = (each.repeat_interleave(repeats, 1) for each in (key, value))
    raw = (query @ keys.transpose(-1, -2)).float() * scale
    weights = inputs.weights(raw, attention_mask[..., :length].float()).to(value.dtype)
    for call in _CALLS.get(module, ()):
        call(inputs)
    return (weights @ values).transpose(1, 2).contiguous(), None
