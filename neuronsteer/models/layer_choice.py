"""Which layers are meant: the forms that every argument called `layers` takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from ..errors import ParameterError

#: `"all"`, a third of them (`"early"`, `"middle"`, `"late"`), layers and ranges of layers
#: (`"0-3,8"`), one layer (`3`), or several (`[0, 1]`, `range(4)`). Layers are counted from 0; -1 is
#: the last one.
Layers = str | int | Sequence[int]

ALL = "all"
THIRDS = ("early", "middle", "late")
_PART = re.compile(r"(\d+)-(\d+)|(-?\d+)")


def spell_layers(layers: Layers, who: str) -> str:
    """Return the one text, such as `"0-3,8"`, that stands for these layers.

    Args:
        layers: The layers, in any form.
        who: What was given them, for messages, e.g. `"The detector 'effect'"`.

    Raises:
        ParameterError: If they have another form.
    """
    if (third := _third(layers)) is not None:
        return THIRDS[third]
    ranges = _ranges(layers, who)
    return ALL if ranges is None else ",".join(_text(*each) for each in ranges)


def chosen_layers(layers: Layers, num_layers: int, who: str) -> list[int]:
    """Return these layers of a model, ascending.

    Raises:
        ParameterError: If they have another form, or the model has no such layer.
    """
    if (third := _third(layers)) is not None:
        first = num_layers * third // 3
        # None of them is empty, however few layers there are.
        return list(range(first, max(num_layers * (third + 1) // 3, first + 1)))
    ranges = _ranges(layers, who)
    if ranges is None:
        return list(range(num_layers))
    found: set[int] = set()
    for first, last in ranges:
        if not -num_layers <= first <= last < num_layers:
            raise ParameterError(
                f"{who} got layers={layers!r}, but the model has {num_layers} layers: 0 to "
                f"{num_layers - 1}."
            )
        found.update(layer % num_layers for layer in range(first, last + 1))
    return sorted(found)


def _third(layers: object) -> int | None:
    name = layers.strip() if isinstance(layers, str) else ""
    return THIRDS.index(name) if name in THIRDS else None


def _ranges(layers: object, who: str) -> list[tuple[int, int]] | None:
    """Return `(first, last)` of each range, ascending and apart; `None` for all layers.

    A negative layer is a range of its own, after the others.
    """
    found: list[tuple[int, int]] = []
    if isinstance(layers, str):
        if layers.strip() == ALL:
            return None
        for part in layers.split(","):
            match = _PART.fullmatch(part.strip())
            if match is None:
                raise _error(layers, who)
            found.append((int(match[1] or match[3]), int(match[2] or match[3])))
    else:
        given: list[Any] = list(layers) if isinstance(layers, Sequence) else [layers]
        if any(isinstance(each, bool) or not isinstance(each, Integral) for each in given):
            raise _error(layers, who)
        found += [(int(each), int(each)) for each in given]
    if not found or any(first > last for first, last in found):
        raise _error(layers, who)
    merged: list[tuple[int, int]] = []
    for first, last in sorted(each for each in found if each[0] >= 0):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged + sorted({each for each in found if each[0] < 0})


def _text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _error(layers: object, who: str) -> ParameterError:
    return ParameterError(
        f"{who} got layers={layers!r}; expected 'all', 'early', 'middle' or 'late' (a third of "
        "them), layers and ranges of layers counted from 0 such as '0-2,5', or whole numbers such "
        "as [0, 1, 2, 5], where -1 is the last layer."
    )
