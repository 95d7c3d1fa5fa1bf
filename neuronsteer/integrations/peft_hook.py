"""Makes PEFT know neuron sets as soon as both libraries are imported, in either order.

This file must stay free of torch and PEFT: it runs on `import neuronsteer`.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import wrapt


def install() -> None:
    """Register with PEFT now if it is imported already, otherwise right after it is."""
    wrapt.register_post_import_hook(_register, "peft")


def _register(peft: ModuleType) -> None:
    try:
        importlib.import_module(f"{__package__}.peft")
    except Exception as error:
        # Importing peft for something else must not fail because of this.
        warnings.warn(
            f"neuronsteer could not register with PEFT {getattr(peft, '__version__', '?')}, so "
            f"neuron sets cannot be loaded through it: {type(error).__name__}: {error}",
            stacklevel=2,
        )
