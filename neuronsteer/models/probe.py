"""A short forward pass of a few tokens, with hooks that are gone when it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .hook_point import INPUT, first_tensor

#: A module, `"input"` or `"output"`, and what is called with its arguments or its result.
Watched = tuple[nn.Module, str, Callable[[Any], None]]

# Any ids do: the shape rule compares a handful of values.
_TOKENS = 5


def record(root: Any, modules: Iterable[tuple[str, nn.Module, str]]) -> dict[str, Tensor]:
    """Return what each `(key, module, side)` saw for a few tokens; absent if never called."""
    values: dict[str, Tensor] = {}
    watched: list[Watched] = []
    for key, module, side in modules:
        watched.append(
            (module, side, lambda value, key=key: values.update({key: first_tensor(value).clone()}))
        )
    run_tokens(root, _TOKENS, watched)
    return values


def run_tokens(root: Any, tokens: int, watched: Iterable[Watched] = ()) -> None:
    """Run `tokens` tokens through the model, eagerly, and let `watched` see its modules."""
    handles: list[RemovableHandle] = []
    try:
        for module, side, callback in watched:
            handles.append(_hook(module, side, callback))
        ids = torch.arange(tokens, device=_device(root))[None] + 1
        # Eager, because a compiled graph from before would not contain these hooks, and compiling
        # one for a single token would take minutes.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            root(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, side: str, callback: Callable[[Any], None]) -> RemovableHandle:
    if side == INPUT:

        def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            callback(args if args else next(iter(kwargs.values())))

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> None:
        callback(output)

    return module.register_forward_hook(after)


def _device(root: Any) -> torch.device:
    """Return where input ids belong. Offloaded models move them themselves."""
    embeddings = root.get_input_embeddings()
    device = next((p.device for p in embeddings.parameters()), torch.device("cpu"))
    return torch.device("cpu") if device.type == "meta" else device
