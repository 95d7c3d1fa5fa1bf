"""Which failures of the Hub or the network pass by themselves, and waiting for it.

`huggingface_hub` retries many requests, but not all: a body that fails with 503, a reset connection
and a refused commit come through at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from time import sleep
from typing import Any, TypeVar

T = TypeVar("T")

ATTEMPTS = 5
#: Seconds that are waited at most, all attempts together. The Hub counts requests over 5 minutes.
PATIENCE = 300.0

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_log = logging.getLogger(__name__)


def patiently(call: Callable[[], T]) -> T:
    """Return `call()`, called again after failures that pass by themselves."""
    waits = Waits()
    while True:
        try:
            return call()
        except Exception as error:
            if not (is_passing(error) and waits.wait(error)):
                raise


class Waits:
    """How often and how long one task has waited already."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def wait(self, error: Exception) -> bool:
        """Wait as long as the Hub asks for, else 1, 2, 4, 8 seconds; `False`: give up instead."""
        asked = retry_after(error)
        seconds = max(float(2**self.count), asked or 0.0)
        self.count += 1
        if self.count >= ATTEMPTS or self.seconds + seconds > PATIENCE:
            return False
        self.seconds += seconds
        reason = status(error) or type(error).__name__
        _log.warning("The Hub did not answer properly (%s): again in %.0f s.", reason, seconds)
        sleep(seconds)
        return True


def status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an error."""
    return getattr(getattr(error, "response", None), "status_code", None)


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that the Hub asks to wait."""
    response: Any = getattr(error, "response", None)
    headers: Any = getattr(response, "headers", None) or {}
    if status(error) == 429:
        from huggingface_hub.utils import parse_ratelimit_headers

        limit = parse_ratelimit_headers(headers)
        if limit is not None and limit.remaining == 0:
            return float(limit.reset_in_seconds)
    try:
        return max(0.0, float(headers.get("Retry-After") or ""))
    except ValueError:
        return None


def is_broken(error: BaseException | None) -> bool:
    """Return whether a connection broke, or bytes arrived that nobody sent."""
    if isinstance(error, ConnectionError | TimeoutError):
        return type(error).__name__ != "OfflineModeIsEnabled"
    # The errors of the HTTP library, whichever of its versions is installed.
    names = {base.__name__ for base in type(error).__mro__}
    if "TransportError" in names:
        return "UnsupportedProtocol" not in names
    # What the client makes of a body that is too short, of an upload that arrived damaged, and of
    # an answer that is not the JSON that it should be.
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return True
    damaged = (RuntimeError, json.JSONDecodeError, UnicodeDecodeError, KeyError)
    return isinstance(error, damaged)


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether no connection could be made at all."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"ConnectError", "ConnectTimeout", "ProxyError"})


def is_passing(error: BaseException) -> bool:
    """Return whether trying again soon may help."""
    found = status(error)
    if found is not None:
        return found in _PASSING
    return is_broken(error) and not is_unreachable(error)
