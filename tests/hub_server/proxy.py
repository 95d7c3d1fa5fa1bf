"""A forward proxy for plain HTTP, as a company has it between its machines and the Hub."""

from __future__ import annotations

import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OF_ONE_HOP = {"connection", "proxy-connection", "keep-alive", "transfer-encoding"}


class Proxy(ThreadingHTTPServer):
    """`with Proxy() as proxy:` forwards what it is asked for.

    Attributes:
        url: For `HTTP_PROXY`.
        seen: The addresses that it was asked for.
        answer: Status and body that it gives instead of forwarding, `None` to forward.
    """

    daemon_threads = True

    def __init__(self, answer: tuple[int, bytes] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[str] = []
        self.answer = answer
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def forward(self) -> None:
        self.server.seen.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.answer is not None:
            status, data = self.server.answer
            headers = [("Content-Type", "text/html"), ("Content-Length", str(len(data)))]
            return self.reply(status, headers, data)
        place = urlsplit(self.path)
        connection = HTTPConnection(place.hostname or "", place.port or 80)
        sent = {k: v for k, v in self.headers.items() if k.lower() not in _OF_ONE_HOP}
        connection.request(self.command, place._replace(scheme="", netloc="").geturl(), body, sent)
        answer = connection.getresponse()
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _OF_ONE_HOP]
        return self.reply(answer.status, headers, answer.read())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = forward  # noqa: N815

    def reply(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""
