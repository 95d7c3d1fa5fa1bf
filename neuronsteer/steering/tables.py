"""The affine rows of one layer: row 0 leaves activations alone, other rows are steering states.

A row is kept sparse (the touched columns) and written into dense `scale` and `shift` tables in the
dtype and on the device of the activations they meet, so that a model spread over devices, offloaded
or quantised is steered without ever looking at its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import HookError


@dataclass(frozen=True)
class SparseRow:
    """What one steering state does to one layer: `a -> a * scale + shift + u * gain`.

    `gain` is only there when the gate activation itself is changed (`mlp.act`): `u` is the up
    projection's output, which the changed gate is multiplied with.
    """

    columns: Tensor
    scale: Tensor
    shift: Tensor
    gain: Tensor | None = None


@dataclass
class Dense:
    """The tables `[capacity, width]` for one device and dtype, and their rows as views."""

    scale: Tensor
    shift: Tensor
    gain: Tensor | None
    #: Per row: `(scale, shift, gain)` views, or `None` where the row leaves this layer alone.
    rows: list[tuple[Tensor, Tensor, Tensor | None] | None]

    def __post_init__(self) -> None:
        # Asked for in every forward pass of every layer: kept, because a tensor makes them anew.
        self.device, self.dtype = self.scale.device, self.scale.dtype


class Tables:
    """All rows of one layer, on every device and in every dtype that has been met.

    Args:
        width: Last dimension of the activations.
        capacity: Number of rows that fit without moving the tables, row 0 included.
    """

    def __init__(self, width: int, capacity: int) -> None:
        self.width = width
        self.capacity = capacity
        self._sparse: dict[int, SparseRow] = {}
        self._dense: dict[tuple[torch.device, torch.dtype], Dense] = {}

    @property
    def has_gain(self) -> bool:
        """Whether some row changes the gate activation by more than a factor."""
        return any(row.gain is not None for row in self._sparse.values())

    def touches(self, row: int) -> bool:
        """Return whether `row` changes anything in this layer."""
        return row in self._sparse

    def define(self, row: int, sparse: SparseRow | None) -> None:
        """Write `row`; `None` makes it leave this layer alone."""
        if row >= self.capacity:
            self.capacity = max(row + 1, 2 * self.capacity)
            for dense in self._dense.values():
                self._grow(dense)
        if sparse is None:
            self._sparse.pop(row, None)
        else:
            self._sparse[row] = sparse
        for dense in list(self._dense.values()):
            self._write(dense, row)

    def on(self, tensor: Tensor, width: int | None = None) -> Dense:
        """Return the tables for activations like `tensor`.

        Args:
            tensor: The activations; only their device, dtype and last dimension are looked at.
            width: What their last dimension must be; `None` means the width of the tables.
        """
        dense = self._dense.get((tensor.device, tensor.dtype))
        return dense if dense is not None else self._build(tensor, width or self.width)

    def _build(self, tensor: Tensor, width: int) -> Dense:
        if tensor.shape[-1] != width:
            raise HookError(
                f"The steering tables are {width} wide but the activations are "
                f"{tensor.shape[-1]} wide. A model sharded by tensor parallelism, or a layer "
                "replaced after attach, cannot be steered this way; attach to the unsharded model."
            )
        # Inference tensors could not be written again when a state is added later.
        with torch.inference_mode(False), torch.no_grad():
            size = (self.capacity, self.width)
            dense = Dense(
                scale=tensor.new_ones(size),
                shift=tensor.new_zeros(size),
                gain=tensor.new_zeros(size) if self.has_gain else None,
                rows=[None] * self.capacity,
            )
            for row in self._sparse:
                self._write(dense, row, fresh=True)
        self._dense[(tensor.device, tensor.dtype)] = dense
        return dense

    def _grow(self, dense: Dense) -> None:
        # The same object gets new tensors: compiled graphs hold on to it (and recompile once).
        with torch.inference_mode(False), torch.no_grad():
            more = self.capacity - dense.scale.shape[0]
            dense.scale = torch.cat([dense.scale, dense.scale.new_ones(more, self.width)])
            dense.shift = torch.cat([dense.shift, dense.shift.new_zeros(more, self.width)])
            if dense.gain is not None:
                dense.gain = torch.cat([dense.gain, dense.gain.new_zeros(more, self.width)])
            dense.rows = [None] * self.capacity
            for row in self._sparse:
                self._write(dense, row)

    def _write(self, dense: Dense, row: int, fresh: bool = False) -> None:
        sparse = self._sparse.get(row)
        with torch.inference_mode(False), torch.no_grad():
            if not fresh:
                dense.scale[row].fill_(1)
                dense.shift[row].zero_()
            if sparse is not None and sparse.gain is not None and dense.gain is None:
                dense.gain = torch.zeros_like(dense.shift)
                dense.rows = [
                    view and (view[0], view[1], dense.gain[i]) for i, view in enumerate(dense.rows)
                ]
            if dense.gain is not None and not fresh:
                dense.gain[row].zero_()
            if sparse is None:
                dense.rows[row] = None
                return
            columns = sparse.columns.to(dense.scale.device)
            dense.scale[row, columns] = sparse.scale.to(dense.scale)
            dense.shift[row, columns] = sparse.shift.to(dense.shift)
            gain = None
            if sparse.gain is not None and dense.gain is not None:
                dense.gain[row, columns] = sparse.gain.to(dense.gain)
                gain = dense.gain[row]
            dense.rows[row] = (dense.scale[row], dense.shift[row], gain)
