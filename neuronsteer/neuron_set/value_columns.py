"""The value columns of a neuron set: their names, and how they are taken from statistics.

A column is called `<site>.<source>`, for instance `mlp.neuron.max`: the maximum of that neuron over
the calibration tokens of the row's label. `<site>.means` has a column of its own for every label,
so that a set can steer from any of its labels to any other. Operations find the values they set or
add there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

from ..errors import ArtifactError, ParameterError, shown, unknown_label
from ..operations import percentile

# Sites that share one index space: neuron i of one is neuron i of the other.
MLP_SITES = ("mlp.act", "mlp.neuron")


# Sites of features: what a codec makes of the residual stream, or of the MLP's output. Their rows
# are steered by adding decoder rows, kept in the one column that has a vector per row.
FEATURE_SITES = ("sae.resid", "sae.mlp")
DIRECTION = "direction"
#: The means of every label, one per column, in the order of the set's `means_of`.
MEANS = "means"

#: What steering may leave beside a label: the mean of the other labels, and the language of the
#: prompt, which the set itself tells from the prompt's activations.
OTHERS, PROMPT = "others", "prompt"


class ColumnSource(Protocol):
    """What is asked of statistics here (`neuronsteer.stats.Stats` provides it)."""

    @property
    def labels(self) -> Sequence[str]:
        """Labels in the order of the first dimension of every tensor."""
        ...

    @property
    def site_widths(self) -> Mapping[str, Sequence[int]]:
        """Number of neurons per layer, by site."""
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

    def max(self, site: str) -> torch.Tensor:
        """Return the maxima, `[labels, layers, width]`."""
        ...

    def quantile(
        self, q: float, site: str, at: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """Return quantiles of the neurons `at` (positions of label, layer and index)."""
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
    sources: Sequence[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Return value columns for the given rows.

    Args:
        stats: Statistics that cover all of `labels`.
        labels: Names behind the positions in `label`.
        label: Label position of each row.
        layer: Layer of each row.
        index: Neuron of each row.
        site: Site of the rows. For `mlp.act` and `mlp.neuron`, which share their neurons, the
            columns of both are gathered.
        sources: What to gather, percentiles (`"p25"`) and `"layer_mean"` included; by default all
            the usual ones that `stats` can fill.

    Returns:
        `{"<site>.<source>": float32 [rows]}`; of the means `[rows, labels of stats]`. Where no
        token reached a neuron (an expert that was never routed to) the value is 0.

    Raises:
        ParameterError: If a source that was asked for does not exist, or `stats` cannot fill it.
    """
    known = list(stats.labels)
    for name in labels:
        if name not in known:
            raise unknown_label(name, known, where="these statistics")
    position = torch.tensor([known.index(name) for name in labels], dtype=torch.int64)
    where = (position[label], layer, index)
    places = MLP_SITES if site in MLP_SITES else (site,)
    columns: dict[str, torch.Tensor] = {}
    for source in _USUAL if sources is None else sources:
        reducer = _reducer(source)
        having = [place for place in places if stats.has(reducer, place)]
        if sources is not None and not having:
            raise ParameterError(
                f"The value {source!r} comes from {reducer!r} at {site!r}, which these statistics "
                f"do not hold. Collect again with needs=[..., '{reducer}@{site}']."
            )
        for place in having:
            read = _means if source == MEANS else _read
            columns[f"{place}.{source}"] = read(stats, source, place, where)
    return columns


# Source -> the reducer it comes from.
_REDUCERS = {
    MEANS: "sum",
    "max": "max",
    "prob": "count",
    "median": "quantile",
    "p10": "quantile",
    "p90": "quantile",
}
_USUAL = tuple(_REDUCERS)


def _reducer(source: str) -> str:
    if source in _REDUCERS:
        return _REDUCERS[source]
    if percentile(source) is not None:
        return "quantile"
    if source in ("mean", "layer_mean"):
        return "sum"
    raise ParameterError(
        f"Statistics have no value {source!r}; expected {', '.join(_USUAL)}, layer_mean, or "
        f"another percentile such as p25."
    )


def _read(
    stats: ColumnSource, source: str, site: str, where: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    share = percentile(source)
    if share is not None:
        # Only these rows: the histograms of all neurons of a large model are gigabytes.
        return _tidy(stats.quantile(share / 100, site, where))
    if source == "layer_mean":
        mean = stats.mean(site)
        sizes = torch.tensor(stats.site_widths[site]).clamp(min=1)
        return _tidy((mean.sum(-1) / sizes)[where[0], where[1]])
    read = stats.probabilities if source == "prob" else getattr(stats, source)
    return _tidy(read(site)[where])


def _means(
    stats: ColumnSource, _source: str, site: str, where: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    _, layer, index = where
    found = _tidy(stats.mean(site)[:, layer, index].T.contiguous())
    if site not in MLP_SITES:
        return found
    # Sixteen bits are plenty for a neuron's mean, and files keep what fits in them that short.
    short = found.half().float()
    return torch.where(short.isfinite(), short, found)


def _tidy(column: torch.Tensor) -> torch.Tensor:
    # +inf stays: it is an overflow in the model, and validation must refuse it.
    column = column.detach().to(device="cpu", dtype=torch.float32)
    return torch.where(column.isnan() | (column == -torch.inf), 0.0, column)


def common_columns(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return `left` and `right` concatenated, for the columns that both have."""
    return {name: torch.cat([left[name], right[name]]) for name in left if name in right}


def check_name(name: str, taken: Iterable[str]) -> None:
    """Raise `ArtifactError` unless `name` is a usable name of a value column."""
    if name in taken or "." not in name.strip("."):
        raise ArtifactError(
            f"Value column {shown(name)}: a name is '<site>.<source>', e.g. 'mlp.neuron.max'."
        )
