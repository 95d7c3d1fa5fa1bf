"""Gradient checkpointing: layers run again in `backward()`, under the plans of their own pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import HookError
from .layer_hooks import Plan
from .runs import SteererState


class KeepsPlans(Protocol):
    """What is asked of a tracker."""

    def plans(self) -> list[tuple[SteererState, Plan | None]]:
        """Return the plans of this thread."""
        ...

    def is_attached(self, state: SteererState) -> bool:
        """Return whether the steerer is still attached."""
        ...


class RecomputedLayer:
    """A checkpointing function that runs a layer under the plans of its own forward pass."""

    def __init__(self, original: Callable[..., Any], tracker: KeepsPlans) -> None:
        self.original = original
        self.tracker = weakref.ref(tracker)

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the checkpointing function; what it runs keeps the plans of this moment."""
        tracker = self.tracker()
        plans = [] if tracker is None else tracker.plans()

        def under_the_same_plans(*args: Any, **kwargs: Any) -> Any:
            # The first time these are in force anyway; in backward() it may be another thread.
            before = [(state, state.current.local.plan) for state, _ in plans]
            for state, plan in plans:
                steered = plan is not None and plan.row is not None
                if steered and (tracker is None or not tracker.is_attached(state)):
                    raise HookError(
                        "A steerer was detached between forward() and backward(), and gradient "
                        "checkpointing has to run its layers again. Call backward() before "
                        "detach()."
                    )
                state.current.local.plan = plan
            try:
                return function(*args, **kwargs)
            finally:
                for state, plan in before:
                    state.current.local.plan = plan

        return self.original(under_the_same_plans, *args, **kwargs)

    def __reduce__(self) -> Any:
        return _same, (self.original,)  # a copy of the model has the function as it was


def _same(value: Any) -> Any:
    return value
