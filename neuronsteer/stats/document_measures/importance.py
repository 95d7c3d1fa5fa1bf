"""Importance: how far a layer's output moves when a unit is off, for all units at once.

Switching a unit off leaves the rest of its layer as it was, so nothing has to be run again: the
change of the MLP's or the attention's output is computed from what flowed through the layer anyway.
Beside it, what the released code of the PLND paper computes in its place.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import HookError, LayoutError
from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from ..weight_norms import norms
from . import DOCUMENT_MEASURES, DocumentMeasure, documents
from ._attention import AttentionInputs, attention_inputs
from ._heads import Heads, change_without_units, weight_changes


class _AttentionMeasure(DocumentMeasure):
    """What is measured where queries meet keys, and on what enters the output projection."""

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        super().__init__(anatomy, site)
        self.needs_attention = site in ("attn.q", "attn.k")
        self._calls = 0
        self.heads: dict[int, Heads] = {}
        if self.needs_attention or site == "attn.v":
            self.heads = {point.layer: Heads.of(anatomy, point) for point in self.points}

    @abstractmethod
    def in_attention(
        self, layer: int, heads: Heads, inputs: AttentionInputs, weight: Tensor
    ) -> Tensor:
        """Return the numbers of query or key units, `[texts, width]`."""

    @contextmanager
    def prepared(self) -> Generator[None, None, None]:
        """Read queries and keys where they meet."""
        if not self.needs_attention:
            yield
            return
        calls = {
            heads.module: self._attention_callback(layer) for layer, heads in self.heads.items()
        }
        with attention_inputs(self.anatomy.root, calls):
            yield

    def _attention_callback(self, layer: int) -> Callable[[AttentionInputs], None]:
        def measure(inputs: AttentionInputs) -> None:
            self._calls += 1
            batch = self.batch()
            weight = batch.weight_on(inputs.query.device)[: batch.texts]
            self.emit(layer, self.in_attention(layer, self.heads[layer], inputs, weight))

        return measure

    def output_points(self) -> list[HookPoint]:
        """Return hook points on what enters the output projections."""
        outputs = {point.layer: point for point in self.anatomy.hook_points("attn.o")}
        found: list[HookPoint] = []
        for layer, heads in self.heads.items():
            width = heads.groups * heads.repeats * heads.size
            sizes = {"width": width, "tensor_width": width, "columns": None}
            found.append(replace(outputs[layer], side="input", **sizes))
        return found

    def check_measured(self) -> None:
        """Raise if the attention did not run where it can be seen."""
        if self.needs_attention and not self._calls:
            raise HookError(
                f"The attention of {self.anatomy.model_type!r} does not run through transformers' "
                f"attention interface, so that {self.name!r} at {self.site!r} cannot be measured. "
                f"Measure 'attn.v' or 'mlp.neuron'."
            )


@DOCUMENT_MEASURES.register("importance")
class Importance(_AttentionMeasure):
    """Euclidean length, over a document's counted tokens, of the output's change without the unit.

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
        self._norms = norms(anatomy, site) if site == "mlp.neuron" else None
        if not (self.heads or site in ("mlp.neuron", "attn.o")):
            raise LayoutError(
                f"{self.name!r} is measured at 'mlp.neuron', 'attn.q', 'attn.k', 'attn.v' and "
                f"'attn.o', not at {site!r}."
            )
        self._readings: dict[int, Tensor] = {}

    def callbacks(self) -> list[tuple[HookPoint, Callback]]:
        """Return hook points on the site, or for `attn.v` on what enters the output projection."""
        if self.site == "attn.v":
            return [(point, self._shares(point.layer)) for point in self.output_points()]
        read = self._keep if self.needs_attention else self._lengths
        return [(point, read(point.layer)) for point in self.points]

    def _keep(self, layer: int) -> Callback:
        def keep(values: Tensor) -> None:
            # Picked up by `in_attention`, which is called next.
            self._readings[layer] = values

        return keep

    def _lengths(self, layer: int) -> Callback:
        def read(values: Tensor) -> None:
            shaped, weight = documents(values, self.batch())
            found = (shaped.square() * weight[..., None]).sum(1).sqrt()
            if self._norms is not None:
                found = found * self._norms[layer, : found.shape[1]].to(found.device)
            self.emit(layer, found)

        return read

    def _shares(self, layer: int) -> Callback:
        heads = self.heads[layer]

        def read(values: Tensor) -> None:
            shaped, weight = documents(values, self.batch())
            z = shaped.unflatten(-1, (heads.groups, heads.repeats, heads.size))
            z = z * weight[:, :, None, None, None]
            # The unit's part of the output is a sum over the heads that share it.
            both = torch.einsum("btgrd,btgsd->bgdrs", z, z)
            square = (both * heads.shared.to(values.device)).sum((-1, -2))
            self.emit(layer, square.clamp(min=0).sqrt().flatten(1))

        return read

    def in_attention(
        self, layer: int, heads: Heads, inputs: AttentionInputs, weight: Tensor
    ) -> Tensor:
        """Return how far the output moves when each query or key unit is off."""
        values, _ = documents(self._readings.pop(layer), self.batch())
        return change_without_units(self.site, heads, values, inputs, weight)

    def discard(self) -> None:
        """Forget the running batch."""
        self._readings.clear()


@DOCUMENT_MEASURES.register("importance_released")
class ReleasedImportance(_AttentionMeasure):
    """The shortcuts of the released code, which rank units otherwise than their effect does.

    - `mlp.neuron`: the sum of |u|, the up projection's output, whatever gate and down projection.
    - `attn.q`, `attn.k`: the squared change of the attention weights when a coordinate's product of
      query and key is subtracted from the scores, which are scaled while the product is not.
    - `attn.v`: the sum of the sizes of what the heads pass on.

    One number per coordinate of the query heads; a unit of a shared key or value head gets the sum
    over the heads that share it. As for `importance`, queries are those of 12 tokens per document.
    """

    name = "importance_released"

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        super().__init__(anatomy, site)
        if not self.heads and (site != "mlp.neuron" or not anatomy.gated):
            raise LayoutError(
                f"The released code of PLND has no measurement at {site!r} of "
                f"{anatomy.model_type!r}: it measures 'mlp.neuron' of gated MLPs, 'attn.q', "
                f"'attn.k' and 'attn.v'."
            )

    def callbacks(self) -> list[tuple[HookPoint, Callback]]:
        """Return hook points on the up projection, or on what enters the output projection."""
        if self.needs_attention:
            return []
        points = self.output_points() if self.heads else self.anatomy.up_hook_points()
        return [(point, self._sizes(point.layer)) for point in points]

    def _sizes(self, layer: int) -> Callback:
        heads = self.heads.get(layer)

        def read(values: Tensor) -> None:
            shaped, weight = documents(values, self.batch())
            sums = (shaped.abs() * weight[..., None]).sum(1)
            if heads is not None:
                sums = sums.unflatten(-1, (heads.groups, heads.repeats, heads.size)).sum(2)
            self.emit(layer, sums.flatten(1))

        return read

    def in_attention(
        self,
        layer: int,  # noqa: ARG002
        heads: Heads,
        inputs: AttentionInputs,
        weight: Tensor,
    ) -> Tensor:
        """Return the squared change of the attention weights, as the released code has it."""
        # [texts, groups, repeats, size]
        found = weight_changes(heads, inputs, weight)
        return (found.sum(2) if self.site == "attn.k" else found).flatten(1)
