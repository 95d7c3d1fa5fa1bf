"""A projection of which some rows or columns are trained, beside frozen weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import LayoutError, ParameterError
from ..models.modules import in_size, out_size
from .units import COLUMNS, ROWS


class Partial(nn.Module):
    """A frozen projection plus a trained change of some of its rows or columns.

    The change starts at zero, so that nothing is different until training. Every output and input
    that does not belong to it is computed by the frozen projection alone, bit for bit.

    Args:
        base_layer: The projection.
        kind: "rows" or "columns".
        index: Which ones.
    """

    index: Tensor

    def __init__(self, base_layer: nn.Module, kind: str, index: Tensor) -> None:
        super().__init__()
        outputs, inputs = out_size(base_layer), in_size(base_layer)
        if outputs is None or inputs is None:
            raise LayoutError(
                f"{type(base_layer).__name__} has no size (in_features, out_features), "
                f"so its {kind} cannot be trained separately."
            )
        self.base_layer = base_layer
        self.kind = kind
        tensors = [p for p in (*base_layer.parameters(), *base_layer.buffers()) if not p.is_meta]
        device = tensors[0].device if tensors else torch.device("cpu")
        self.register_buffer("index", index.to(device), persistent=False)
        # Float32, because the steps of fine-tuning are lost in the rounding of half precision.
        size = (len(index), inputs if kind == ROWS else outputs)
        self.delta = nn.Parameter(torch.zeros(size, dtype=torch.float32, device=device))

    @property
    def weight(self) -> Any:
        """The frozen weight, for code that reads it there."""
        return self.base_layer.weight

    @property
    def bias(self) -> Any:
        """The projection's bias, for code that reads it there."""
        return self.base_layer.bias

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the projection and add what the change adds."""
        out: Tensor = self.base_layer(x, *args, **kwargs)
        delta = self.delta.to(x.dtype)
        if self.kind == COLUMNS:
            return out + (x.index_select(-1, self.index) @ delta).to(out.dtype)
        return out.index_add(-1, self.index, (x @ delta.T).to(out.dtype))

    @torch.no_grad()
    def merge(self) -> None:
        """Add the change to the projection's weight; other rows and columns keep their bits.

        Raises:
            ParameterError: If the weight is quantised or not there.
        """
        matrix = matrix_of(self.base_layer)
        where: Any = (slice(None), self.index) if self.kind == COLUMNS else self.index
        delta = self.delta.T if self.kind == COLUMNS else self.delta
        changed = matrix[where].float() + delta.to(matrix.device)
        matrix[where] = changed.to(matrix.dtype)


def matrix_of(module: nn.Module) -> Tensor:
    """Return a view `[outputs, inputs]` of a projection's weight.

    Raises:
        ParameterError: If it is quantised, offloaded, or not a matrix.
    """
    weight: Any = getattr(module, "weight", None)
    plain = type(module) in (nn.Linear, Conv1D) and type(weight) in (nn.Parameter, Tensor)
    if not plain or not weight.is_floating_point() or weight.element_size() < 2 or weight.is_meta:
        tensor = isinstance(weight, Tensor)
        found = f"{weight.dtype} on {weight.device}" if tensor else "no weight of its own"
        raise ParameterError(
            f"A change cannot be merged into {type(module).__name__} ({found}): the weight is "
            f"quantised, offloaded or wrapped by an adapter. Load the model in bfloat16 or float32 "
            f"and apply the saved enhancement to it, or keep it unmerged."
        )
    found = weight.data
    return found.T if type(module) is Conv1D else found
