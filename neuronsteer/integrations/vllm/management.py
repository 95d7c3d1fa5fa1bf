"""Adding and removing neuron sets while an engine runs.

The front end loads and checks a set and sends it to all workers; they read
neither the Hub nor the set's folder for it. Requests for a removed set are refused at once, and its
rows are reused only after the last request that needs them has finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ...errors import NeuronSteerError, ParameterError
from .admission import rows_in_use
from .compiled_labels import ServedSet
from .served_sets import ServedSets
from .settings import SetSource

Operation = str | Mapping[str, Any] | None


def list_sets(engine: Any) -> dict[str, Any]:
    """Return what an engine serves: sets with their labels, default, capacity, labels used.

    Args:
        engine: An `LLM` or `AsyncLLM` of vLLM.
    """
    return _served(_core(engine)).describe()


def add_set(
    engine: Any,
    source: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    operation: Operation = None,
) -> dict[str, Any]:
    """Serve one more neuron set from now on; return what is served then.

    Args:
        engine: An `LLM` of vLLM; for `AsyncLLM` see `add_set_async`.
        source: Folder or Hub id.
        name: What to call it; default: the last part of `source`.
        revision: Branch, tag or commit.
        subfolder: Folder inside.
        operation: What steering does; default: what the set's header says.

    Raises:
        NeuronSteerError: If it cannot be served; nothing changes then.
    """
    core = _core(engine)
    served = _served(core)
    new = served.prepare(_source(source, name, revision, subfolder, operation))
    freed, change = _changes(core, served, new)
    errors = engine.collective_rpc("neuronsteer_change", args=change)
    return _finish(served, new, freed, errors)


async def add_set_async(
    engine: Any,
    source: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    operation: Operation = None,
) -> dict[str, Any]:
    """As `add_set`, for an `AsyncLLM`."""
    core = _core(engine)
    served = _served(core)
    wanted = _source(source, name, revision, subfolder, operation)
    async with _lock(core):
        # Loading may mean downloading; the server keeps answering meanwhile.
        new = await asyncio.to_thread(served.prepare, wanted)
        freed, change = _changes(core, served, new)
        errors = await engine.collective_rpc("neuronsteer_change", args=change)
        return _finish(served, new, freed, errors)


def remove_set(engine: Any, name: str) -> dict[str, Any]:
    """Refuse new requests for a set from now on; return what is served then.

    Running requests finish as they began.

    Args:
        engine: An `LLM` or `AsyncLLM` of vLLM.
        name: The set's name.
    """
    served = _served(_core(engine))
    served.remove(name)
    return served.describe()


def _core(engine: Any) -> Any:
    return getattr(engine, "llm_engine", engine)


def _served(core: Any) -> ServedSets:
    found = getattr(core.input_processor, "neuronsteer", None)
    if found is None:
        raise ParameterError("This engine was started without neuron steering.")
    if getattr(core.vllm_config.parallel_config, "_api_process_count", 1) > 1:
        raise ParameterError(
            "Sets cannot be added or removed with several API server processes, because each has "
            "its own list of them. Start with --api-server-count 1."
        )
    return found


def _source(
    source: str,
    name: str | None,
    revision: str | None,
    subfolder: str | None,
    operation: Operation,
) -> SetSource:
    given = {
        "source": source,
        "name": name,
        "revision": revision,
        "subfolder": subfolder,
        "operation": operation,
    }
    return SetSource.read({field: value for field, value in given.items() if value is not None})


def _changes(
    core: Any, served: ServedSets, new: ServedSet
) -> tuple[list[str], tuple[list[str], list[Any]]]:
    """Return the rows that become free, and for the workers the sets they keep and add."""

    def used() -> list[str]:
        return [key for keys in rows_in_use(core.output_processor).values() for key in keys]

    freed = served.check_capacity(new, used)
    return freed, (served.set_keys(freed), [new.to_wire()])


def _finish(
    served: ServedSets, new: ServedSet, freed: list[str], errors: list[str | None]
) -> dict[str, Any]:
    served.forget(freed)
    error = next((each for each in errors if each is not None), None)
    if error is not None:
        raise NeuronSteerError(f"The set {new.source.name!r} cannot be served: {error}")
    served.add(new)
    return served.describe()


def _lock(core: Any) -> asyncio.Lock:
    # One change at a time: rows that are free now must still be free when the workers answer.
    return vars(core).setdefault("neuronsteer_lock", asyncio.Lock())
