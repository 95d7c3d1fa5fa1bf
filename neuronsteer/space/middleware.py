"""What stands before the server: small requests only, and headers that keep a page harmless."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Bytes of the largest request that a page of ours makes, with room to spare.
_LARGEST = 64 * 1024
# Doors of Gradio that nothing here uses.
_CLOSED = ("/upload", "/proxy=", "/file=", "/file/", "/custom_component", "/vibe", "/dev/")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    # The page has no script or style but its own files: text can never become code.
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'none'",
}


class Gate:
    """ASGI middleware; see the module.

    Args:
        app: What it stands before.
        ours: Paths whose answers get the strict headers (Gradio's own pages have inline scripts).
    """

    def __init__(self, app: App, ours: tuple[str, ...] = ("/", "/page/", "/welcome")) -> None:
        self._app = app
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if any(f"/gradio_api{door}" in path or path.startswith(door) for door in _CLOSED):
            await _refuse(send, 404, b"Not here.")
            return
        size = dict(scope["headers"]).get(b"content-length", b"0")
        if not size.isdigit() or int(size) > _LARGEST:
            await _refuse(send, 413, b"The request is too large.")
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # Without a length in the header the size shows only on the way.
            return {"type": "http.disconnect"} if seen > _LARGEST else message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start" and self._own(path):
                message["headers"] = [*message.get("headers", []), *_HEADERS.items()]
            await send(message)

        await self._app(scope, counted, guarded)

    def _own(self, path: str) -> bool:
        return any(path == each or (each != "/" and path.startswith(each)) for each in self._ours)


async def _refuse(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
