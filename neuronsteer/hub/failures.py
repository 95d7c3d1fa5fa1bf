"""What the errors of `huggingface_hub` and of the network mean for the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import HubError
from . import retrying

# Access tokens, and the signed part of storage addresses.
_SECRETS = [
    (re.compile(r"\bhf_\w{6,}"), "hf_…"),
    (re.compile(r"(https?://[^\s?'\")]+)\?[^\s'\")]+"), r"\1"),
]
_LOGIN = "run `hf auth login`, or pass token="


class MissingFileError(HubError):
    """A repository exists but lacks a file.

    Args:
        message: What is missing.
        missing: The file's name.
        there: The files that the repository has; empty if that is not known.
        folder: Where the files that could be fetched are.
    """

    def __init__(
        self, message: str, *, missing: str, there: Sequence[str], folder: Path | None
    ) -> None:
        super().__init__(message)
        self.missing = missing
        self.there = list(there)
        self.folder = folder


def translate(
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
        return translate(cause, repo_id, revision, filename, kind=kind, writing=writing)
    found = retrying.status(error) or retrying.status(cause)
    text = clean(error)
    refused = (
        f"The Hub refuses access to {repo_id!r} ({found}): the token is missing, wrong or lacks "
        f"the permission{' to write there' if writing else ''}. To use another one, {_LOGIN}."
    )
    if writing:
        refused += " To propose the change to the owner instead, pass create_pr=True."
    not_cached = (
        f"{repo_id!r} is no local folder and not in the download cache, and the Hub was not "
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
            f"The Hub has trouble ({found}) and cannot answer for {repo_id!r}. Try again later; "
            "https://status.huggingface.co tells how it is.",
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
            f"Somebody else changes {repo_id!r} at the same time ({found}). Try again.",
        ),
        (
            retrying.is_unreachable(error),
            f"The Hub cannot be reached for {repo_id!r} ({text}). Check the network, proxy and "
            "HF_ENDPOINT.",
        ),
        (
            retrying.is_broken(error),
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
    seconds = [retrying.retry_after(error) for error in errors if error is not None]
    longest = max((each for each in seconds if each), default=None)
    return f"Wait {longest:.0f} seconds" if longest else "Wait some minutes"
