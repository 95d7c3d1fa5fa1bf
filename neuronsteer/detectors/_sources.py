"""What a label is compared with: one other label, or the mean of all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import unknown_label
from ..neuron_set.value_columns import MLP_SITES
from ._probability import require_several_labels

if TYPE_CHECKING:
    from ..stats import Stats

OTHERS = "others"


def check_source(stats: Stats, source: str, who: str) -> None:
    """Raise unless there are labels to compare, and the source is one of them."""
    require_several_labels(stats, who)
    if source != OTHERS and source not in stats.labels:
        raise unknown_label(source, stats.labels, "these statistics")


def source_mean(stats: Stats, each: torch.Tensor, source: str) -> torch.Tensor:
    """Return, for every label, the mean of `each` `[labels, …]` over its source labels.

    The source label itself is compared with all the others.
    """
    each = each.double()
    others = (each.sum(0, keepdim=True) - each) / (len(stats.labels) - 1)
    if source == OTHERS:
        return others
    at = stats.labels.index(source)
    found = each[at].expand_as(others).clone()
    found[at] = others[at]
    return found


def source_columns(
    stats: Stats, site: str, source: str, place: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the columns `<site>.other_mean` that make `diffmean` the difference to the source."""
    return {
        f"{where}.other_mean": source_mean(stats, stats.mean(where), source)[place]
        for where in (MLP_SITES if site in MLP_SITES else (site,))
        if stats.has("sum", where)
    }
