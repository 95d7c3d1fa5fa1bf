"""Rows of the tables: what steering to a label does, compiled from the sets that a server has.

What a label does is compiled by the same code that steers a transformers model, so a server and
`attach()` cannot mean different things. Front end and workers hold the same sets. A request names
its rows by keys, and a worker compiles a row when it first needs it: of a set that adds differences
of means there are as many rows as pairs of labels, and few of them are ever asked for.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...errors import HookError, MismatchError, ParameterError
from ...hub import read_folder, write_folder
from ...neuron_set import NeuronSet
from ...neuron_set.row_values import is_relative
from ...operations import Operation, operation
from ...steering.compile import Compiler, State
from ...steering.tables import Beginning
from .settings import SetSource

#: `(columns, scale, shift)` of one layer.
LabelColumns = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
#: A row: layer → what to do there; activations become `a * scale + shift`.
CompiledRow = dict[int, LabelColumns]


def row_key(set_key: str, label: str, left: Iterable[str] = ()) -> str:
    """Return the key of a row: the content of its set, the label, and the labels it leaves."""
    return json.dumps([set_key, label, *left])


def read_key(key: str) -> tuple[str, str, tuple[str, ...]]:
    """Return what `row_key` was given."""
    set_key, label, *left = json.loads(key)
    return set_key, label, tuple(left)


@dataclass(frozen=True)
class ServedSet:
    """A neuron set on a server.

    Attributes:
        source: Its name and where it comes from.
        neurons: The set.
        operation: What steering does.
        key: Hash of the set's content and the operation.
    """

    source: SetSource
    neurons: NeuronSet
    operation: Operation
    key: str

    @classmethod
    def of(cls, source: SetSource, neurons: NeuronSet) -> ServedSet:
        """Return the set with the operation that `source` or else its header asks for."""
        chosen = operation(neurons.operation if source.operation is None else source.operation)
        # The fingerprint covers rows and values, not what is done with them.
        facts = json.dumps([neurons.fingerprint, chosen.to_dict()], sort_keys=True)
        return cls(source, neurons, chosen, hashlib.sha256(facts.encode()).hexdigest()[:24])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels that have neurons."""
        return tuple(label for label, count in self.neurons.counts.items() if count)

    @property
    def relative(self) -> bool:
        """Whether what a label does depends on what is left."""
        return is_relative(self.neurons, self.operation)

    @property
    def keys(self) -> set[str]:
        """One key per label, whatever it leaves."""
        return {row_key(self.key, label) for label in self.labels}

    def tuned(self, label: str) -> float:
        """Return what strength 1 is: what the set was tuned to, if the operation is its own."""
        own = self.source.operation is None
        return self.neurons.strengths.get(label, 1.0) if own else 1.0

    def strength(self, label: str, strength: float) -> float:
        """Return how strongly a row acts; raise if the operation does not allow that."""
        strength *= self.tuned(label)
        if not (0 <= strength <= 1 or self.operation.unbounded):
            site = self.operation.site_for(self.neurons.site)
            self.operation.blended(self.neurons.rows(label), site, strength)
        return strength

    def beginning(self, label: str, strength: float) -> Beginning | None:
        """Return how a switch to a label begins that a schedule gives this strength."""
        own = self.operation if self.source.operation is not None else None
        return self._compiler.beginning(State(label, operation=own, stated=strength != 1))

    def compile(self, label: str, left: tuple[str, ...] = ()) -> CompiledRow:
        """Return what `label` does at full strength when it leaves the labels `left`."""
        found: CompiledRow = {}
        state = State(label, operation=self.operation, left=left)
        for (site, layer), row in self._compiler.compile(state).items():
            if site != "mlp.neuron":
                raise ParameterError(
                    f"The neurons of this set are at {site!r}; a server steers MLP neurons only "
                    "(sites 'mlp.act' and 'mlp.neuron'). Use attach() with transformers for others."
                )
            if row.gain is not None and bool(row.gain.any()):
                raise ParameterError(
                    f"The operation {self.operation.name!r} at 'mlp.act' needs the up projection's "
                    "output, which vLLM's fused MLP does not show. Serve the set with an operation "
                    "at 'mlp.neuron' (the default), or with 'zero' or 'scale', which are the same "
                    "at both."
                )
            found[layer] = (row.columns, row.scale.float(), row.shift.float())
        return found

    @cached_property
    def _compiler(self) -> Compiler:
        widths = {("mlp.neuron", i): width for i, width in enumerate(self.neurons.width_per_layer)}
        return Compiler([self.neurons], gated=True, widths=widths)

    def to_wire(self) -> list[Any]:
        """Return plain data for a call to the workers: the name, the source, the set's files."""
        with tempfile.TemporaryDirectory() as folder:
            files = read_folder(self.neurons.save_pretrained(folder))
        return [self.source.name, self.source.to_dict(), files]

    @classmethod
    def from_wire(cls, data: Any) -> ServedSet:
        """Return the set that `to_wire` wrote."""
        name, source, files = data
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_folder(Path(scratch) / "set", files)
            neurons = NeuronSet.from_pretrained(folder)
        return cls.of(SetSource.read(source, name), neurons)


def load_set(source: SetSource) -> ServedSet:
    """Return the set that `source` names, checked; raises as `NeuronSet.from_pretrained` does."""
    neurons = NeuronSet.from_pretrained(
        source.source, revision=source.revision, subfolder=source.subfolder
    )
    served = ServedSet.of(source, neurons)
    if not served.labels:
        raise ParameterError(
            f"The neuron set {source.name!r} has no neurons at all, so nothing could be steered."
        )
    # What cannot be compiled has to be found now: a worker could only stop the engine.
    for label in served.labels:
        served.compile(label)
    if served.relative:
        served.compile(served.labels[0], neurons.means_of[:1])
    return served


class WorkerSets:
    """The sets that a worker compiles rows of.

    Args:
        widths: Layer of the model → how many neurons it has.
    """

    def __init__(self, widths: Mapping[int, int]) -> None:
        self._widths = dict(widths)
        self._sets: dict[str, ServedSet] = {}

    def change(self, kept: Iterable[str], added: Iterable[ServedSet]) -> None:
        """Forget all sets but those with these keys, then add others.

        Raises:
            MismatchError: If one does not fit the model; none is added then.
        """
        for key in self._sets.keys() - set(kept):
            del self._sets[key]
        added = list(added)
        for served in added:
            self._check(served.neurons)
        self._sets |= {served.key: served for served in added}

    def compile(self, key: str) -> CompiledRow:
        """Return the row with this key."""
        set_key, label, left = read_key(key)
        served = self._sets.get(set_key)
        if served is None:
            # Otherwise this request would be answered unsteered, and no error would say so.
            raise HookError(
                f"A request steers to {label!r} of a neuron set that this worker does not have. "
                "The set changed on disk while the server's processes started; restart it."
            )
        return served.compile(label, left)

    def _check(self, neurons: NeuronSet) -> None:
        for layer in neurons.layer.unique().tolist():
            last = int(neurons.index[neurons.layer == layer].max())
            width = self._widths.get(layer)
            if width is None:
                raise MismatchError(
                    f"The set has neurons in layer {layer}, which the model does not have."
                )
            if last >= width:
                raise MismatchError(
                    f"The set has neuron {last} in layer {layer}, where the model has {width} "
                    "neurons."
                )
