"""HTTP/1.1 on a socket: reads requests, writes responses, and breaks both as planned."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from .errors import INVALID_CREDENTIALS, ApiError
from .faults import HEADERS, INSTEAD, LOST, REQUEST, RESPONSE, Fault

if TYPE_CHECKING:
    from .server import HubServer, LoggedRequest

REPO_URL = re.compile(r"^/api/(models|datasets|spaces)/.+|^/.+/resolve/.+")


@dataclass
class Request:
    """A complete request."""

    method: str
    target: str
    headers: Message
    body: bytes
    site: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.path = parts.path
        self.query = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}

    def json(self) -> Any:
        """Body as JSON; 400 when it is not."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError as exc:
            raise ApiError(400, "Invalid JSON in the request body") from exc

    def form(self) -> dict[str, list[str]]:
        """Body as an HTML form."""
        return parse_qs(self.body.decode())


@dataclass
class Response:
    """What to send back; a `body` that is not bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.body, bytes):
            self.headers.setdefault("Content-Type", "application/json; charset=utf-8")
            self.body = json.dumps(self.body).encode()


def refusal(error: ApiError, request: Request) -> Response:
    """Response of an error.

    The client takes a 401 about a repository for "not found" by looking at the URL, but only an
    https one. This server speaks plain http, so it says with a header what the URL cannot.
    """
    headers = dict(error.headers)
    code = error.code
    if request.site == "hub":
        if error.status == 401 and code is None and error.message != INVALID_CREDENTIALS:
            code = "RepoNotFound" if REPO_URL.match(request.path) else None
        headers["X-Error-Message"] = error.message
        if code:
            headers["X-Error-Code"] = code
    return Response(error.status, error.body, headers)


class _Gone(Exception):
    """The connection was closed on purpose, or by the client."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def serve(self) -> None:
        """Read, answer and log one request."""
        hub, site = self.server.hub, self.server.site
        entry = hub.log(self.command, site, self.path, self.headers.get("Authorization"))
        try:
            fault = hub.faults.take(REQUEST, entry)
            if fault and fault.kind == "drop":
                self.hang_up(fault.reset)
            if fault and fault.kind == "silence":
                self.wait_for_the_end()
            body = self.read_body(entry, fault)
            if fault and fault.kind == "corrupt_request":
                body = fault.flip(body)
            request = Request(self.command, self.path, self.headers, body, site)
            if planned := hub.faults.take(INSTEAD, entry):
                response = refusal(planned.error(), request)
            else:
                response = hub.answer(request)
            entry.status = response.status
            self.send(response, entry)
        except (_Gone, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815

    def read_body(self, entry: LoggedRequest, fault: Fault | None) -> bytes:
        """The request's body, or as much of it as a planned cut lets through."""
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        length = int(self.headers.get("Content-Length") or 0)
        limit = None
        if fault and fault.kind == "cut_request":
            # A chunked body has no total, so that fractions cut it at once.
            limit = fault.position(length)
        parts: list[bytes] = []
        remaining = length
        while chunked or remaining:
            if chunked:
                size = int(self.rfile.readline().split(b";")[0], 16)
                piece = self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
            else:
                want = remaining if limit is None else min(remaining, limit - entry.received)
                piece = self.rfile.read(min(want, 1 << 16))
                remaining -= len(piece)
            entry.received += len(piece)
            parts.append(piece)
            if limit is not None and entry.received >= limit:
                self.hang_up(fault.reset if fault else False)
            if not piece:
                raise _Gone
        return b"".join(parts)

    def send(self, response: Response, entry: LoggedRequest) -> None:
        """Write a response, spoilt by the planned fault if there is one."""
        faults = self.server.hub.faults
        if lost := faults.take(LOST, entry):
            self.hang_up(lost.reset)
        body, fault, delta = response.body, None, 0
        if self.command != "HEAD" and body and 200 <= response.status < 300:
            fault = faults.take(RESPONSE, entry)
        kind = fault.kind if fault else None
        if fault and kind == "corrupt":
            body = fault.flip(body)
        elif fault and kind == "short_body":
            body = body[: fault.position(len(body))]
        elif fault and kind == "wrong_length":
            delta = fault.options.get("delta", 7)
        headers = {"Date": self.date_time_string(), **response.headers}
        headers["X-Request-Id"] = entry.request_id
        headers.setdefault("Content-Length", str(max(0, len(body) + delta)))
        if renewed := faults.take(HEADERS, entry):
            headers = renewed.renew(headers)
        self.send_response_only(response.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and kind == "cut_response":
            self.put(body[: fault.position(len(body))], entry)
            self.hang_up(fault.reset)
        if fault and kind == "stopped_body":
            self.put(body[: fault.position(len(body))], entry)
            self.wait_for_the_end()
        if fault and kind == "slow":
            step = max(1, -(-len(body) // fault.options.get("pieces", 4)))
            for start in range(0, len(body), step):
                time.sleep(fault.options.get("delay", 0.05))
                self.put(body[start : start + step], entry)
            return
        self.put(body, entry)
        if delta:
            self.hang_up(False)

    def put(self, data: bytes, entry: LoggedRequest) -> None:
        """Send body bytes and count them."""
        self.wfile.write(data)
        entry.sent += len(data)

    def wait_for_the_end(self) -> None:
        """Say nothing more until the client closes the connection."""
        while self.connection.recv(1 << 16):
            pass
        raise _Gone

    def hang_up(self, reset: bool) -> None:
        """Close the connection now: with a TCP reset, or with an end of stream."""
        self.close_connection = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            # Files made from the socket keep it open; without the descriptor they cannot.
            os.close(self.connection.detach())
        raise _Gone

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: requests are in the server's own log."""


class Listener(ThreadingHTTPServer):
    """One port of the Hub: the site itself or its storage."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: HubServer, site: str, port: int = 0) -> None:
        self.hub = hub
        self.site = site
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Errors inside handlers are answered with 500 and kept; the rest are closed sockets."""

    def stop(self) -> None:
        """Refuse new connections and cut the idle ones that clients keep."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
