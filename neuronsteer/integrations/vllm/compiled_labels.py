"""A label as one row of the tables: plain numbers, compiled in the front end or in a worker.

What a label does is compiled by the same code that steers a transformers model, so a server and
`attach()` cannot mean different things. Between processes a row travels as bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import ParameterError
from ...neuron_set import NeuronSet
from ...operations import Operation, operation
from ...steering.compile import Compiler, State
from .settings import ServeSettings, SetSource

#: `(columns, scale, shift)` of one layer.
LabelColumns = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class CompiledLabel:
    """What one label does at full strength.

    Attributes:
        key: Hash of the set's content, the operation and the label.
        layers: Layer → `(columns, scale, shift)`; activations become `a * scale + shift`.
    """

    key: str
    layers: dict[int, LabelColumns]

    def to_wire(self) -> list[Any]:
        """Return plain data for a call to the workers."""
        return [
            self.key,
            [
                [layer, columns.numpy().tobytes(), scale.numpy().tobytes(), shift.numpy().tobytes()]
                for layer, (columns, scale, shift) in self.layers.items()
            ],
        ]

    @classmethod
    def from_wire(cls, data: Any) -> CompiledLabel:
        """Return the label that `to_wire` wrote."""
        key, layers = data
        return cls(
            key,
            {
                layer: (_read(columns, np.int64), _read(scale, "f4"), _read(shift, "f4"))
                for layer, columns, scale, shift in layers
            },
        )


@dataclass(frozen=True)
class ServedSet:
    """A neuron set on a server.

    Attributes:
        source: Its name and where it comes from.
        neurons: The set.
        operation: What steering does.
        compiled: A row per label that has neurons.
    """

    source: SetSource
    neurons: NeuronSet
    operation: Operation
    compiled: dict[str, CompiledLabel]

    def key(self, label: str, strength: float) -> str:
        """Return the key of a label's row; raise if the operation does not allow the strength."""
        if not (0 <= strength <= 1 or self.operation.unbounded):
            site = self.operation.site_for(self.neurons.site)
            self.operation.blended(self.neurons.rows(label), site, strength)
        return self.compiled[label].key


def load_set(source: SetSource) -> ServedSet:
    """Return the set that `source` names, compiled; raises as `NeuronSet.from_pretrained` does."""
    neurons = NeuronSet.from_pretrained(
        source.source, revision=source.revision, subfolder=source.subfolder
    )
    chosen = operation(neurons.operation if source.operation is None else source.operation)
    compiled = {
        label: _compile(neurons, chosen, label) for label, count in neurons.counts.items() if count
    }
    if not compiled:
        raise ParameterError(
            f"The neuron set {source.name!r} has no neurons at all, so nothing could be steered."
        )
    return ServedSet(source, neurons, chosen, compiled)


def compile_sets(settings: ServeSettings) -> list[CompiledLabel]:
    """Return the labels of every set in the settings, for a worker."""
    return [label for source in settings.sets for label in load_set(source).compiled.values()]


def _compile(neurons: NeuronSet, chosen: Operation, label: str) -> CompiledLabel:
    widths = {("mlp.neuron", layer): w for layer, w in enumerate(neurons.width_per_layer)}
    compiled = Compiler([neurons], gated=True, widths=widths).compile(
        State(label, operation=chosen)
    )
    layers: dict[int, LabelColumns] = {}
    for (site, layer), row in compiled.items():
        if site != "mlp.neuron":
            raise ParameterError(
                f"The neurons of this set are at {site!r}; a server steers MLP neurons only "
                "(sites 'mlp.act' and 'mlp.neuron'). Use attach() with transformers for others."
            )
        if row.gain is not None and bool(row.gain.any()):
            raise ParameterError(
                f"The operation {chosen.name!r} at 'mlp.act' needs the up projection's output, "
                "which vLLM's fused MLP does not show. Serve the set with an operation at "
                "'mlp.neuron' (the default), or with 'zero' or 'scale', which are the same at both."
            )
        layers[layer] = (row.columns, row.scale.float(), row.shift.float())
    # The fingerprint covers rows and values, not what is done with them.
    facts = json.dumps([neurons.fingerprint, chosen.to_dict(), label], sort_keys=True)
    return CompiledLabel(hashlib.sha256(facts.encode()).hexdigest()[:24], layers)


def _read(data: bytes, kind: Any) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=kind).copy())
