"""Rows in a file: what belongs to a neuron is written once, however many labels own it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import ArtifactError
from .row_math import places
from .validation import MOST_MEANS
from .value_columns import MEANS

#: How a column of means is called in the file: a row per neuron, by layer and index.
PACKED = "neuron_means"
#: Instead of the label of every row: per neuron eight labels a byte, the first in its lowest bit.
OWNERS = "owners"
#: More labels per neuron than this are many; a row of fewer is simpler for other programs to read.
_MANY = 4
#: Rows that one file may have, so that a small file cannot fill the memory: each bit is a row.
MOST_ROWS = 1 << 24


def pack_columns(
    columns: Mapping[str, torch.Tensor], labels: int, width: int
) -> dict[str, torch.Tensor]:
    """Return the columns of rows sorted by label, layer and index as they are written.

    `<site>.means` becomes `<site>.neuron_means`, unless rows of one neuron differ (sets from
    different statistics were joined). Where neurons have many labels these become the
    neurons' `owners`, and the score is written in 16 bits if nothing is lost, once if it is always
    the same.
    """
    found = {name: column.contiguous() for name, column in columns.items()}
    neurons, at = torch.unique(places(found["layer"], found["index"], width), return_inverse=True)
    for name in [name for name in found if name.endswith(f".{MEANS}")]:
        means = found[name]
        once = means.new_empty(len(neurons), means.shape[1])
        once[at] = means
        if torch.equal(once[at], means):
            del found[name]
            found[name.removesuffix(MEANS) + PACKED] = _short(once)
    if len(at) > _MANY * len(neurons):
        octets = -(-labels // 8)
        owned = torch.zeros(len(neurons), octets * 8, dtype=torch.uint8)
        owned[at, found.pop("label")] = 1
        bits = owned.view(-1, octets, 8) << torch.arange(8, dtype=torch.uint8)
        found[OWNERS] = bits.sum(-1).to(torch.uint8)
        found["layer"], found["index"] = neurons // width, neurons % width
        score = found["score"]
        equal = bool((score == score[:1]).all())
        found["score"] = _short(score[:1] if equal else score)
    return found


def _short(column: torch.Tensor) -> torch.Tensor:
    short = column.half()
    return short if torch.equal(short.float(), column) else column


def unpack_columns(columns: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Undo `pack_columns`.

    Raises:
        ArtifactError: If there are more or fewer means or scores than the rows need.
    """
    if OWNERS in columns:
        _unpack_owners(columns)
    packed = [name for name in columns if name.endswith(f".{PACKED}")]
    if not packed:
        return columns
    neurons, at = torch.unique(
        places(columns["layer"], columns["index"], width), return_inverse=True
    )
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


def _unpack_owners(columns: dict[str, torch.Tensor]) -> None:
    owners = columns.pop(OWNERS)
    neurons = len(columns["layer"])
    if "label" in columns or owners.dtype != torch.uint8 or owners.shape[:-1] != (neurons,):
        raise ArtifactError(
            f"Column {OWNERS!r} is {owners.dtype} of shape {list(owners.shape)}; expected bytes, a "
            f"row for each of the {neurons} neurons, and no column 'label'."
        )
    each = [(owners >> bit & 1).bool() for bit in range(8)]
    rows = sum(int(bit.sum()) for bit in each)
    if rows > MOST_ROWS:
        raise ArtifactError(
            f"Column {OWNERS!r} names {rows:,} rows; expected at most {MOST_ROWS:,}."
        )
    label, neuron = torch.stack(each, -1).flatten(1).T.nonzero(as_tuple=True)
    columns["label"] = label
    for name in ("layer", "index"):
        columns[name] = columns[name][neuron]
    if columns["score"].shape == (1,):
        columns["score"] = columns["score"].expand(rows)
