"""The sets among which tuning chooses, and the one set that it makes of those that won."""

from __future__ import annotations

import functools
import json
import operator
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import ParameterError
from ...neuron_set import NeuronSet
from .cells import Cell

#: A set, or where it is.
GivenSet = NeuronSet | str | os.PathLike[str]
#: One, several by name, or several that are named after their folders or methods.
GivenSets = GivenSet | Mapping[str, GivenSet] | Sequence[GivenSet]


def candidate_sets(given: GivenSets) -> dict[str, NeuronSet]:
    """Return the sets by name; the name of a single one is empty.

    Raises:
        ParameterError: If there is none, or one has no name.
    """
    if isinstance(given, NeuronSet | str | os.PathLike):
        return {"": _read(given)}
    sets: dict[str, NeuronSet] = {}
    if isinstance(given, Mapping):
        sets = {name: _read(each) for name, each in given.items()}
    else:
        for each in given:
            neurons = _read(each)
            name = neurons.method["name"] if isinstance(each, NeuronSet) else Path(each).name
            sets[numbered(name, sets)] = neurons
    if not sets or not all(sets):
        raise ParameterError(
            f"There are {len(sets)} sets to choose from, called {', '.join(map(repr, sets))}; "
            "expected at least one, and a name for each."
            if sets
            else "There is no set to tune; give one or more."
        )
    return sets


def numbered(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, with a number if it is taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} {number}"
    return found


def way_of_steering(neurons: NeuronSet) -> Hashable:
    """Return what two sets must have in common for their labels to be in one set."""
    said = json.dumps([dict(neurons.operation), neurons.schedule], sort_keys=True)
    return neurons.site, said, neurons.source, neurons.means_of


def combined(sets: Mapping[str, NeuronSet], best: Mapping[str, Cell], base: str) -> NeuronSet:
    """Return the set in which every label has the neurons that won.

    Args:
        sets: The candidates.
        best: Label → the cell that won; all of sets that steer in the same way as the base.
        base: Which of them the other labels, and the header, are taken from.
    """
    given = sets[base]
    if all(cell.candidate == base and cell.share is None for cell in best.values()):
        return given
    parts = [given.take(torch.zeros(len(given), dtype=torch.bool), given.labels)]
    for label in dict.fromkeys([*given.labels, *best]):
        cell = best.get(label)
        part = sets[base if cell is None else cell.candidate].only(label)
        if cell is not None and cell.share is not None:
            part = part.top(max(1, round(cell.share * sum(part.width_per_layer))))
        parts.append(part)
    mixed = functools.reduce(operator.or_, parts)
    methods = {label: dict(sets[cell.candidate].method) for label, cell in best.items()}
    if all(method == dict(given.method) for method in methods.values()):
        return mixed
    return mixed.replace(method={"name": "mixed", "parameters": methods})


def _read(given: GivenSet) -> NeuronSet:
    return given if isinstance(given, NeuronSet) else NeuronSet.from_pretrained(given)
