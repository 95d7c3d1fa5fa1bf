"""Hooks that read activations at hook points and change nothing.

Only this file, `probe.py` and the layer hooks of `steering` register hooks, so that none is left
behind: these are registered all or none, and removed however the block ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import HookError
from .hook_point import HookPoint

#: Called with the neurons `[..., width]` that were read at a hook point.
Callback = Callable[[Tensor], None]


class HookCalls:
    """How often each hook was called.

    Attributes:
        counts: For every hook point, how often its module ran.
    """

    def __init__(self, points: Iterable[HookPoint]) -> None:
        self.counts: dict[HookPoint, int] = dict.fromkeys(points, 0)

    def missing(self) -> list[HookPoint]:
        """Return the hook points whose module has not run, in the order they were given."""
        return [point for point, calls in self.counts.items() if not calls]

    def require_all(self) -> None:
        """Raise if a hook was not called in the forward passes so far.

        Raises:
            HookError: If a module was skipped; its statistics would silently be zero.
        """
        missing = self.missing()
        if missing:
            raise HookError(
                f"{len(missing)} of {len(self.counts)} hooks did not fire, the first at "
                f"{missing[0].name!r} ({missing[0].site}, layer {missing[0].layer}). The model was "
                f"compiled before, or runs a kernel that skips this module. Use the model as "
                f"loaded: before torch.compile, without fused MLP kernels."
            )


@contextmanager
def read_activations(
    entries: Iterable[tuple[HookPoint, Callback]],
) -> Generator[HookCalls, None, None]:
    """Call each callback with what is read at its hook point, in every forward pass of the block.

    Args:
        entries: Hook points on modules (`side` input or output) with their callbacks. A callback
            must not change the tensor it gets.

    Raises:
        HookError: If a hook point is inside a block of experts, which has no module to hook.
    """
    pairs = list(entries)
    calls = HookCalls(point for point, _ in pairs)
    handles: list[RemovableHandle] = []
    try:
        for point, callback in pairs:
            handles.append(_register(point, callback, calls.counts))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _register(
    point: HookPoint, callback: Callback, counts: dict[HookPoint, int]
) -> RemovableHandle:
    def read_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts[point] += 1
        callback(point.read(args[0] if args else next(iter(kwargs.values()))))

    def read_output(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        counts[point] += 1
        callback(point.read(output))

    if point.side == "input":
        return point.module.register_forward_pre_hook(read_input, with_kwargs=True)
    if point.side == "output":
        return point.module.register_forward_hook(read_output)
    raise HookError(
        f"{point.name!r} is a block of experts, whose neurons no module returns, so that a hook "
        f"cannot read them. They are read through the experts implementation."
    )
