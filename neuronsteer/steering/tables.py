"""What steering does to one layer, in numbers: sparse rows, and the tensors made of them.

A row is kept sparse (the touched columns) and made dense in the dtype and on the device of the
activations it meets, so that a model spread over devices, offloaded or quantised is steered without
ever looking at its weights.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ParameterError


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


class ValueTooLargeError(ParameterError):
    """A value does not fit the dtype of the model's activations."""


#: `(scale, shift, gain, dtype, device)` of one row in one layer, all of the layer's width.
View = tuple[Tensor, Tensor, "Tensor | None", torch.dtype, torch.device]


class Beginning(NamedTuple):
    """How much more strongly a row acts in the first tokens after a switch to it."""

    strength: float
    tokens: int


class Row:
    """One steering state in all layers.

    Whoever holds a `Row` may use it: its tensors never change, and its number in the tables is
    given to another state only when nobody holds it any more.

    Attributes:
        label: What the state steers to; `None` if it only takes something away.
        number: Its row in the tables.
        layers: What it does, per layer hook.
        beginning: How a switch to it begins; `None`: as it goes on.
        views: The same as dense tensors: `None` where nothing is changed, `()` until needed.
    """

    __slots__ = ("__weakref__", "beginning", "label", "layers", "number", "views")

    def __init__(
        self,
        label: str | None,
        number: int,
        layers: Sequence[SparseRow | None],
        beginning: Beginning | None = None,
    ) -> None:
        self.label = label
        self.number = number
        self.layers = tuple(layers)
        self.beginning = beginning
        self.views: list[View | tuple[()] | None] = [
            None if layer is None else () for layer in layers
        ]


class RowNumbers:
    """Gives every row a number, and numbers that are free again to new rows."""

    def __init__(self) -> None:
        self._next = 1  # row 0 leaves activations alone
        self._free: deque[int] = deque()
        self._live: dict[int, weakref.ref[Row]] = {}

    def make(
        self,
        label: str | None,
        layers: Sequence[SparseRow | None],
        beginning: Beginning | None = None,
    ) -> Row:
        """Return a new row; the caller holds the lock under which tables are written."""
        try:
            number = self._free.popleft()
        except IndexError:
            number, self._next = self._next, self._next + 1
        row = Row(label, number, layers, beginning)
        free = self._free
        # Only noted: a row may end in any thread, in the middle of anything.
        self._live[number] = weakref.ref(row, lambda _: free.append(number))
        return row

    def live(self) -> list[Row]:
        """Return the rows that somebody holds."""
        return [row for row in (each() for each in list(self._live.values())) if row is not None]


class Table:
    """The rows of one layer side by side `[capacity, width]`, for one device and dtype.

    It is read by compiled graphs, and where every position has a row of its own. A number is
    written before anybody can hold its row, so that a row that is read never changes.
    """

    def __init__(self, capacity: int, width: int, like: Tensor, gain: bool) -> None:
        # Inference tensors could not be written again when a state is added later.
        with torch.inference_mode(False), torch.no_grad():
            self.scale = torch.ones(capacity, width, dtype=like.dtype, device=like.device)
            self.shift = torch.zeros_like(self.scale)
            self.gain = torch.zeros_like(self.scale) if gain else None

    @property
    def capacity(self) -> int:
        """How many rows there are, row 0 included."""
        return int(self.scale.shape[0])

    def write(self, number: int, sparse: SparseRow | None) -> None:
        """Write one row; `None` leaves activations alone."""
        with torch.inference_mode(False), torch.no_grad():
            for table, empty in ((self.scale, 1), (self.shift, 0), (self.gain, 0)):
                if table is not None:
                    table[number].fill_(empty)
            if sparse is None:
                return
            columns = sparse.columns.to(self.scale.device)
            self.scale[number, columns] = sparse.scale.to(self.scale)
            self.shift[number, columns] = sparse.shift.to(self.shift)
            if sparse.gain is not None and self.gain is not None:
                self.gain[number, columns] = sparse.gain.to(self.gain)

    def enlarged(self, capacity: int, gain: bool) -> Table:
        """Return a larger table with the same rows; readers of this one are not disturbed."""
        made = Table(capacity, int(self.scale.shape[1]), self.scale, gain or self.gain is not None)
        with torch.inference_mode(False), torch.no_grad():
            made.scale[: self.capacity] = self.scale
            made.shift[: self.capacity] = self.shift
            if self.gain is not None and made.gain is not None:
                made.gain[: self.capacity] = self.gain
        return made


def view_of(sparse: SparseRow, width: int, like: Tensor) -> View:
    """Return one row as dense tensors that nobody ever changes."""
    table = Table(1, width, like, sparse.gain is not None)
    table.write(0, sparse)
    gain = None if table.gain is None else table.gain[0]
    return table.scale[0], table.shift[0], gain, like.dtype, table.scale.device


def check_range(sparse: SparseRow, dtype: torch.dtype, label: str | None, layer: int) -> None:
    """Raise if a value is too large for `dtype`: it would become infinite, and the text noise.

    Raises:
        ValueTooLargeError: With the label, the layer and the value.
    """
    limit = torch.finfo(dtype).max
    for values in _parts(sparse):
        largest = float(values.abs().max()) if len(values) else 0.0
        if not largest <= limit:  # also for nan
            raise ValueTooLargeError(
                f"Steering to {label!r} changes neurons of layer {layer} by {largest:.4g}, and "
                f"{str(dtype).removeprefix('torch.')} ends at {limit:.4g}. Use a smaller strength "
                "or factor, or load the model in bfloat16 or float32."
            )


def _parts(sparse: SparseRow) -> Iterable[Tensor]:
    return (part for part in (sparse.scale, sparse.shift, sparse.gain) if part is not None)
