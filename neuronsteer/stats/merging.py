"""Putting two statistics together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import MismatchError, StatsError
from .data import StatsData
from .needs import Need
from .reducers import REDUCERS


def merged(left: StatsData, right: StatsData) -> StatsData:
    """Return both together: labels are united, equal labels add up.

    Raises:
        StatsError: If they hold different statistics, or the same texts twice.
        MismatchError: If the models' weights differ.
    """
    if set(left.needs) != set(right.needs):
        difference = sorted(map(str, set(left.needs) ^ set(right.needs)))
        raise StatsError(
            f"Only one of the statistics holds {', '.join(difference)}; both must hold the same."
        )
    shared = [label for label in left.labels if label in right.labels]
    for label in shared:
        mine, theirs = (stats.calibration.get(label, {}) for stats in (left, right))
        if mine.get("sha256") and mine.get("sha256") == theirs.get("sha256"):
            raise StatsError(
                f"Label {label!r} was collected from the same texts in both statistics; adding "
                f"them would count every token twice."
            )
    labels = left.labels + tuple(label for label in right.labels if label not in left.labels)
    return StatsData(
        labels=labels,
        tokens={k: left.tokens.get(k, 0) + right.tokens.get(k, 0) for k in labels},
        texts={k: left.texts.get(k, 0) + right.texts.get(k, 0) for k in labels},
        site_widths=dict(left.site_widths),
        arrays={
            need: _combine(need.reducer, labels, left, right, array, right.arrays[need])
            for need, array in left.arrays.items()
        },
        rows={
            need: {label: _texts(need, label, left, right) for label in labels}
            for need in left.rows
        },
        routed={
            site: _combine("count", labels, left, right, array, right.routed[site])
            for site, array in left.routed.items()
        },
        weight_measures={need: _same(need, left, right) for need in left.weight_measures},
        header={**right.header, **left.header, "calibration": _calibration(left, right)},
    )


def _combine(
    name: str,
    labels: tuple[str, ...],
    left: StatsData,
    right: StatsData,
    mine: Tensor,
    theirs: Tensor,
) -> Tensor:
    reducer = REDUCERS.get(name)
    found = torch.full(
        (len(labels), *mine.shape[1:]), reducer.empty, dtype=mine.dtype, device=mine.device
    )
    for stats, array in ((left, mine), (right, theirs)):
        for position, label in enumerate(stats.labels):
            reducer.merge(found[labels.index(label)], array[position])
    return found


def _same(need: Need, left: StatsData, right: StatsData) -> Tensor:
    mine, theirs = left.weight_measures[need], right.weight_measures[need]
    # Another device or batch of unit vectors may round the last bits differently.
    if mine.shape != theirs.shape or not torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6):
        raise MismatchError(
            f"Statistics differ in {need}, which is measured on the weights: they are of different "
            f"models, or of different checkpoints of one."
        )
    return mine


def _texts(need: Need, label: str, left: StatsData, right: StatsData) -> Tensor:
    parts = [rows[label] for rows in (left.rows[need], right.rows[need]) if label in rows]
    return torch.cat(parts)


def _calibration(left: StatsData, right: StatsData) -> dict[str, Any]:
    mine, theirs = left.calibration, right.calibration
    found: dict[str, Any] = {**theirs, **mine}
    for label in mine.keys() & theirs.keys():
        both = [mine[label], theirs[label]]
        # Counts that others published need not say what they were taken from.
        names = dict.fromkeys(str(part["corpus"]) for part in both if part.get("corpus"))
        found[label] = {
            **({"corpus": " + ".join(names)} if names else {}),
            "tokens": left.tokens[label] + right.tokens[label],
            "texts": left.texts[label] + right.texts[label],
        }
        clipped = [part["clipped"] for part in both if "clipped" in part]
        if clipped:
            found[label]["clipped"] = {
                "values": sum(part["values"] for part in clipped),
                "by_at_most": max(part["by_at_most"] for part in clipped),
            }
    return found
