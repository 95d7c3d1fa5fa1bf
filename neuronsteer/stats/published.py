"""Statistics from published counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError, StatsError, did_you_mean
from ..models import SITES
from .data import StatsData
from .needs import Need


def from_counts(
    counts: Mapping[str, Any], tokens: Mapping[str, int], site: str, header: dict[str, Any]
) -> StatsData:
    """Return statistics that hold nothing but counts.

    Raises:
        StatsError: If counts or tokens are malformed, or contradict each other.
        ParameterError: If there is no such site.
    """
    if site not in SITES:
        raise ParameterError(
            f"Unknown site {site!r}.{did_you_mean(site, SITES)} Sites: {', '.join(SITES)}."
        )
    if not counts:
        raise StatsError("There are no counts: the mapping from labels to counts is empty.")
    if set(counts) != set(tokens):
        odd = sorted(set(counts) ^ set(tokens))
        raise StatsError(
            f"Counts and tokens name different labels: {', '.join(map(repr, odd))} is only in one "
            f"of them."
        )
    labels = tuple(counts)
    shapes: dict[str, tuple[int, ...]] = {}
    parts: list[Tensor] = []
    for label in labels:
        total = tokens[label]
        if isinstance(total, bool) or int(total) != total or total < 1:
            raise StatsError(f"tokens[{label!r}] is {total!r}; expected a whole number from 1.")
        part = _integers(label, counts[label])
        shapes[label] = tuple(part.shape)
        if part.min() < 0 or part.max() > total:
            raise StatsError(
                f"counts[{label!r}] has values from {int(part.min())} to {int(part.max())}; "
                f"expected 0 to the label's {int(total)} tokens."
            )
        parts.append(part)
    if len(set(shapes.values())) > 1:
        raise StatsError(f"Counts differ in shape: {shapes}. Expected [layers, width] for all.")
    layers, width = parts[0].shape
    facts = dict(header)
    texts = facts.pop("texts", None) or {}
    widths = tuple(facts.pop("widths", None) or (width,) * layers)
    for name, value in (("num_layers", layers), ("width", width)):
        if facts.setdefault(name, value) != value:
            raise StatsError(
                f"{name}={facts[name]!r} contradicts the counts, whose shape is "
                f"[{layers}, {width}]."
            )
    if len(widths) != layers or max(widths) > width:
        raise StatsError(f"widths={widths} contradicts counts of shape [{layers}, {width}].")
    return StatsData(
        labels=labels,
        tokens={label: int(tokens[label]) for label in labels},
        texts={label: int(texts.get(label, 0)) for label in labels},
        site_widths={site: widths},
        arrays={Need("count", site): torch.stack(parts)},
        header=facts,
    )


def _integers(label: str, value: Any) -> Tensor:
    found = torch.as_tensor(value)
    if found.dim() != 2 or not found.numel():
        raise StatsError(
            f"counts[{label!r}] has shape {list(found.shape)}; expected [layers, width]."
        )
    whole = found.to(torch.int64)
    odd = found.is_complex() or found.dtype == torch.bool
    if odd or not torch.equal(whole.to(found.dtype), found):
        raise StatsError(f"counts[{label!r}] holds values that are not whole numbers.")
    return whole.cpu()
