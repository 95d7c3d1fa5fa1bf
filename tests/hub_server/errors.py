"""Errors as the Hub words them: status, `X-Error-Code`, `X-Error-Message` and JSON body."""

from __future__ import annotations

from typing import Any

INVALID_CREDENTIALS = "Invalid credentials in Authorization header"


class ApiError(Exception):
    """A request that the Hub refuses.

    Args:
        status: HTTP status.
        message: text for `X-Error-Message` and for `error` in the body.
        code: `X-Error-Code`, the header that the client maps to an exception class.
        headers: more response headers.
        body: replaces the standard JSON body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.body = {"error": message} if body is None else body


def unauthenticated() -> ApiError:
    """Nobody is logged in, or the repository must not be known to exist."""
    return ApiError(401, "Invalid username or password.")


def invalid_credentials() -> ApiError:
    """A token that the Hub has never issued, or has revoked."""
    return ApiError(401, INVALID_CREDENTIALS)


def expired_token(name: str) -> ApiError:
    """A token past its expiry date."""
    return ApiError(401, f'User Access Token "{name}" is expired')


def repo_not_found() -> ApiError:
    """Missing, or private and not readable by this (valid) user."""
    return ApiError(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> ApiError:
    """No branch, tag, pull-request ref or commit of that name."""
    return ApiError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str = "Entry not found", commit: str | None = None) -> ApiError:
    """No file or folder of that path; the commit header lets the client cache the absence."""
    headers = {"X-Repo-Commit": commit} if commit else {}
    return ApiError(404, message, "EntryNotFound", headers)


def forbidden(message: str) -> ApiError:
    """A known user without the right."""
    return ApiError(403, message)


def gated(repo_id: str, kind: str, authenticated: bool) -> ApiError:
    """A gated repository: 401 to strangers, 403 to users who were not accepted."""
    start = f"Access to {kind} {repo_id} is restricted"
    if authenticated:
        message = f"{start} and you are not in the authorized list. Visit it to ask for access."
        return ApiError(403, message, "GatedRepo")
    message = f"{start}. You must have access to it and be authenticated to access it."
    return ApiError(401, f"{message} Please log in.", "GatedRepo")


def commit_conflict() -> ApiError:
    """The branch no longer points to the `parentCommit` of the request."""
    return ApiError(412, "A commit has happened since. Please refresh and try again.")


def storage_error(status: int, code: str, message: str) -> ApiError:
    """An answer of the storage bucket, which speaks XML and knows no Hub headers."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return ApiError(status, message, None, None, body.encode())
