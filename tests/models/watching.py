"""Reading and changing activations with hooks of its own, which share no code with the package."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, contextmanager

import torch

from neuronsteer.models import HookPoint


@contextmanager
def watching(points: Iterable[HookPoint]):
    """Yield {point: what its neurons were in the last forward pass}."""
    seen: dict[HookPoint, torch.Tensor] = {}
    with ExitStack() as stack:
        for point in points:
            stack.callback(_watch(point, seen).remove)
        yield seen


def _watch(point: HookPoint, seen: dict[HookPoint, torch.Tensor]):
    if point.side == "input":
        return point.module.register_forward_pre_hook(
            lambda _, args: seen.update({point: point.read(args[0]).detach().clone()})
        )
    return point.module.register_forward_hook(
        lambda _, __, out: seen.update({point: point.read(out).detach().clone()})
    )


@contextmanager
def changing(point: HookPoint, scale: torch.Tensor, shift: torch.Tensor | None = None):
    """Apply a -> a*scale + shift to the hook point's neurons."""
    wide = point.widen(scale, 1.0)
    add = point.widen(torch.zeros_like(scale) if shift is None else shift, 0.0)
    if point.side == "input":
        handle = point.module.register_forward_pre_hook(
            lambda _, args: (args[0] * wide + add, *args[1:])
        )
    else:

        def after(_, __, out):
            if isinstance(out, tuple):
                return (out[0] * wide + add, *out[1:])
            return out * wide + add

        handle = point.module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
