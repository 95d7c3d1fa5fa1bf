"""From a method and a path to the function that answers it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .errors import ApiError, repo_not_found, unauthenticated
from .transport import Request, Response

if TYPE_CHECKING:
    from .server import HubServer

Answer = Callable[..., Response]
PLACEHOLDERS = {
    "types": r"(?P<types>models|datasets|spaces)",
    "prefix": r"(?P<prefix>(?:datasets/|spaces/)?)",
    "repo": r"(?P<repo>[^/]+/[^/]+?)",
    "rev": r"(?P<rev>[^/]+)",
    "path": r"(?P<path>.+)",
    "num": r"(?P<num>\d+)",
    "name": r"(?P<name>[^/]+)",
}
ROUTES: list[tuple[set[str], re.Pattern[str], Answer, str]] = []


def route(methods: str, pattern: str, site: str = "hub") -> Callable[[Answer], Answer]:
    """Register a handler for e.g. `"GET HEAD"`, `"/api/{types}/{repo}/refs"`.

    `{types}` and `{prefix}` arrive as `kind` ("model", "dataset", "space"); every group arrives
    percent-decoded.
    """
    escaped = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}")
    compiled = re.compile(escaped.format(**PLACEHOLDERS))

    def register(function: Answer) -> Answer:
        ROUTES.append((set(methods.split()), compiled, function, site))
        return function

    return register


def dispatch(hub: HubServer, request: Request) -> Response:
    """Answer a request, or say that the Hub (or this imitation of it) does not."""
    for methods, pattern, function, site in ROUTES:
        if site != request.site or request.method not in methods:
            continue
        found = pattern.fullmatch(request.path)
        if found is None:
            continue
        groups: dict[str, Any] = {k: unquote(v or "") for k, v in found.groupdict().items()}
        if "types" in groups:
            groups["kind"] = groups.pop("types").rstrip("s")
        if "prefix" in groups:
            groups["kind"] = groups.pop("prefix").rstrip("s/") or "model"
        if "num" in groups:
            groups["num"] = int(groups["num"])
        return function(hub, request, **groups)
    if re.match(r"/api/(models|datasets|spaces)/[^/]+$|/[^/]+/resolve/", request.path):
        # A name without a namespace: real on huggingface.co, never on this one.
        raise repo_not_found() if hub.token(request) else unauthenticated()
    raise ApiError(501, f"The test Hub does not play {request.method} {request.path}")
