"""Importance: how far a layer's output moves when a unit is off, for all units at once.

Switching a unit off leaves the rest of its layer as it was, so nothing has to be run again: the
change of the MLP's or the attention's output is computed from what flowed through the layer anyway.
It is the Euclidean length of that change over the counted tokens of a document.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import HookError, LayoutError
from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from ..weight_norms import norms
from . import METERS, Meter, documents, size
from ._attention import Scores, watched
from ._heads import Heads, off


@METERS.register("importance")
class Importance(Meter):
    """Length of the change of the layer's output when the unit is off.

    - `mlp.neuron`: the unit adds its value times its column of the down projection, so it is the
      length of the values times that of the column (a row of the up projection being off is the
      same).
    - `attn.o`: the unit is a coordinate of the output.
    - `attn.v`: what the heads of the unit's group pass on through the output projection.
    - `attn.q`, `attn.k`: the attention without the unit, exactly: with its softmax, the rotation of
      positions and, where the model has one, the norm of each head.
    """

    name = "importance"

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        super().__init__(anatomy, site)
        self._calls = 0
        if site == "mlp.neuron":
            self._norms = norms(anatomy, site)
        elif site in ("attn.q", "attn.k", "attn.v"):
            self._heads = {tap.layer: Heads.of(anatomy, tap) for tap in self.taps}
        elif site != "attn.o":
            raise LayoutError(
                f"{self.name!r} is measured at 'mlp.neuron', 'attn.q', 'attn.k', 'attn.v' and "
                f"'attn.o', not at {site!r}."
            )
        self._readings: dict[int, Tensor] = {}

    def entries(self) -> list[tuple[HookPoint, Callback]]:
        """Return taps on the site, or for `attn.v` on what enters the output projection."""
        if self.site == "attn.v":
            outputs = {tap.layer: tap for tap in self.anatomy.hook_points("attn.o")}
            return [
                (_entering(outputs[tap.layer], self._heads[tap.layer]), self._values(tap.layer))
                for tap in self.taps
            ]
        return [(tap, self._callback(tap.layer)) for tap in self.taps]

    def _callback(self, layer: int) -> Callback:
        if self.site == "mlp.neuron":
            return lambda values: self.emit(layer, self._columns(layer, values))
        if self.site == "attn.o":
            return lambda values: self.emit(layer, size(values, self.current()))

        def keep(values: Tensor) -> None:
            # Picked up by the attention function, which is called next.
            self._readings[layer] = values

        return keep

    def _columns(self, layer: int, values: Tensor) -> Tensor:
        found = size(values, self.current())
        return found * self._norms[layer, : found.shape[1]].to(found.device)

    def _values(self, layer: int) -> Callback:
        heads = self._heads[layer]

        def read(values: Tensor) -> None:
            shaped, weight = documents(values, self.current())
            z = shaped.unflatten(-1, (heads.groups, heads.repeats, heads.size))
            z = z * weight[:, :, None, None, None]
            # The unit's part of the output is a sum over the heads that share it.
            both = torch.einsum("btgrd,btgsd->bgdrs", z, z)
            square = (both * heads.shared.to(values.device)).sum((-1, -2))
            self.emit(layer, square.clamp(min=0).sqrt().flatten(1))

        return read

    @contextmanager
    def prepared(self) -> Generator[None, None, None]:
        """Let queries and keys be seen where they meet."""
        if self.site not in ("attn.q", "attn.k"):
            yield
            return
        calls = {heads.module: self._meeting(layer) for layer, heads in self._heads.items()}
        with watched(self.anatomy.root, calls):
            yield

    def _meeting(self, layer: int) -> Callable[[Scores], None]:
        heads = self._heads[layer]

        def see(scores: Scores) -> None:
            self._calls += 1
            values, current = self._readings.pop(layer), self.current()
            weight = current.weight_on(values.device)[: current.real]
            shaped = values.reshape(len(current.weight), weight.shape[1], -1)[: current.real]
            self.emit(layer, off(self.site, heads, shaped.float(), scores, weight))

        return see

    def drop(self) -> None:
        """Forget the running batch."""
        self._readings.clear()

    def require(self) -> None:
        """Raise if the attention did not run where it can be seen."""
        if self.site in ("attn.q", "attn.k") and not self._calls:
            raise HookError(
                f"The attention of {self.anatomy.model_type!r} does not run through transformers' "
                f"attention interface, so that 'importance' at {self.site!r} cannot be measured. "
                f"Measure 'attn.v', 'attn.o' or 'mlp.neuron'."
            )


def _entering(tap: HookPoint, heads: Heads) -> HookPoint:
    """Return a tap on what enters the output projection."""
    width = heads.groups * heads.repeats * heads.size
    return replace(tap, side="input", width=width, tensor_width=width, columns=None)
