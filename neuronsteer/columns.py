"""The value columns of a neuron set: their names, and how they are taken from statistics.

A column is called `<site>.<source>`, for instance `mlp.neuron.mean`: the mean of that neuron over
the calibration tokens of the row's label. Operations find the values they set or add there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

from .errors import ArtifactError, unknown_label

# Sites that share one index space: neuron i of one is neuron i of the other.
MLP_SITES = ("mlp.act", "mlp.neuron")


class ColumnSource(Protocol):
    """What is asked of statistics here (`neuronsteer.stats.Stats` provides it)."""

    @property
    def labels(self) -> Sequence[str]:
        """Labels in the order of the first dimension of every tensor."""
        ...

    def has(self, reducer: str, site: str) -> bool:
        """Return whether `reducer` was collected at `site`."""
        ...

    def probabilities(self, site: str = "mlp.act") -> torch.Tensor:
        """Return the share of tokens with a positive value, `[labels, layers, width]`."""
        ...

    def mean(self, site: str) -> torch.Tensor:
        """Return the token means, `[labels, layers, width]`."""
        ...

    def other_mean(self, site: str) -> torch.Tensor:
        """Return the mean over the other labels, `[labels, layers, width]`."""
        ...

    def max(self, site: str) -> torch.Tensor:
        """Return the maxima, `[labels, layers, width]`."""
        ...


def same_space(site: str, other: str) -> bool:
    """Return whether neuron i of `site` is neuron i of `other`."""
    return site == other or (site in MLP_SITES and other in MLP_SITES)


def gather(
    stats: ColumnSource,
    labels: Sequence[str],
    label: torch.Tensor,
    layer: torch.Tensor,
    index: torch.Tensor,
    site: str,
) -> dict[str, torch.Tensor]:
    """Return every value column that `stats` can fill for the given rows.

    Args:
        stats: Statistics that cover all of `labels`.
        labels: Names behind the positions in `label`.
        label: Label position of each row.
        layer: Layer of each row.
        index: Neuron of each row.
        site: Site of the rows. For `mlp.act` and `mlp.neuron`, which share their neurons, the
            columns of both are gathered.

    Returns:
        `{"<site>.<source>": float32 [rows]}`. Where no token reached a neuron (an expert that was
        never routed to) the value is 0.
    """
    known = list(stats.labels)
    for name in labels:
        if name not in known:
            raise unknown_label(name, known, where="these statistics")
    position = torch.tensor([known.index(name) for name in labels], dtype=torch.int64)
    where = (position[label], layer, index)
    columns: dict[str, torch.Tensor] = {}
    for place in MLP_SITES if site in MLP_SITES else (site,):
        for reducer, sources in _SOURCES.items():
            if not stats.has(reducer, place):
                continue
            for source, method in sources.items():
                if source == "other_mean" and len(known) < 2:
                    continue
                # `median` is optional: a sketch may offer no such shortcut.
                read = getattr(stats, method, None)
                if read is not None:
                    columns[f"{place}.{source}"] = _tidy(read(place)[where])
    return columns


# Reducer -> {source name: method of Stats}.
_SOURCES: dict[str, dict[str, str]] = {
    "sum": {"mean": "mean", "other_mean": "other_mean"},
    "max": {"max": "max"},
    "count": {"prob": "probabilities"},
    "quantile": {"median": "median"},
}


def _tidy(column: torch.Tensor) -> torch.Tensor:
    # +inf stays: it is an overflow in the model, and validation must refuse it.
    column = column.detach().to(device="cpu", dtype=torch.float32)
    return torch.where(column.isnan() | (column == -torch.inf), 0.0, column)


def read_value(values: Mapping[str, torch.Tensor], source: str, site: str) -> torch.Tensor:
    """Return the column `<site>.<source>`; `diffmean` is the mean minus the other labels' mean.

    Raises:
        ArtifactError: If a column is missing; the message lists the columns there are.
    """
    needed = ["mean", "other_mean"] if source == "diffmean" else [source]
    missing = [f"{site}.{part}" for part in needed if f"{site}.{part}" not in values]
    if missing:
        have = ", ".join(sorted(values)) or "none"
        raise ArtifactError(
            f"Missing value column{'s' if len(missing) > 1 else ''} {', '.join(missing)}: this "
            f"neuron set stores {have}. Detect again from statistics that hold "
            f"them, or use an operation that needs no stored value (zero, scale, a number)."
        )
    first, *rest = (values[f"{site}.{part}"] for part in needed)
    return first - rest[0] if rest else first


def common_columns(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return `left` and `right` concatenated, for the columns that both have."""
    return {name: torch.cat([left[name], right[name]]) for name in left if name in right}


def check_name(name: str, taken: Iterable[str]) -> None:
    """Raise `ArtifactError` unless `name` is a usable name of a value column."""
    if name in taken or "." not in name.strip("."):
        raise ArtifactError(
            f"Value column {name!r}: a name is '<site>.<source>', e.g. 'mlp.neuron.mean'."
        )
