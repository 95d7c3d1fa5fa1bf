"""A label's row of the tables, as plain numbers: made in the front end or a worker, sent as bytes.

What a label does is compiled by the same code that steers a transformers model, so a server and
`attach()` cannot mean different things.
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
from .settings import Settings, Source

Change = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Move:
    """What one label does at full strength.

    Attributes:
        key: Hash of the set's content, the operation and the label.
        layers: Layer → `(columns, scale, shift)`; activations become `a * scale + shift`.
    """

    key: str
    layers: dict[int, Change]

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
    def from_wire(cls, data: Any) -> Move:
        """Return the move that `to_wire` wrote."""
        key, layers = data
        return cls(
            key,
            {
                layer: (_read(columns, np.int64), _read(scale, "f4"), _read(shift, "f4"))
                for layer, columns, scale, shift in layers
            },
        )


@dataclass(frozen=True)
class Served:
    """A neuron set on a server.

    Attributes:
        source: Its name and where it comes from.
        neurons: The set.
        operation: What steering does.
        moves: A row per label that has neurons.
    """

    source: Source
    neurons: NeuronSet
    operation: Operation
    moves: dict[str, Move]

    def key(self, label: str, strength: float) -> str:
        """Return the row of a label, or raise if the operation has no such strength."""
        if not (0 <= strength <= 1 or self.operation.unbounded):
            site = self.operation.site_for(self.neurons.site)
            self.operation.blended(self.neurons.rows(label), site, strength)
        return self.moves[label].key


def load(source: Source) -> Served:
    """Return the set that `source` names, compiled; raises as `NeuronSet.from_pretrained` does."""
    neurons = NeuronSet.from_pretrained(
        source.source, revision=source.revision, subfolder=source.subfolder
    )
    chosen = operation(neurons.operation if source.operation is None else source.operation)
    moves = {
        label: _move(neurons, chosen, label) for label, count in neurons.counts.items() if count
    }
    if not moves:
        raise ParameterError(
            f"The neuron set {source.name!r} has no neurons at all, so nothing could be steered."
        )
    return Served(source, neurons, chosen, moves)


def moves_of(settings: Settings) -> list[Move]:
    """Return the rows of every set in the settings, for a worker."""
    return [move for source in settings.sets for move in load(source).moves.values()]


def _move(neurons: NeuronSet, chosen: Operation, label: str) -> Move:
    widths = {("mlp.neuron", layer): w for layer, w in enumerate(neurons.width_per_layer)}
    compiled = Compiler([neurons], gated=True, widths=widths).compile(
        State(label, operation=chosen)
    )
    layers: dict[int, Change] = {}
    for (site, layer), row in compiled.items():
        if site != "mlp.neuron":
            raise ParameterError(
                f"The neurons of this set live at {site!r}; a server steers MLP neurons only "
                "(sites 'mlp.act' and 'mlp.neuron'). Use attach() with transformers for others."
            )
        if row.gain is not None and bool(row.gain.any()):
            raise ParameterError(
                f"The operation {chosen.name!r} at 'mlp.act' needs the up projection's output, "
                "which vLLM's fused MLP does not show. Serve the set with an operation at "
                "'mlp.neuron' (the default), or with 'zero' or 'scale', which are the same at both."
            )
        layers[layer] = (row.columns, row.scale.float(), row.shift.float())
    # The fingerprint speaks of rows and values, not of what is done with them.
    facts = json.dumps([neurons.fingerprint, chosen.to_dict(), label], sort_keys=True)
    return Move(hashlib.sha256(facts.encode()).hexdigest()[:24], layers)


def _read(data: bytes, kind: Any) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=kind).copy())
