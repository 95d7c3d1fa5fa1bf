"""Rows in a file: what belongs to a neuron is written once, however many labels own it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import ArtifactError
from .row_math import places
from .value_columns import MEANS

#: How a column of means is called in the file: a row per neuron, by layer and index.
PACKED = "neuron_means"
#: Instead of the label of every row: per neuron eight labels a byte, the first in its lowest bit.
OWNERS = "owners"
#: More labels per neuron than this are many; a row of fewer is simpler for other programs to read.
_MANY = 4
#: Numbers that a file may become: so many, and so many more for each of its bytes, so that a small
#: file cannot fill the memory. Neurons that 100 labels own all become 53 numbers a byte.
FREE, PER_BYTE, MOST = 1 << 21, 64, 1 << 28
# A row takes as much memory as so many means.
_ROW = 16


def pack_columns(
    columns: Mapping[str, torch.Tensor], labels: int, width: int
) -> dict[str, torch.Tensor]:
    """Return the columns of rows sorted by label, layer and index as they are written.

    `<site>.means` becomes `<site>.neuron_means`, unless rows of one neuron differ (sets from
    different statistics were joined). Where neurons have many labels these become the
    neurons' `owners`, and the score is written in 16 bits if nothing is lost, once if it is always
    the same. What would be too small a file for what it holds is written as it is.
    """
    plain = {name: column.contiguous() for name, column in columns.items()}
    found = _packed(plain, labels, width)
    # Layer and index are written in 16 bits or more.
    size = sum(c.nbytes for name, c in found.items() if name not in ("label", "layer", "index"))
    size += 4 * len(found["layer"])
    return found if _numbers(len(plain["label"]), found) <= _allowed(size) else plain


def _numbers(rows: int, columns: Mapping[str, torch.Tensor]) -> int:
    """Return how many numbers the rows of a file become."""
    packed = [c for name, c in columns.items() if name.endswith(f".{PACKED}")]
    return rows * (_ROW + sum(c.shape[1] for c in packed if c.ndim == 2))


def _allowed(size: int) -> int:
    return min(FREE + PER_BYTE * size, MOST)


def _packed(
    columns: Mapping[str, torch.Tensor], labels: int, width: int
) -> dict[str, torch.Tensor]:
    found = dict(columns)
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


def unpack_columns(
    columns: dict[str, torch.Tensor], width: int, size: int
) -> dict[str, torch.Tensor]:
    """Undo `pack_columns`.

    Args:
        columns: What is in the file.
        width: Size of one layer's index space.
        size: Bytes of the file.

    Raises:
        ArtifactError: If there are more or fewer means or scores than the rows need, or more of
            them than a file of this size may have.
    """
    each = _owned(columns) if OWNERS in columns else []
    rows = sum(int(bit.sum()) for bit in each) if each else len(columns["label"])
    numbers, allowed = _numbers(rows, columns), _allowed(size)
    if numbers > allowed and (each or any(name.endswith(f".{PACKED}") for name in columns)):
        raise ArtifactError(
            f"Column {OWNERS if each else PACKED!r} makes {rows:,} rows with their means, about "
            f"{numbers:,} numbers, of {size:,} bytes; expected at most {allowed:,}."
        )
    if each:
        _unpack_owners(columns, each, rows)
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
        # Converted before they are repeated: the other way they would be in memory twice.
        columns[name.removesuffix(PACKED) + MEANS] = (
            once.float()[at] if once.is_floating_point() else once[at]
        )
    return columns


def _owned(columns: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return for each bit of the column of owners whether it is set."""
    owners = columns.pop(OWNERS)
    neurons = len(columns["layer"])
    if "label" in columns or owners.dtype != torch.uint8 or owners.shape[:-1] != (neurons,):
        raise ArtifactError(
            f"Column {OWNERS!r} is {owners.dtype} of shape {list(owners.shape)}; expected bytes, a "
            f"row for each of the {neurons} neurons, and no column 'label'."
        )
    return [(owners >> bit & 1).bool() for bit in range(8)]


def _unpack_owners(columns: dict[str, torch.Tensor], each: list[torch.Tensor], rows: int) -> None:
    label, neuron = torch.stack(each, -1).flatten(1).T.nonzero(as_tuple=True)
    columns["label"] = label
    for name in ("layer", "index"):
        columns[name] = columns[name][neuron]
    if columns["score"].shape == (1,):
        columns["score"] = columns["score"].expand(rows)
