"""Finding modules and their sizes without reading a weight.

Quantised, offloaded and sharded layers keep their weights elsewhere or in another shape, so a
size comes from `in_features` / `out_features` (or what older layers call them), never from a
weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

_IN = ("in_features", "infeatures", "nx")
_OUT = ("out_features", "outfeatures", "nf")


def find(module: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at a dotted path (empty: the module itself), or `None`."""
    current: Any = module
    for name in path.split(".") if path else ():
        current = getattr(current, name, None)
        if not isinstance(current, nn.Module):
            return None
    return current


def in_size(module: nn.Module) -> int | None:
    """Return the number of inputs of a linear-like layer, or `None` if it is not known."""
    return _size(module, _IN)


def out_size(module: nn.Module) -> int | None:
    """Return the number of outputs of a linear-like layer, or `None` if it is not known."""
    return _size(module, _OUT)


def _size(module: nn.Module, names: tuple[str, ...]) -> int | None:
    inner: Any = module
    while inner is not None:
        for name in names:
            value = getattr(inner, name, None)
            if isinstance(value, int):
                return value
        # PEFT and other wrappers keep the layer they replaced.
        inner = getattr(inner, "base_layer", None)
    return None


def innermost(module: nn.Module) -> nn.Module:
    """Return the layer that adapters were wrapped around."""
    while isinstance(base := getattr(module, "base_layer", None), nn.Module):
        module = base
    return module


def unwrap(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the model inside PEFT, `torch.compile` and DDP wrappers, and their names."""
    wrapped: list[str] = []
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
            wrapped.append("torch.compile")
        elif isinstance(model, DistributedDataParallel):
            model = model.module
            wrapped.append("ddp")
        elif isinstance(get := getattr(model, "get_base_model", None), Callable):
            model = get()
            wrapped.append("peft")
        else:
            return model, tuple(wrapped)


def is_compiled(model: nn.Module) -> bool:
    """Return whether the module or a part of it runs through `torch.compile`."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
