"""What one label adds up to: readers fold each batch's values into accumulators.

What the forward passes of a batch add is kept apart (*pending*) until all of them have succeeded:
then it is committed to the totals, otherwise it is discarded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models import HookPoint
from .reducers import Chunk, Reducer, Scratch
from .reducers.per_text import Responses, TextCount

_CPU = torch.device("cpu")

# A chunk of values should stay in a CPU core's cache; a GPU wants few launches.
_CPU_CHUNK = 2**17
_GPU_CHUNK = 2**26
# Features are many, and nearly all of them are off.
_CPU_TEXT_CHUNK = 2**20


class Accumulator:
    """The numbers of one need, one set per device that has some of the layers.

    Args:
        reducer: What is accumulated.
        layers: Number of layers.
        width: Size of the largest layer.
    """

    def __init__(self, reducer: Reducer, layers: int, width: int) -> None:
        self.reducer = reducer
        self.shape = (layers, width)
        self._pending: dict[torch.device, Tensor] = {}
        self._totals: dict[torch.device, Tensor] = {}
        self._touched: set[torch.device] = set()

    def pending(self, device: torch.device) -> Tensor:
        """Return what the running batch adds on a device, to be written to."""
        if device not in self._pending:
            self._pending[device] = self.reducer.start(self.shape, device, total=False)
        if device not in self._totals:
            self._totals[device] = self.reducer.start(self.shape, device, total=True)
        self._touched.add(device)
        return self._pending[device]

    def has_pending(self, layers: list[int]) -> bool:
        """Return whether the running batch added something in every given layer."""
        found = [pending[layers].flatten(1).any(1).cpu() for pending in self._pending.values()]
        return bool(found) and bool(torch.stack(found).any(0).all())

    def commit(self) -> None:
        """Add what is pending to the totals."""
        for device in self._touched:
            self.reducer.merge(self._totals[device], self._pending[device])
        self.discard()

    def discard(self) -> None:
        """Forget what is pending."""
        for device in self._touched:
            self._pending[device].fill_(self.reducer.empty)
        self._touched.clear()

    def total(self) -> Tensor:
        """Return the total over devices, on the CPU; a copy."""
        found = self.reducer.start(self.shape, _CPU, total=True)
        for total in self._totals.values():
            self.reducer.merge(found, total)
        return found

    def load(self, total: Tensor | None) -> None:
        """Start again from a total, or from nothing."""
        self.discard()
        self._totals.clear()
        if total is not None:
            self._totals[_CPU] = total.clone()


class TextRows:
    """One row of numbers per text, in the order in which batches ran.

    Args:
        layers: Number of layers.
        width: Size of the largest layer.
    """

    def __init__(self, layers: int, width: int) -> None:
        self.layers = layers
        self.width = width
        self._done: list[Tensor] = []
        # Layer → one tensor per forward pass: a batch that does not fit runs in pieces.
        self._pending: dict[int, list[Tensor]] = {}

    def add(self, layer: int, rows: Tensor) -> None:
        """Take a forward pass's `[texts, layer width]` of one layer."""
        self._pending.setdefault(layer, []).append(rows.cpu())

    def commit(self) -> None:
        """Keep the running batch."""
        if self._pending:
            layers = {layer: torch.cat(parts) for layer, parts in self._pending.items()}
            count = next(iter(layers.values())).shape[0]
            found = torch.zeros(count, self.layers, self.width)
            for layer, rows in layers.items():
                found[:, layer, : rows.shape[1]] = rows
            self._done.append(found)
        self.discard()

    def discard(self) -> None:
        """Forget the running batch."""
        self._pending.clear()

    def total(self) -> Tensor:
        """Return `[texts, layers, width]`."""
        if len(self._done) != 1:
            empty = [torch.empty(0, self.layers, self.width)]
            self._done = [torch.cat(self._done or empty)]
        return self._done[0]

    def load(self, total: Tensor | None) -> None:
        """Start again from given rows, or from nothing."""
        self.discard()
        self._done = [] if total is None else [total]


@dataclass
class CurrentBatch:
    """The batch that is being run.

    Attributes:
        weight: `[rows, length]` float32: 1 for tokens that count.
        ids: `[rows, length]` int64: the tokens.
        texts: Number of rows that are texts; the others only fill the batch.
        all_count: Every token counts.
    """

    weight: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    ids: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))
    texts: int = 0
    all_count: bool = False
    _copies: dict[torch.device, Tensor] = field(default_factory=dict)
    _last: dict[torch.device, Tensor] = field(default_factory=dict)

    def weight_on(self, device: torch.device) -> Tensor:
        """Return the weights on a device."""
        found = self._copies.get(device)
        if found is None:
            found = self._copies[device] = self.weight.to(device, non_blocking=True)
        return found

    def last_tokens(self, device: torch.device) -> Tensor:
        """Return the position of each text's last counted token, `[texts]`, on a device."""
        found = self._last.get(device)
        if found is None:
            weight = self.weight[: self.texts]
            # Every text has a token that counts, so the largest is that of one.
            places = (weight > 0) * torch.arange(1, weight.shape[1] + 1)
            found = self._last[device] = places.argmax(1).to(device, non_blocking=True)
        return found


class ActivationReader:
    """What is read at one hook point.

    Args:
        layer: Layer of the hook point.
        offset: Index of its first neuron among the layer's.
        accumulators: Where the values are added up.
        text_rows: Where per-text means of the values are kept.
        activation: Turns the reading into the values; `None` if it is the values.
    """

    def __init__(
        self,
        layer: int,
        offset: int,
        accumulators: list[Accumulator],
        text_rows: list[TextRows],
        activation: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.layer = layer
        self.offset = offset
        self.accumulators = accumulators
        self.of_last = [each for each in accumulators if each.reducer.last_only]
        every = [each for each in accumulators if not each.reducer.last_only]
        # The sign of the reading is that of the value, which then need not be computed.
        self.of_readings = [each for each in every if each.reducer.sign_only]
        self.of_values = [each for each in every if not each.reducer.sign_only]
        self.text_rows = text_rows
        self.activation = activation

    def read(self, tensor: Tensor, batch: CurrentBatch, scratch: Scratch) -> None:
        """Fold the neurons `[..., width]` of every token of the batch into what is pending."""
        weight = batch.weight_on(tensor.device)
        flat = tensor.reshape(-1, tensor.shape[-1])
        self.fold(flat, weight.reshape(-1), batch.all_count, self.offset, scratch)
        if self.of_last:
            self._read_last(tensor.reshape(*weight.shape, -1), batch, scratch)
        if self.text_rows:
            values = tensor if self.activation is None else self.activation(tensor)
            shaped = values.reshape(*weight.shape, -1)[: batch.texts]
            rows = Responses.rows(shaped, weight[: batch.texts])
            for each in self.text_rows:
                each.add(self.layer, rows)

    def _read_last(self, shaped: Tensor, batch: CurrentBatch, scratch: Scratch) -> None:
        """Fold the last counted token of every text of `[rows, length, width]`."""
        device = shaped.device
        last = shaped[torch.arange(batch.texts, device=device), batch.last_tokens(device)]
        values = last if self.activation is None else self.activation(last)
        chunk = Chunk(values, torch.ones(len(values), device=device), True, scratch)
        part = slice(self.offset, self.offset + values.shape[1])
        for each in self.of_last:
            each.reducer.observe(chunk, each.pending(device)[self.layer, part])

    def fold(
        self, flat: Tensor, weight: Tensor, all_count: bool, offset: int, scratch: Scratch
    ) -> None:
        """Fold `[tokens, width]` into what is pending, in chunks."""
        part = slice(offset, offset + flat.shape[1])
        device, layer = flat.device, self.layer
        of_readings, of_values = (
            [(each.reducer.observe, each.pending(device)[layer, part]) for each in accumulators]
            for accumulators in (self.of_readings, self.of_values)
        )
        limit = _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK
        step = max(16, limit // flat.shape[1])
        for start in range(0, flat.shape[0], step):
            piece, counts = flat[start : start + step], weight[start : start + step]
            chunk = Chunk(piece, counts, all_count, scratch)
            for observe, pending in of_readings:
                observe(chunk, pending)
            if of_values:
                if self.activation is not None:
                    chunk = Chunk(self.activation(piece), counts, all_count, scratch)
                for observe, pending in of_values:
                    observe(chunk, pending)


class PerTextReader:
    """What is read at one hook point, one text after the other.

    For features of a codec, which would not fit for a whole batch, and for reducers that count
    texts.

    Args:
        layer: Layer of the hook point.
        width: Its number of neurons or features.
        accumulators: Where the values are added up.
        text_rows: Where per-text means of the values are kept.
        values: Turns a reading `[tokens, …]` into the values `[tokens, width]`.
    """

    def __init__(
        self,
        layer: int,
        width: int,
        accumulators: list[Accumulator],
        text_rows: list[TextRows],
        values: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.layer = layer
        self.width = width
        self.accumulators = accumulators
        self.text_rows = text_rows
        self.values = values

    def read(self, tensor: Tensor, batch: CurrentBatch, scratch: Scratch) -> None:
        """Fold every token of the batch into what is pending."""
        weight = batch.weight_on(tensor.device)
        shaped = tensor.reshape(*weight.shape, -1)
        device, layer, width = tensor.device, self.layer, self.width
        limit = _CPU_TEXT_CHUNK if device.type == "cpu" else _GPU_CHUNK
        step = max(16, limit // width)
        targets = [(a.reducer, a.pending(device)[layer, :width]) for a in self.accumulators]
        means = torch.zeros(batch.texts, width, device=device) if self.text_rows else None
        last = torch.zeros_like(weight[: batch.texts])
        last.scatter_(1, batch.last_tokens(device)[:, None], 1.0)
        for row in range(batch.texts):
            active = torch.zeros(width, device=device)
            share = weight[row] / weight[row].sum().clamp(min=1)
            for start in range(0, shaped.shape[1], step):
                part = slice(start, start + step)
                counts = weight[row, part]
                if not bool(counts.any()):
                    continue
                piece = shaped[row, part]
                found = piece if self.values is None else self.values(piece)
                chunk = Chunk(found, counts, bool((counts == 1).all()), scratch)
                for reducer, pending in targets:
                    if reducer.last_only:
                        reducer.observe(Chunk(found, last[row, part], False, scratch), pending)
                    elif isinstance(reducer, TextCount):
                        torch.maximum(active, reducer.marks(found, counts), out=active)
                    else:
                        reducer.observe(chunk, pending)
                if means is not None:
                    means[row] += Responses.rows(found[None], counts[None])[0] * share[part].sum()
            for reducer, pending in targets:
                if isinstance(reducer, TextCount):
                    pending.add_(active)
        if means is not None:
            for each in self.text_rows:
                each.add(layer, means)


def site_widths(points: list[HookPoint], layers: int) -> tuple[int, ...]:
    """Return the number of neurons per layer, 0 for layers without the site."""
    found = [0] * layers
    for point in points:
        found[point.layer] = point.width
    return tuple(found)
