"""What a label is compared with: one other label, or the mean of all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import unknown_label
from ..neuron_set.value_columns import OTHERS
from ._probability import require_several_labels

if TYPE_CHECKING:
    from ..stats import Stats


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
