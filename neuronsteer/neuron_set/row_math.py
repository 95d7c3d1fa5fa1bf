"""Arithmetic on the rows of neuron sets: keys, duplicates, sharing, random draws.

A row is (label position, layer, neuron index). Everything here works on plain int64 tensors and
needs no headers; `neuron_set.py` gives these functions their meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ArtifactError


def row_keys(
    label: torch.Tensor, layer: torch.Tensor, index: torch.Tensor, num_layers: int, width: int
) -> torch.Tensor:
    """Return one int64 per row; equal exactly for equal rows, ordered by label, layer, index."""
    return (label * num_layers + layer) * width + index


def places(layer: torch.Tensor, index: torch.Tensor, width: int) -> torch.Tensor:
    """Return one int64 per row; equal exactly for the same neuron, ordered by layer and index."""
    return layer * width + index


def check_rows(
    labels: Sequence[str],
    label: torch.Tensor,
    layer: torch.Tensor,
    index: torch.Tensor,
    widths: Sequence[int],
) -> None:
    """Raise `ArtifactError` naming the column, the row and the bound for the first bad row."""
    _check_range("label", label, len(labels), f"the set has {len(labels)} labels")
    _check_range("layer", layer, len(widths), f"the set has {len(widths)} layers")
    limit = torch.tensor(list(widths), dtype=torch.int64)[layer]
    bad = (index < 0) | (index >= limit)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ArtifactError(
            f"Field 'index': row {row} (label {labels[int(label[row])]!r}, layer "
            f"{int(layer[row])}) names neuron {int(index[row])}, but that layer has "
            f"{int(limit[row])} neurons (0 to {int(limit[row]) - 1}). "
            "The set belongs to a wider model, or the file is damaged."
        )


def _check_range(field: str, column: torch.Tensor, bound: int, fact: str) -> None:
    bad = (column < 0) | (column >= bound)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ArtifactError(
            f"Field {field!r}: row {row} has {int(column[row])}, but {fact} (0 to {bound - 1})."
        )


def check_unique(
    labels: Sequence[str], keys: torch.Tensor, label: torch.Tensor, where: Sequence[torch.Tensor]
) -> None:
    """Raise `ArtifactError` if two neighbours of the sorted `keys` are the same row."""
    same = keys[1:] == keys[:-1]
    if bool(same.any()):
        row = int(same.nonzero()[0])
        layer, index = (int(column[row]) for column in where)
        raise ArtifactError(
            f"Duplicate rows ({int(same.sum())}): label {labels[int(label[row])]!r}, layer "
            f"{layer}, index {index} occurs more than once. Each label may own a neuron once."
        )


def owners_per_row(
    layer: torch.Tensor, index: torch.Tensor, num_layers: int, width: int
) -> torch.Tensor:
    """Return for every row how many labels own its neuron."""
    neuron = row_keys(torch.zeros_like(layer), layer, index, num_layers, width)
    inverse, counts = neuron.unique(return_inverse=True, return_counts=True)[1:]
    return counts[inverse]


def sharing(
    layer: torch.Tensor, index: torch.Tensor, num_layers: int, width: int
) -> dict[int, int]:
    """Return `{number of labels that own a neuron: number of such neurons}`, zeros left out."""
    sizes, rows = owners_per_row(layer, index, num_layers, width).unique(return_counts=True)
    return {int(n): int(count) // int(n) for n, count in zip(sizes, rows, strict=True)}


def layer_counts(
    label: torch.Tensor, layer: torch.Tensor, num_labels: int, num_layers: int
) -> torch.Tensor:
    """Return the number of rows per label and layer, int64 `[num_labels, num_layers]`."""
    counts = torch.bincount(label * num_layers + layer, minlength=num_labels * num_layers)
    return counts.view(num_labels, num_layers)


def best_rows(score: torch.Tensor, group: torch.Tensor, n: int) -> torch.Tensor:
    """Return a mask of the `n` rows of highest score in each group; ties go to earlier rows."""
    order = torch.sort(score, descending=True, stable=True).indices
    order = order[torch.sort(group[order], stable=True).indices]
    sizes = torch.bincount(group, minlength=1)
    start = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order)) - start[group[order]]
    keep = torch.zeros(len(score), dtype=torch.bool)
    keep[order[rank < n]] = True
    return keep


def draw_others(
    label: torch.Tensor,
    layer: torch.Tensor,
    index: torch.Tensor,
    num_labels: int,
    widths: Sequence[int],
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw random neurons with the same count for every label and layer.

    Rows must be sorted by label, layer, index. A label's own neurons are drawn only when a layer
    has too few others. Labels are drawn independently of each other.

    Returns:
        `index`: the drawn neurons, ascending within each label and layer, aligned with the given
        `label` and `layer` columns; and `source`: for each drawn row a random row of the same
        label and layer, each used once (to hand on values of the same size).
    """
    generator = torch.Generator().manual_seed(seed)
    counts = layer_counts(label, layer, num_labels, len(widths)).flatten().tolist()
    drawn, source, start = torch.empty_like(index), torch.empty_like(index), 0
    for cell, count in enumerate(counts):
        if not count:
            continue
        rows = slice(start, start + count)
        free = torch.ones(widths[cell % len(widths)], dtype=torch.bool)
        free[index[rows]] = False
        others, own = free.nonzero().flatten(), index[rows]
        pick = others[torch.randperm(len(others), generator=generator)[:count]]
        if len(pick) < count:
            spare = torch.randperm(count, generator=generator)[: count - len(pick)]
            pick = torch.cat([pick, own[spare]])
        drawn[rows] = pick.sort().values
        source[rows] = start + torch.randperm(count, generator=generator)
        start += count
    return drawn, source
