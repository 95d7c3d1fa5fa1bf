"""A programmable plan of what goes wrong: `faults.add(match, kind, times=1, skip=0, **options)`.

Instead of the request being handled:

| kind | what the client sees | options |
|---|---|---|
| `rate_limit` | 429 with `Retry-After` | `retry_after=0`, `ratelimit=False` (`ratelimit:` header) |
| `unavailable` | 503 with `Retry-After` | `retry_after=0` (None: no header) |
| `server_error` | 500 | |
| `status` | any answer | `status`, `message`, `code`, `headers`, `body` |
| `expired_token` | 401, this token is expired | |
| `conflict` | 412, a commit has happened since | `status=412` (or 409) |
| `drop` | connection closed, not one byte came | `reset=False` |
| `silence` | no answer, until the client gives up and closes the connection | |
| `cut_request` | connection closed while the client was still sending | `at`, `reset=False` |

Changing what passes through, the request being handled for real:

| kind | effect | options |
|---|---|---|
| `corrupt_request` | one byte of the upload is flipped on its way | `at` |
| `lost_response` | handled (a commit is made!), then closed without an answer | `reset=False` |
| `cut_response` | connection closed in the middle of the body | `at`, `reset=False` |
| `short_body` | a valid but truncated answer: Content-Length counts what is sent | `at` |
| `wrong_length` | Content-Length is off by `delta` | `delta=7` (or negative) |
| `corrupt` | one byte of the body is flipped, the length is right | `at` |
| `stopped_body` | silence in the middle of the body | `at` |
| `headers` | headers are replaced, on answers of every kind (below) | `headers` |
| `slow` | the body comes in pieces with pauses | `delay=0.05`, `pieces=4` |

`at` is a number of bytes (int) or a fraction of the body (float, default 0.5). `reset=True` closes
with a TCP reset instead of an orderly end of stream. Kinds that change an answer only count, and
only fire, on successful answers with a body (never on HEAD, redirects or errors).

`headers` maps names to a text, to `None` (left out), or to a function of the true value. Only those
that the answer has are replaced, and `Date` and `Last-Modified` always.

`match` is a regular expression searched in `"METHOD site /path?query"`, percent-decoded, where
site is `hub` or `storage`; or a callable that takes the `LoggedRequest`. The first planned fault
that matches is used up first. `times=None` never ends.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ApiError, commit_conflict, expired_token

if TYPE_CHECKING:
    from .server import LoggedRequest

INSTEAD = ("rate_limit", "unavailable", "server_error", "status", "expired_token", "conflict")
REQUEST = ("drop", "silence", "cut_request", "corrupt_request")
LOST = ("lost_response",)
HEADERS = ("headers",)
RESPONSE = ("cut_response", "short_body", "wrong_length", "corrupt", "slow", "stopped_body")
OPTIONS: dict[str, set[str]] = {
    "rate_limit": {"retry_after", "ratelimit"},
    "unavailable": {"retry_after"},
    "server_error": set(),
    "status": {"status", "message", "code", "headers", "body"},
    "expired_token": set(),
    "conflict": {"status"},
    "drop": {"reset"},
    "silence": set(),
    "headers": {"headers"},
    "stopped_body": {"at"},
    "cut_request": {"at", "reset"},
    "corrupt_request": {"at"},
    "lost_response": {"reset"},
    "cut_response": {"at", "reset"},
    "short_body": {"at"},
    "wrong_length": {"delta"},
    "corrupt": {"at"},
    "slow": {"delay", "pieces"},
}


@dataclass
class Fault:
    """One planned failure; `hits` are the requests that it has spoilt so far."""

    match: str | Callable[[LoggedRequest], bool]
    kind: str
    times: int | None = 1
    skip: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    hits: list[LoggedRequest] = field(default_factory=list)

    @property
    def spent(self) -> bool:
        """Whether it has fired as often as planned."""
        return self.times is not None and len(self.hits) >= self.times

    def matches(self, request: LoggedRequest) -> bool:
        """Whether it is meant for this request."""
        if callable(self.match):
            return self.match(request)
        return re.search(self.match, request.line) is not None

    def position(self, total: int) -> int:
        """Where in a body of `total` bytes the fault strikes."""
        at = self.options.get("at", 0.5)
        return min(total, int(at * total) if isinstance(at, float) else at)

    def flip(self, body: bytes) -> bytes:
        """The body with one byte changed."""
        if not body:
            return body
        spoilt = bytearray(body)
        spoilt[min(self.position(len(body)), len(body) - 1)] ^= 0xFF
        return bytes(spoilt)

    def renew(self, headers: dict[str, str]) -> dict[str, str]:
        """An answer's headers, with those of the plan in their place."""
        changed = dict(headers)
        names = {name.lower(): name for name in headers}
        for name, value in self.options.get("headers", {}).items():
            here = names.get(name.lower())
            if here is None and name not in ("Date", "Last-Modified"):
                continue
            changed.pop(here or name, None)
            if value is not None:
                changed[name] = value(headers.get(here or name)) if callable(value) else value
        return changed

    @property
    def reset(self) -> bool:
        return bool(self.options.get("reset", False))

    def error(self) -> ApiError:
        """The answer of the kinds that stand in for the handler."""
        option = self.options.get
        headers: dict[str, str] = {}
        if (after := option("retry_after", 0)) is not None:
            headers["Retry-After"] = str(after)
        if self.kind == "rate_limit":
            if option("ratelimit", False):
                headers["ratelimit"] = f'"api";r=0;t={option("retry_after", 0)}'
                headers["ratelimit-policy"] = '"fixed window";"api";q=500;w=300'
            return ApiError(429, "We had to rate limit you, please slow down", None, headers)
        if self.kind == "unavailable":
            return ApiError(503, "Service Unavailable", None, headers)
        if self.kind == "server_error":
            return ApiError(
                500, "Internal Error - We're working hard to fix this as soon as we can"
            )
        if self.kind == "expired_token":
            return expired_token("test token")
        if self.kind == "conflict":
            if option("status", 412) == 412:
                return commit_conflict()
            return ApiError(option("status"), "Another conflicting commit is in progress")
        return ApiError(
            option("status"),
            option("message", "Injected failure"),
            option("code"),
            option("headers"),
            option("body"),
        )


class Faults:
    """The plan; safe to change while requests are served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.plan: list[Fault] = []

    def add(
        self,
        match: str | Callable[[LoggedRequest], bool],
        kind: str,
        times: int | None = 1,
        skip: int = 0,
        **options: Any,
    ) -> Fault:
        """Plan a failure for the next `times` matching requests after the first `skip`."""
        if kind not in OPTIONS:
            raise ValueError(f"Unknown fault {kind!r}; there are {sorted(OPTIONS)}.")
        if unknown := set(options) - OPTIONS[kind]:
            raise ValueError(f"{kind!r} takes {sorted(OPTIONS[kind])}, not {sorted(unknown)}.")
        fault = Fault(match, kind, times, skip, options)
        with self._lock:
            self.plan.append(fault)
        return fault

    def clear(self) -> None:
        """Nothing goes wrong from here on."""
        with self._lock:
            self.plan.clear()

    @property
    def pending(self) -> list[Fault]:
        """Faults with a number of times that have not fired as often as planned."""
        return [fault for fault in self.plan if fault.times is not None and not fault.spent]

    def take(self, kinds: tuple[str, ...], request: LoggedRequest) -> Fault | None:
        """Use up the first planned fault of these kinds for a request."""
        with self._lock:
            for fault in self.plan:
                if fault.kind not in kinds or fault.spent or not fault.matches(request):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.hits.append(request)
                request.fault = fault.kind
                return fault
        return None
