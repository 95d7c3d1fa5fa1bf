"""A short forward pass with temporary hooks: does each tap see anything?

A dead hook is silent. Kernels that replace a whole MLP and read its weights never call the modules
inside, and steering them does nothing. This file and `hooks.py` are the only ones that register
hooks; those here are gone when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .hook_point import INPUT, OUTPUT, Tap, first_tensor

# Any ids do: only whether modules are called matters, and for the shape rule a handful of values.
_TOKENS = 5


@dataclass(frozen=True)
class ProbeResult:
    """What one tap saw in a one-token forward pass.

    Attributes:
        site: The tap's site.
        layer: The tap's layer.
        name: The tap's module path.
        fired: Whether the module was called with a tensor of the expected width.
        calls: How often it was called.
        seen_width: Last dimension of what it saw; `None` if nothing.
    """

    site: str
    layer: int
    name: str
    fired: bool
    calls: int
    seen_width: int | None


def probe_taps(root: Any, taps: Sequence[Tap]) -> list[ProbeResult]:
    """Return, per tap, whether a hook fires in a one-token forward pass of the model."""
    calls = [0] * len(taps)
    widths: list[int | None] = [None] * len(taps)

    def seen(index: int, value: Any) -> None:
        calls[index] += 1
        tensor = first_tensor(value)
        widths[index] = int(tensor.shape[-1])

    watched: list[tuple[nn.Module, str, Callable[[Any], None]]] = []
    for index, tap in enumerate(taps):
        # A block of experts is reached by its inputs; its neurons never leave it as a tensor.
        side = OUTPUT if tap.side == OUTPUT else INPUT
        watched.append((tap.module, side, lambda value, index=index: seen(index, value)))
    _forward(root, watched, tokens=1)
    return [
        ProbeResult(
            tap.site,
            tap.layer,
            tap.name,
            fired=calls[i] > 0 and (tap.experts is not None or widths[i] == tap.tensor_width),
            calls=calls[i],
            seen_width=widths[i],
        )
        for i, tap in enumerate(taps)
    ]


def record(root: Any, modules: Iterable[tuple[str, nn.Module, str]]) -> dict[str, Tensor]:
    """Return what each `(key, module, side)` saw for a few tokens; absent if never called."""
    values: dict[str, Tensor] = {}
    watched: list[tuple[nn.Module, str, Callable[[Any], None]]] = []
    for key, module, side in modules:
        watched.append(
            (module, side, lambda value, key=key: values.update({key: first_tensor(value).clone()}))
        )
    _forward(root, watched, tokens=_TOKENS)
    return values


def _forward(
    root: Any, watched: Iterable[tuple[nn.Module, str, Callable[[Any], None]]], tokens: int
) -> None:
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


def run_tokens(root: Any, tokens: int) -> None:
    """Run `tokens` tokens through the model, eagerly, for hooks that are there already."""
    _forward(root, (), tokens)
