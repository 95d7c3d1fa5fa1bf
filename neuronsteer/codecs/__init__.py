"""Codecs: dictionaries of features on top of a layer's activations, such as sparse autoencoders.

A codec turns the rows that a layer hands on into features, and features back into rows. With one,
`collect` keeps statistics of features as of any neurons (sites `sae.resid` and `sae.mlp`), and a
neuron set of features is steered by adding their decoder rows to the residual stream. A new format
is a new file in this folder that registers how it is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import LayoutError, ParameterError, shown
from ..models import Anatomy, HookPoint
from ..models.hook_point import OUTPUT
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import DIRECTION, FEATURE_SITES
from ..registry import Registry

#: Name of a format → what opens it from its specification.
CODECS: Registry[Callable[[Mapping[str, Any]], Codec]] = Registry("codec", "neuronsteer.codecs")


class Codec(ABC):
    """Features of some layers of one model.

    Attributes:
        site: What it reads: `"sae.resid"`, the residual stream after a layer, or `"sae.mlp"`, the
            output of a layer's MLP.
        spec: How to open it again, JSON-plain, with its `format`; stored with statistics and sets.
            Empty if it only lives in memory.
    """

    site: str
    spec: Mapping[str, Any]

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """Layers that it has features of, ascending."""

    @abstractmethod
    def width(self, layer: int) -> int:
        """Return the number of features of a layer."""

    @abstractmethod
    def encode(self, layer: int, rows: Tensor) -> Tensor:
        """Return features `[n, width]`, 0 where a feature is off, of rows `[n, hidden]`."""

    @abstractmethod
    def decode(self, layer: int, features: Tensor) -> Tensor:
        """Return the rows `[n, hidden]` that features `[n, width]` stand for."""

    @abstractmethod
    def directions(self, layer: int, index: Tensor) -> Tensor:
        """Return what one unit of each of these features adds to a row, `[len(index), hidden]`."""

    def hook_points(self, anatomy: Anatomy) -> list[HookPoint]:
        """Return where a model hands on the rows that this codec reads, one hook point per layer.

        The width of a hook point is the number of features, which are not in the tensor yet.

        Raises:
            LayoutError: If the model has no such layer.
        """
        found: list[HookPoint] = []
        source = "resid" if self.site == "sae.resid" else "mlp.out"
        points = {point.layer: point for point in anatomy.hook_points(source)}
        for layer in self.layers:
            point = points.get(layer)
            if point is None:
                raise LayoutError(
                    f"The codec reads {self.site!r} of layer {layer}, but this model has layers 0 "
                    f"to {anatomy.num_layers - 1}."
                )
            found.append(
                HookPoint(
                    self.site,
                    layer,
                    point.name,
                    point.module,
                    OUTPUT,
                    self.width(layer),
                    anatomy.hidden_size,
                    flattened=point.flattened,
                )
            )
        return found

    def with_directions(self, neurons: NeuronSet) -> NeuronSet:
        """Return a set of features with their decoder rows, which is what steering adds.

        Raises:
            ParameterError: If the set's rows are not features of this codec.
        """
        if neurons.site != self.site:
            raise ParameterError(
                f"The codec has features at {self.site!r}, and this set's rows live at "
                f"{neurons.site!r}."
            )
        parts: list[Tensor] = []
        order = torch.argsort(neurons.layer, stable=True)
        for layer in neurons.layer.unique().tolist():
            if layer not in self.layers:
                raise ParameterError(
                    f"The set has features of layer {layer}; this codec has layers "
                    f"{', '.join(map(str, self.layers))}."
                )
            index = neurons.index[order][neurons.layer[order] == layer]
            if int(index.max()) >= self.width(layer):
                raise ParameterError(
                    f"The set has feature {int(index.max())} of layer {layer}, where this codec "
                    f"has {self.width(layer)}: it is another codec's set."
                )
            parts.append(self.directions(layer, index).detach().float().cpu())
        if not parts:
            return neurons
        column = torch.empty(len(neurons), parts[0].shape[1])
        column[order] = torch.cat(parts)
        return neurons.replace(values={**neurons.values, f"{self.site}.{DIRECTION}": column})


def open_codec(spec: str | Path | Mapping[str, Any] | Codec) -> Codec:
    """Return the codec that `spec` stands for.

    Args:
        spec: A folder of safetensors files (`plain.py` says which), a specification with a `format`
            (`{"format": "saelens", "release": …, "ids": {…}}`), or a codec.

    Raises:
        UnknownNameError: If there is no such format.
        ArtifactError: If the files are missing or damaged.
    """
    if isinstance(spec, Codec):
        return spec
    if not isinstance(spec, Mapping):
        spec = {"format": "plain", "path": str(spec)}
    name = spec.get("format")
    if not isinstance(name, str):
        raise ParameterError(f"A codec's specification lacks 'format'; found {shown(dict(spec))}.")
    return CODECS.get(name)(spec)


__all__ = ["CODECS", "FEATURE_SITES", "Codec", "open_codec"]
