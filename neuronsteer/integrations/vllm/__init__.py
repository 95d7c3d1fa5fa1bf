"""vLLM: a language per request, switched in mid-generation, in one continuous batch.

`register` is the entry point that vLLM calls in each of its processes. It changes nothing for an
engine whose `additional_config` does not name neuron sets. See `docs/serving.md`; what of vLLM is
touched, and what would break if it changed, is listed in `private.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .management import add_set, add_set_async, remove_set, served_sets

__all__ = ["add_set", "add_set_async", "register", "remove_set", "served_sets"]


def register() -> None:
    """Make neuron steering available in this process; the entry point for vLLM."""
    from . import admission, workers
    from . import runner_v1 as runner_one
    from . import runner_v2 as runner_two

    for part in (admission, workers, runner_one, runner_two):
        part.install()


def __getattr__(name: str) -> Any:
    # vLLM loads this module in processes that never change a set.
    if name in __all__:
        from . import management

        return getattr(management, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
