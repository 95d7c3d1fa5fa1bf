"""Spaces with ZeroGPU provide a graphics card per call, to functions that are marked for it.

Read in the source of `spaces` 0.51: a marked function runs in a forked process that may serve
several calls; what it raises arrives here as the name of its class; and only the thread that
imported `spaces` can move a model to the card that is to come.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, TypeVar

Call = TypeVar("Call", bound=Callable[..., Any])


def prepare() -> None:
    """Import `spaces`, if it is installed; it has to be imported before torch."""
    if importlib.util.find_spec("spaces") is not None:
        importlib.import_module("spaces")


def is_active() -> bool:
    """Return whether this process has to ask for its graphics card, call by call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def on_gpu(call: Call, seconds: Callable[..., int]) -> Call:
    """Return `call` with a graphics card on ZeroGPU, unchanged elsewhere.

    There it runs in another process: its arguments and results have to be picklable, and nothing
    that it changes is seen here.

    Args:
        call: The function.
        seconds: Given the same arguments, for how long it needs the card at most. It is taken away
            then, and who asks for less is served sooner.
    """
    if importlib.util.find_spec("spaces") is None:
        return call
    spaces: Any = importlib.import_module("spaces")
    gpu = getattr(spaces, "GPU", None)
    return call if gpu is None else gpu(duration=seconds)(call)
