"""Checks before the server: who asks, small and quick requests, headers against foreign scripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from .settings import is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Bytes of the largest request accepted; the page's own requests are much smaller.
_LARGEST = 64 * 1024
#: Seconds in which a request must have arrived: one that sends a byte now and then would keep its
#: connection for ever.
_LONGEST = 30.0
# Routes of Gradio that nothing here uses.
_CLOSED = ("/upload", "/proxy=", "/file=", "/file/", "/custom_component", "/vibe", "/dev/")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    # The page has no script or style but its own files: text can never become code.
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'none'",
}


class SecurityMiddleware:
    """Refuses unused routes, large and slow requests, and adds security headers (ASGI).

    Args:
        app: The server.
        strict: Paths whose answers get the headers (Gradio's own pages have inline scripts).
        local: Answer only requests to this machine's own name, from its own pages. A website could
            otherwise point a name of its own at this machine, and use the page as its user does.
    """

    def __init__(
        self,
        app: App,
        strict: tuple[str, ...] = ("/", "/page/", "/welcome"),
        local: bool = False,
    ) -> None:
        self._app = app
        self._strict = strict
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._local and not _is_local(scope):
            text = (
                b"This page answers only to localhost, and to pages of this machine. To let others"
            )
            text += b" reach it, see 'Running the page for others' in docs/security.md."
            await _refuse(send, 403, text)
            return
        path: str = scope["path"]
        if any(f"/gradio_api{route}" in path or path.startswith(route) for route in _CLOSED):
            await _refuse(send, 404, b"Not found.")
            return
        headers = dict(scope["headers"])
        size = headers.get(b"content-length", b"0")
        if not size.isdigit() or int(size) > _LARGEST:
            await _refuse(send, 413, b"The request is too large.")
            return
        size_so_far, end = 0, time.monotonic() + _LONGEST
        complete = int(size) == 0 and b"transfer-encoding" not in headers

        async def limited() -> Message:
            nonlocal size_so_far, complete
            if complete:  # what is waited for now is the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except asyncio.TimeoutError:
                return {"type": "http.disconnect"}
            # Without a length in the header the size is known only as the body arrives.
            size_so_far += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            return {"type": "http.disconnect"} if size_so_far > _LARGEST else message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_strict(path):
                message["headers"] = [*message.get("headers", []), *_HEADERS.items()]
            await send(message)

        await self._app(scope, limited, with_headers)

    def _is_strict(self, path: str) -> bool:
        return any(path == each or (each != "/" and path.startswith(each)) for each in self._strict)


def _is_local(scope: Scope) -> bool:
    """Return whether host and origin of a request are names of this machine only."""
    named = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
    hosts = [f"//{value}" for name, value in named if name == b"host"]
    origins = [value for name, value in named if name == b"origin"]
    try:
        return bool(hosts) and all(
            is_loopback(urlsplit(each).hostname or "") for each in hosts + origins
        )
    except ValueError:  # no address at all
        return False


async def _refuse(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
