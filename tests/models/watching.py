"""Reading and changing what taps see by plain hooks: an oracle sharing no code with hooks.py."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, contextmanager

import torch

from neuronsteer.models import Tap


@contextmanager
def watching(taps: Iterable[Tap]):
    """Yield {tap: what its neurons were in the last forward pass}."""
    seen: dict[Tap, torch.Tensor] = {}
    with ExitStack() as stack:
        for tap in taps:
            stack.callback(_watch(tap, seen).remove)
        yield seen


def _watch(tap: Tap, seen: dict[Tap, torch.Tensor]):
    if tap.side == "input":
        return tap.module.register_forward_pre_hook(
            lambda _, args: seen.update({tap: tap.read(args[0]).detach().clone()})
        )
    return tap.module.register_forward_hook(
        lambda _, __, out: seen.update({tap: tap.read(out).detach().clone()})
    )


@contextmanager
def changing(tap: Tap, scale: torch.Tensor, shift: torch.Tensor | None = None):
    """Apply a -> a*scale + shift to the tap's neurons."""
    wide = tap.widen(scale, 1.0)
    add = tap.widen(torch.zeros_like(scale) if shift is None else shift, 0.0)
    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(
            lambda _, args: (args[0] * wide + add, *args[1:])
        )
    else:

        def after(_, __, out):
            if isinstance(out, tuple):
                return (out[0] * wide + add, *out[1:])
            return out * wide + add

        handle = tap.module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
