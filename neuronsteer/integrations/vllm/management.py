"""Sets that come and go while an engine runs.

The front end loads and compiles a set and sends its rows to all workers; they never look at a disk
or at the Hub for it. A removed set is refused to new requests at once, and its rows are used again
only when the last request that needs them has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ...errors import NeuronSteerError, ParameterError
from .admission import live_rows
from .compiled_labels import Served
from .served_sets import Catalogue
from .settings import Source

Operation = str | Mapping[str, Any] | None


def served_sets(engine: Any) -> dict[str, Any]:
    """Return what an engine serves: sets with their labels, default, capacity, rows used.

    Args:
        engine: An `LLM` or `AsyncLLM` of vLLM.
    """
    return _catalogue(_core(engine)).describe()


def add_set(
    engine: Any,
    source: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    operation: Operation = None,
) -> dict[str, Any]:
    """Serve one more neuron set from now on; returns what is served then.

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
    catalogue = _catalogue(core)
    served = catalogue.prepare(_source(source, name, revision, subfolder, operation))
    gone, moves = _wanted(core, catalogue, served)
    answers = engine.collective_rpc("neuronsteer_change", args=(gone, moves))
    return _entered(catalogue, served, gone, answers)


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
    catalogue = _catalogue(core)
    wanted = _source(source, name, revision, subfolder, operation)
    async with _lock(core):
        # Loading may mean downloading; the server goes on answering meanwhile.
        served = await asyncio.to_thread(catalogue.prepare, wanted)
        gone, moves = _wanted(core, catalogue, served)
        answers = await engine.collective_rpc("neuronsteer_change", args=(gone, moves))
        return _entered(catalogue, served, gone, answers)


def remove_set(engine: Any, name: str) -> dict[str, Any]:
    """Refuse new requests for a set from now on; returns what is served then.

    Requests that are running finish as they began.

    Args:
        engine: An `LLM` or `AsyncLLM` of vLLM.
        name: The set's name.
    """
    catalogue = _catalogue(_core(engine))
    catalogue.leave(name)
    return catalogue.describe()


def _core(engine: Any) -> Any:
    return getattr(engine, "llm_engine", engine)


def _catalogue(core: Any) -> Catalogue:
    found = getattr(core.input_processor, "neuronsteer", None)
    if found is None:
        raise ParameterError("This engine was started without neuron steering.")
    if getattr(core.vllm_config.parallel_config, "_api_process_count", 1) > 1:
        raise ParameterError(
            "Sets cannot come and go with several API server processes, because each has its own "
            "list of them. Start with --api-server-count 1."
        )
    return found


def _source(
    source: str,
    name: str | None,
    revision: str | None,
    subfolder: str | None,
    operation: Operation,
) -> Source:
    given = {
        "source": source,
        "name": name,
        "revision": revision,
        "subfolder": subfolder,
        "operation": operation,
    }
    return Source.read({field: value for field, value in given.items() if value is not None})


def _wanted(core: Any, catalogue: Catalogue, served: Served) -> tuple[list[str], list[Any]]:
    def used() -> list[str]:
        return [key for keys in live_rows(core.output_processor).values() for key in keys]

    gone = catalogue.room_for(served, used)
    return gone, [move.to_wire() for move in served.moves.values()]


def _entered(
    catalogue: Catalogue, served: Served, gone: list[str], answers: list[str | None]
) -> dict[str, Any]:
    catalogue.give_up(gone)
    said = next((answer for answer in answers if answer is not None), None)
    if said is not None:
        raise NeuronSteerError(f"The set {served.source.name!r} cannot be served: {said}")
    catalogue.enter(served)
    return catalogue.describe()


def _lock(core: Any) -> asyncio.Lock:
    # One change at a time: what has room now must still have it when the workers answer.
    return vars(core).setdefault("neuronsteer_lock", asyncio.Lock())
