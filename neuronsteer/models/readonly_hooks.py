"""Read-only hooks: watch activations at taps without changing them.

`hooks.py` steers, this file listens; no third file registers hooks that stay for longer than a
probe. Hooks are registered all or none, and are removed however the block ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import HookError
from . import Tap

#: Called with the neurons `[..., width]` that a tap read.
Callback = Callable[[Tensor], None]


class Listener:
    """What is being listened to.

    Attributes:
        fired: For every tap, how often its module ran.
    """

    def __init__(self, taps: Iterable[Tap]) -> None:
        self.fired: dict[Tap, int] = dict.fromkeys(taps, 0)

    def silent(self) -> list[Tap]:
        """Return the taps that have not fired, in the order in which they were given."""
        return [tap for tap, calls in self.fired.items() if not calls]

    def require(self) -> None:
        """Raise if a tap has not fired in the forward passes so far.

        Raises:
            HookError: If a module was skipped; its statistics would silently be zero.
        """
        silent = self.silent()
        if silent:
            raise HookError(
                f"{len(silent)} of {len(self.fired)} hooks did not fire, the first at "
                f"{silent[0].name!r} ({silent[0].site}, layer {silent[0].layer}). The model was "
                f"compiled before, or runs a kernel that skips this module. Use the model as "
                f"loaded: before torch.compile, without fused MLP kernels."
            )


@contextmanager
def listen(entries: Iterable[tuple[Tap, Callback]]) -> Generator[Listener, None, None]:
    """Call each callback with what its tap reads, in every forward pass inside the block.

    Args:
        entries: Taps on modules (`side` input or output) with their callbacks. A callback must not
            change the tensor it gets.

    Raises:
        HookError: If a tap is inside a block of experts, which has no module to hook.
    """
    pairs = list(entries)
    listener = Listener(tap for tap, _ in pairs)
    handles: list[RemovableHandle] = []
    try:
        for tap, callback in pairs:
            handles.append(_register(tap, callback, listener))
        yield listener
    finally:
        for handle in handles:
            handle.remove()


def _register(tap: Tap, callback: Callback, listener: Listener) -> RemovableHandle:
    fired = listener.fired

    def read_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        fired[tap] += 1
        callback(tap.read(args[0] if args else next(iter(kwargs.values()))))

    def read_output(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        fired[tap] += 1
        callback(tap.read(output))

    if tap.side == "input":
        return tap.module.register_forward_pre_hook(read_input, with_kwargs=True)
    if tap.side == "output":
        return tap.module.register_forward_hook(read_output)
    raise HookError(
        f"{tap.name!r} is a block of experts, which has no module to hook; listen to it through "
        f"the experts implementation."
    )
