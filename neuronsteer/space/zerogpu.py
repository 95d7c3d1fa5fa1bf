"""Spaces with ZeroGPU provide a graphics card per call, to functions that are marked for it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

Call = TypeVar("Call", bound=Callable[..., Any])

#: Seconds of graphics card per generation; waiting visitors are served sooner if it is short.
_SECONDS = 60


def prepare() -> None:
    """Import `spaces`, if it is installed; it has to be imported before torch."""
    if importlib.util.find_spec("spaces") is not None:
        importlib.import_module("spaces")


def on_gpu(call: Call) -> Call:
    """Return `call` with a graphics card on ZeroGPU, unchanged elsewhere.

    There it runs in another process: its arguments and results have to be picklable, and nothing
    that it changes is seen here.
    """
    if importlib.util.find_spec("spaces") is None:
        return call
    spaces: Any = importlib.import_module("spaces")
    gpu = getattr(spaces, "GPU", None)
    return call if gpu is None else gpu(duration=_SECONDS)(call)
