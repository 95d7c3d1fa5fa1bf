"""What methods that read activation probabilities share: the table, percentiles, entropy, ties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import StatsError

if TYPE_CHECKING:
    from ..stats import Stats

# Entropies closer than this (in nats) are equal up to rounding, so index decides between them.
_TIE = 1e-12


def require_several_labels(stats: Stats, who: str) -> None:
    """Raise unless there are labels to compare."""
    if len(stats.labels) < 2:
        raise StatsError(
            f"{who} compares labels, but these statistics hold only "
            f"{', '.join(stats.labels)}. Collect at least one more label, or merge statistics."
        )


def places(stats: Stats, site: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mask `[layers, width]` of neurons that exist, and their layer and index.

    Positions beyond a layer's width are padding, not neurons: they count nowhere.
    """
    widths = torch.tensor(stats.site_widths[site])
    real = torch.arange(int(widths.max())) < widths[:, None]
    layer, index = real.nonzero(as_tuple=True)
    return real, layer, index


def table(stats: Stats, site: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return activation probabilities `[labels, neurons]` float64, and each neuron's place."""
    probability = stats.probabilities(site).to(device="cpu", dtype=torch.float64)
    real, layer, index = places(stats, site)
    p = probability.flatten(1) if bool(real.all()) else probability[:, real]
    # An expert that no token of a label reached was never active for it.
    return p.nan_to_num(nan=0.0), layer, index


def responses(
    stats: Stats, site: str, who: str
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return per label the responses `[texts, neurons]`, and each neuron's layer and index.

    Raises:
        StatsError: If a label has no text.
    """
    found = stats.responses(site)
    for name in stats.labels:
        if not len(found[name]):
            raise StatsError(f"{who} looks at texts, but label {name!r} has none.")
    real, layer, index = places(stats, site)
    # Responses are the largest statistics there are: a view where nothing has to be left out.
    whole = bool(real.all())
    rows = [found[name].flatten(1) if whole else found[name][:, real] for name in stats.labels]
    return rows, layer, index


def kth(p: torch.Tensor, share: float) -> float:
    """Return the `round(share * n)`-th smallest of all values, at least the first."""
    return float(p.flatten().kthvalue(max(1, round(share * p.numel()))).values)


def entropy(p: torch.Tensor) -> torch.Tensor:
    """Return the entropy in nats of each row of `p`, normalised to sum 1."""
    # Sorted, so that rows with the same values in another order get exactly the same entropy.
    p = p.sort(dim=1).values
    q = p / p.sum(1, keepdim=True)
    return -torch.special.xlogy(q, q).sum(1)


def ascending(values: torch.Tensor) -> torch.Tensor:
    """Return the order of `values`, in which values that differ by rounding only are ties."""
    values, order = values.sort(stable=True)
    gap = values.diff()
    if not bool(((gap > 0) & (gap <= _TIE)).any()):
        return order
    group = torch.cat([torch.zeros(1, dtype=torch.int64), (gap > _TIE).cumsum(0)])
    return order[(group * len(values) + order).argsort()]
