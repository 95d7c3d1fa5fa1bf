"""What the errors of `huggingface_hub` and of the network mean, and which ones to wait out.

`huggingface_hub` retries many requests, but not all: a body that fails with 503, a reset connection
and a refused commit come through at once.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from ..errors import HubError

T = TypeVar("T")

ATTEMPTS = 5
#: Seconds that are waited at most, all attempts together. The Hub counts requests over 5 minutes.
LONGEST_WAIT = 300.0
#: Seconds without a sign of life until a request has failed. The Hub thinks long about a commit.
LONGEST_SILENCE = 120.0

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
# Access tokens, and the signed part of storage addresses.
_SECRETS = [
    (re.compile(r"\bhf_\w{6,}"), "hf_…"),
    (re.compile(r"(https?://[^\s?'\")]+)\?[^\s'\")]+"), r"\1"),
]
_LOGIN = "run `hf auth login`, or pass token="

_log = logging.getLogger(__name__)


def with_retries(call: Callable[[], T]) -> T:
    """Return `call()`, called again after failures that are likely to pass."""
    budget = RetryBudget()
    while True:
        try:
            with silence_ends():
                return call()
        except Exception as error:
            if not (is_temporary(error) and budget.wait(error)):
                raise


@contextmanager
def silence_ends() -> Generator[None]:
    """Give requests an end that `huggingface_hub` would wait for without end.

    It has time limits for downloads only, and a Hub that takes a request and never answers would
    stop a push for ever. The session belongs to the whole process, so the limit is taken back.
    """
    from huggingface_hub.utils import get_session

    session = get_session()
    if session.timeout.read is None:
        session.timeout = LONGEST_SILENCE
    try:
        yield
    finally:
        if session.timeout.read == LONGEST_SILENCE:
            session.timeout = None


class RetryBudget:
    """How often and how long one task has waited already."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def wait(self, error: Exception) -> bool:
        """Wait as long as the Hub asks for, else 1, 2, 4, 8 seconds; `False`: give up instead."""
        asked = retry_after(error)
        seconds = max(float(2**self.count), asked or 0.0)
        self.count += 1
        if self.count >= ATTEMPTS or self.seconds + seconds > LONGEST_WAIT:
            return False
        self.seconds += seconds
        reason = status_code(error) or type(error).__name__
        _log.warning("The Hub did not answer properly (%s): again in %.0f s.", reason, seconds)
        sleep(seconds)
        return True


def status_code(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an error."""
    return getattr(getattr(error, "response", None), "status_code", None)


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that the Hub asks to wait."""
    response: Any = getattr(error, "response", None)
    headers: Any = getattr(response, "headers", None) or {}
    if status_code(error) == 429:
        from huggingface_hub.utils import parse_ratelimit_headers

        limit = parse_ratelimit_headers(headers)
        if limit is not None and limit.remaining == 0:
            return float(limit.reset_in_seconds)
    try:
        return max(0.0, float(headers.get("Retry-After") or ""))
    except ValueError:
        return None


def is_broken_connection(error: BaseException | None) -> bool:
    """Return whether a connection broke, or what arrived is not what was sent."""
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


def is_disk_error(error: BaseException) -> bool:
    """Return whether a file could not be written or read on this machine.

    Such an error has a number, as those of sockets have, which are classes of their own.
    """
    if not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError):
        return False
    return error.errno is not None


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether no connection could be made at all."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"ConnectError", "ConnectTimeout", "ProxyError"})


def is_temporary(error: BaseException) -> bool:
    """Return whether trying again soon may help."""
    found = status_code(error)
    if found is not None:
        return found in _TEMPORARY
    return is_broken_connection(error) and not is_unreachable(error)


class MissingFileError(HubError):
    """A repository exists but lacks a file.

    Args:
        message: What is missing.
        missing: The file's name.
        available: The files that the repository has; empty if that is not known.
        folder: Where the files that could be fetched are.
    """

    def __init__(
        self, message: str, *, missing: str, available: Sequence[str], folder: Path | None
    ) -> None:
        super().__init__(message)
        self.missing = missing
        self.available = list(available)
        self.folder = folder


def hub_error(
    error: Exception,
    repo_id: str,
    revision: str | None = None,
    filename: str | None = None,
    *,
    kind: str | None = None,
    writing: bool = False,
) -> HubError:
    """Return the `HubError` that says what an error of `huggingface_hub` means for the user.

    Args:
        error: What was raised.
        repo_id: The repository.
        revision: What was asked for.
        filename: The file that was asked for.
        kind: "dataset" or "space", if the repository is known to be one.
        writing: Whether something was to be changed.
    """
    from huggingface_hub import errors

    if isinstance(error, HubError):
        return error
    cause = error.__cause__
    if isinstance(cause, Exception) and str(error).startswith("Force download failed"):
        return hub_error(cause, repo_id, revision, filename, kind=kind, writing=writing)
    found = status_code(error) or status_code(cause)
    text = clean(error)
    refused = (
        f"The Hub refuses access to {repo_id!r} ({found}): the token is missing, wrong or lacks "
        f"the permission{' to write there' if writing else ''}. To use another one, {_LOGIN}."
    )
    if writing:
        refused += " To propose the change to the owner instead, pass create_pr=True."
    not_cached = (
        f"{repo_id!r} is not a local folder and not in the download cache, and the Hub was not "
        "reached ({}). {} Or pass the path of a folder."
    )
    rules: list[tuple[bool, str]] = [
        (
            "is expired" in text,
            f"The Hub refuses access to {repo_id!r}: the access token has expired. Make a new one "
            f"at https://huggingface.co/settings/tokens, then {_LOGIN}.",
        ),
        (
            isinstance(error, errors.GatedRepoError),
            f"The repository {repo_id!r} is gated: accept its terms at "
            f"https://huggingface.co/{repo_id}, then {_LOGIN}.",
        ),
        (
            isinstance(error, errors.RepositoryNotFoundError) and kind is not None,
            f"{repo_id!r} is a {kind}; expected a model repository. Check the name.",
        ),
        (
            isinstance(error, errors.RepositoryNotFoundError),
            f"No folder and no Hub repository called {repo_id!r} (or it is private). "
            f"Check the name; for a private repository {_LOGIN}.",
        ),
        (
            isinstance(error, errors.DisabledRepoError),
            f"The Hub has disabled the repository {repo_id!r}.",
        ),
        (
            isinstance(error, errors.RevisionNotFoundError),
            f"The repository {repo_id!r} has no revision {revision!r}. Check branch or tag.",
        ),
        (
            found == 429,
            f"The Hub refuses more requests for now (429, rate limit) for {repo_id!r}. "
            f"{_when(error, cause)}; signed-in users have a higher limit: {_LOGIN}.",
        ),
        (
            found is not None and found >= 500,
            f"The Hub has a problem ({found}) and cannot answer for {repo_id!r}. Try again later; "
            "https://status.huggingface.co shows its state.",
        ),
        (
            isinstance(error, errors.LocalEntryNotFoundError)
            and cause is not None
            and not isinstance(cause, errors.OfflineModeIsEnabled),
            not_cached.format(clean(cause), "Check the network, proxy and HF_ENDPOINT."),
        ),
        (
            isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled),
            not_cached.format("offline, or local_files_only", "Connect once to download it."),
        ),
        (
            isinstance(error, errors.EntryNotFoundError),
            f"The repository {repo_id!r} has no file {filename or text!r}. "
            "Is it another kind of repository, or is subfolder= missing or wrong?",
        ),
        (
            isinstance(error, errors.HFValidationError),
            f"No folder {repo_id!r}, and it cannot be a Hub repository id: {text}",
        ),
        (found in (401, 403), refused),
        (
            found in (409, 412),
            f"Somebody else is changing {repo_id!r} at the same time ({found}). Try again.",
        ),
        (
            is_disk_error(error),
            f"The files of {repo_id!r} cannot be kept on this machine ({text}). "
            + (
                "Make room for temporary files, or set TMPDIR."
                if writing
                else "Make room in the download cache, or pass another with cache_dir=."
            ),
        ),
        (
            is_unreachable(error),
            f"The Hub cannot be reached for {repo_id!r} ({text}). Check the network, proxy and "
            "HF_ENDPOINT.",
        ),
        (
            is_broken_connection(error),
            f"The connection to the Hub broke, several times, for {repo_id!r} ({text}). "
            + ("Try again." if writing else "Nothing was loaded. Try again."),
        ),
    ]
    for applies, message in rules:
        if applies:
            return HubError(message)
    return HubError(f"Could not reach or use {repo_id!r} on the Hub: {text}")


def clean(error: BaseException | None) -> str:
    """Return the first line of an error's message, without secrets."""
    text = str(getattr(error, "server_message", None) or error).strip()
    text = text.splitlines()[0] if text else type(error).__name__
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _when(*errors: BaseException | None) -> str:
    seconds = [retry_after(error) for error in errors if error is not None]
    longest = max((each for each in seconds if each), default=None)
    return f"Wait {longest:.0f} seconds" if longest else "Wait a few minutes"
