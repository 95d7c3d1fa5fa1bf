"""HTTP routes to list, add and remove neuron sets while a server runs.

    GET    /v1/neuronsteer/sets
    POST   /v1/neuronsteer/sets          {"source": "user/set", "name": …, "revision": …, …}
    DELETE /v1/neuronsteer/sets/NAME

These routes make the server read any folder or repository, so vLLM loads them only where
the environment variable `VLLM_PLUGINS` names `neuronsteer-sets` (`neuronsteer serve --manage`), and
they lie under `/v1`, which `--api-key` protects.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import NeuronSteerError, ParameterError, require
from . import management

PATH = "/v1/neuronsteer/sets"
#: Name of the entry point, and what `VLLM_PLUGINS` has to say.
NAME = "neuronsteer-sets"

_FIELDS = ("source", "name", "revision", "subfolder", "operation")


class SetsEndpoint:
    """What vLLM's group `vllm.endpoint_plugins` expects."""

    name = NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._engine: Any = None

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:  # noqa: ARG002
        """Remember the engine."""
        self._engine = engine_client

    def attach_router(self, app: Any) -> None:
        """Register the routes."""
        app.add_api_route(PATH, self._as_json(self._list), methods=["GET"])
        app.add_api_route(PATH, self._as_json(self._add), methods=["POST"])
        app.add_api_route(f"{PATH}/{{name:path}}", self._as_json(self._remove), methods=["DELETE"])

    async def _list(self, request: Any) -> dict[str, Any]:  # noqa: ARG002
        return management.list_sets(self._engine)

    async def _add(self, request: Any) -> dict[str, Any]:
        try:
            body = await request.json()
        except ValueError as error:
            raise ParameterError(f"The body is not JSON: {error}.") from error
        if not isinstance(body, dict) or not isinstance(body.get("source"), str):
            raise ParameterError('Expected a JSON object with a "source": a folder or a Hub id.')
        unknown = sorted(set(body) - set(_FIELDS))
        if unknown:
            raise ParameterError(f"Unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}.")
        return await management.add_set_async(self._engine, **body)

    async def _remove(self, request: Any) -> dict[str, Any]:
        return management.remove_set(self._engine, request.path_params["name"])

    def _as_json(
        self, action: Callable[[Any], Awaitable[dict[str, Any]]]
    ) -> Callable[[Any], Awaitable[Any]]:
        """Return a route: the answer as JSON, a user's mistake as HTTP 400 in OpenAI's form."""
        responses = require("starlette.responses", "vllm", "Serving")
        requests = require("starlette.requests", "vllm", "Serving")

        @functools.wraps(action)
        async def route(request: Any) -> Any:
            try:
                return responses.JSONResponse(await action(request))
            except NeuronSteerError as error:
                body = {
                    "message": str(error),
                    "type": "BadRequestError",
                    "param": "neuronsteer",
                    "code": 400,
                }
                return responses.JSONResponse({"error": body}, status_code=400)

        # FastAPI passes the request to a parameter that is annotated so, and asks the function
        # itself, not what it wraps.
        del route.__wrapped__  # pyright: ignore[reportAttributeAccessIssue]
        route.__annotations__ = {"request": requests.Request}
        return route
