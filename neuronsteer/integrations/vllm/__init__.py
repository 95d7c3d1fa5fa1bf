"""vLLM: a language per request, switched in mid-generation, in one continuous batch.

`register` is the entry point that vLLM calls in each of its processes. It changes nothing for an
engine whose `additional_config` does not name neuron sets. See `docs/serving.md`; what is used of
vLLM, and what would break if it changed, is listed in `vllm_internals.py`.
"""

from . import admission, runner_v1, runner_v2, workers
from .management import add_set, add_set_async, list_sets, remove_set

__all__ = ["add_set", "add_set_async", "list_sets", "register", "remove_set"]


def register() -> None:
    """Make neuron steering available in this process; the entry point for vLLM."""
    for part in (admission, workers, runner_v1, runner_v2):
        part.install()
