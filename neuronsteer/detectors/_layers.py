"""Which layers a method looks at: `"all"`, or a list such as `"0-2,5"`."""

from __future__ import annotations

import re

import torch

from ..errors import ParameterError

ALL = "all"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def layer_ranges(spec: str, method: str) -> list[tuple[int, int]]:
    """Return the ranges `(first, last)` that `spec` lists; none of them for `"all"`."""
    if spec == ALL:
        return []
    found: list[tuple[int, int]] = []
    for part in spec.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ParameterError(
                f"{method} got layers={spec!r}; expected 'all' or layers and ranges of layers, "
                "counted from 0, such as '0-2,5'."
            )
        found.append((first, last))
    return found


def layer_mask(spec: str, num_layers: int, method: str) -> torch.Tensor:
    """Return the mask `[layers]` of the layers that `spec` lists."""
    ranges = layer_ranges(spec, method)
    mask = torch.zeros(num_layers, dtype=torch.bool) if ranges else torch.ones(num_layers).bool()
    for first, last in ranges:
        if last >= num_layers:
            raise ParameterError(
                f"{method} got layers={spec!r}, but the model of these statistics has "
                f"{num_layers} layers: 0 to {num_layers - 1}."
            )
        mask[first : last + 1] = True
    return mask
