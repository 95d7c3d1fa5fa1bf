"""The means of all labels in a file: once per neuron, however many labels own it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import ArtifactError
from .validation import MOST_MEANS
from .value_columns import MEANS

#: How such a column is called in the file: a row per different neuron, by layer and index.
PACKED = "neuron_means"


def pack_means(columns: Mapping[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Return the columns with `<site>.means` as `<site>.neuron_means`, in 16 bits if that is exact.

    Where rows of one neuron differ (sets from different statistics were joined), the column stays.
    """
    found = {name: column.contiguous() for name, column in columns.items()}
    neurons, at = torch.unique(found["layer"] * width + found["index"], return_inverse=True)
    for name in [name for name in found if name.endswith(f".{MEANS}")]:
        means = found[name]
        once = means.new_empty(len(neurons), means.shape[1])
        once[at] = means
        if torch.equal(once[at], means):
            del found[name]
            short = once.half()
            exact = torch.equal(short.float(), once)
            found[name.removesuffix(MEANS) + PACKED] = short if exact else once
    return found


def unpack_means(columns: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Undo `pack_means`.

    Raises:
        ArtifactError: If there are more or fewer means than neurons.
    """
    packed = [name for name in columns if name.endswith(f".{PACKED}")]
    if not packed:
        return columns
    place = columns["layer"] * width + columns["index"]
    neurons, at = torch.unique(place, return_inverse=True)
    for name in packed:
        once = columns.pop(name)
        if once.ndim != 2 or len(once) != len(neurons):
            raise ArtifactError(
                f"Column {name!r} has shape {list(once.shape)}, but the rows name {len(neurons)} "
                "different neurons; expected a row of means for each."
            )
        # Many rows may share one neuron, so that the file can be small where this is not.
        if len(at) * once.shape[1] > MOST_MEANS:
            raise ArtifactError(
                f"Column {name!r} gives {len(at):,} rows {once.shape[1]:,} means each; expected at "
                f"most {MOST_MEANS:,} in all."
            )
        columns[name.removesuffix(PACKED) + MEANS] = once[at]
    return columns
