"""Plain JSON values: scores, results and reports are written with these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return numbers, texts and nested collections as plain JSON types.

    What is not a finite number is `None`; of anything else the text is kept.
    """
    # A plugin's number may be NumPy's or torch's.
    if not isinstance(value, str | int | float) and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def named(value: Any) -> Any:
    """Return a setting as JSON: objects of plugins and functions by their name."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): named(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [named(each) for each in value]
    return str(getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__))
