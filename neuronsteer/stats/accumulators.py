"""Accumulators of one label: a stage for the batch that is being run, a total for what is done."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models import HookPoint
from .reducers import Reducer

_CPU = torch.device("cpu")


class Slot:
    """The accumulators of one need, one set per device that holds some of the layers.

    Args:
        reducer: What is accumulated.
        layers: Number of layers.
        width: Size of the largest layer.
    """

    def __init__(self, reducer: Reducer, layers: int, width: int) -> None:
        self.reducer = reducer
        self.shape = (layers, width)
        self._stages: dict[torch.device, Tensor] = {}
        self._totals: dict[torch.device, Tensor] = {}
        self._touched: set[torch.device] = set()

    def stage(self, device: torch.device) -> Tensor:
        """Return the stage on a device, to be written to."""
        if device not in self._stages:
            self._stages[device] = self.reducer.start(self.shape, device, total=False)
        if device not in self._totals:
            self._totals[device] = self.reducer.start(self.shape, device, total=True)
        self._touched.add(device)
        return self._stages[device]

    def seen(self, layers: list[int]) -> bool:
        """Return whether every given layer has something in its stage."""
        found = [stage[layers].flatten(1).any(1).cpu() for stage in self._stages.values()]
        return bool(found) and bool(torch.stack(found).any(0).all())

    def commit(self) -> None:
        """Add the stages to the totals and clear them."""
        for device in self._touched:
            self.reducer.merge(self._totals[device], self._stages[device])
        self.drop()

    def drop(self) -> None:
        """Forget what the stages hold."""
        for device in self._touched:
            self._stages[device].fill_(self.reducer.empty)
        self._touched.clear()

    def total(self) -> Tensor:
        """Return the total over devices, on the CPU; a copy."""
        found = self.reducer.start(self.shape, _CPU, total=True)
        for total in self._totals.values():
            self.reducer.merge(found, total)
        return found

    def load(self, total: Tensor | None) -> None:
        """Start again from a total, or from nothing."""
        self.drop()
        self._totals.clear()
        if total is not None:
            self._totals[_CPU] = total.clone()


class Texts:
    """One row of numbers per text, in the order in which batches ran.

    Args:
        layers: Number of layers.
        width: Size of the largest layer.
    """

    def __init__(self, layers: int, width: int) -> None:
        self.layers = layers
        self.width = width
        self._done: list[Tensor] = []
        self._batch: dict[int, Tensor] = {}

    def add(self, layer: int, rows: Tensor) -> None:
        """Take the running batch's `[texts, layer width]` of one layer."""
        self._batch[layer] = rows.cpu()

    def commit(self) -> None:
        """Keep the running batch."""
        if self._batch:
            count = next(iter(self._batch.values())).shape[0]
            found = torch.zeros(count, self.layers, self.width)
            for layer, rows in self._batch.items():
                found[:, layer, : rows.shape[1]] = rows
            self._done.append(found)
        self.drop()

    def drop(self) -> None:
        """Forget the running batch."""
        self._batch.clear()

    def total(self) -> Tensor:
        """Return `[texts, layers, width]`."""
        if len(self._done) != 1:
            empty = [torch.empty(0, self.layers, self.width)]
            self._done = [torch.cat(self._done or empty)]
        return self._done[0]

    def load(self, total: Tensor | None) -> None:
        """Start again from given rows, or from nothing."""
        self.drop()
        self._done = [] if total is None else [total]


@dataclass
class Current:
    """The batch that is being run.

    Attributes:
        weight: `[rows, length]` float32: 1 for tokens that count.
        ids: `[rows, length]` int64: the tokens.
        real: Rows that are texts; what follows is filling.
        whole: Every token counts.
    """

    weight: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    ids: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))
    real: int = 0
    whole: bool = False
    _copies: dict[torch.device, Tensor] = field(default_factory=dict)

    def weight_on(self, device: torch.device) -> Tensor:
        """Return the weights on a device."""
        found = self._copies.get(device)
        if found is None:
            found = self._copies[device] = self.weight.to(device, non_blocking=True)
        return found


def site_widths(taps: list[HookPoint], layers: int) -> tuple[int, ...]:
    """Return the number of neurons per layer, 0 for layers without the site."""
    found = [0] * layers
    for tap in taps:
        found[tap.layer] = tap.width
    return tuple(found)
