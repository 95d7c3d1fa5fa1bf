"""Files from the Hub: all from one commit, and with the content that the Hub says they have."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import HubError, ParameterError, did_you_mean
from .atomic_files import beside
from .errors import MissingFileError, hub_error, is_unreachable, with_retries
from .folders import clean_subfolder, local_folder, similar_folder

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Beyond this, hashing would take longer than loading; files of neuron sets are far smaller.
_HASHED_UP_TO = 64 << 20
_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class DownloadOptions(TypedDict, total=False):
    """What can be said about a download, wherever something is loaded from the Hub.

    Attributes:
        revision: Branch, tag or commit. Ignored for local folders.
        subfolder: Folder inside the repository or local folder.
        token: Hub token; default: the one stored by `hf auth login`.
        cache_dir: Download cache; default: the Hugging Face cache.
        local_files_only: Never ask the network, take the cached copy.
        force_download: Download even if cached.
    """

    revision: str | None
    subfolder: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    force_download: bool


def fetch(
    repo_or_path: str | os.PathLike[str],
    *,
    filenames: Sequence[str],
    ownerless: bool = False,
    **options: Unpack[DownloadOptions],
) -> Path:
    """Return a local folder that holds `filenames`.

    Args:
        repo_or_path: An existing folder, a name such as `"demo/lape"`, or a Hub repository id. A
            folder is returned as it is, even if files are missing (the caller knows what to say).
        filenames: Files to download, all from the same commit. All of them must exist in the
            repository.
        ownerless: Whether a repository may have a name without owner: only old models do ("gpt2").
        **options: Revision, subfolder, token and so on; see `DownloadOptions`.

    Raises:
        MissingFileError: If the repository lacks one of the files.
        HubError: If there is no such folder or repository, or it cannot be reached or read.
    """
    name = os.fspath(repo_or_path)
    check_options("Loading", options, DownloadOptions.__optional_keys__)
    subfolder = clean_subfolder(options.get("subfolder"))
    local = local_folder(name, filenames, subfolder, ownerless=ownerless)
    if local is not None:
        return local
    cache, token, revision = options.get("cache_dir"), options.get("token"), options.get("revision")
    passed: dict[str, Any] = {
        "subfolder": subfolder,
        "token": token,
        "cache_dir": None if cache is None else Path(cache).expanduser(),
        "local_files_only": options.get("local_files_only", False),
        "library_name": "neuronsteer",
    }
    force = options.get("force_download", False)
    commit = revision
    folder = None
    for filename in filenames:
        try:
            path = _download(name, filename, force, revision=commit, **passed)
        except Exception as error:
            place = f"{subfolder}/{filename}" if subfolder else filename
            raise _explain(error, name, revision, place, token, folder) from error
        if folder not in (None, path.parent):
            raise HubError(
                f"The Hub gave files of two commits of {name!r}, though one was asked for: "
                "something between here and the Hub changes its answers. Nothing was loaded; try "
                "again, or use another network."
            )
        # The branch may move between two files, so the rest comes from the commit of the first.
        folder = path.parent
        commit = path.parents[subfolder.count("/") + 1 if subfolder else 0].name
    if folder is None:
        raise HubError(f"No files were asked for from {name!r}.")
    return folder


def check_options(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ParameterError` for an option that does not exist."""
    for option in given:
        if option not in known:
            raise ParameterError(
                f"{what} takes no argument {option!r}; expected {', '.join(sorted(known))}."
                + did_you_mean(option, known)
            )


def _download(repo_id: str, filename: str, force: bool, **options: Any) -> Path:
    """Return the path of a file whose content is what the Hub says it is.

    The client compares lengths only, and would keep a damaged file in its cache for ever.
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    where = {name: options[name] for name in ("cache_dir", "revision")}
    place = "/".join(part for part in (options["subfolder"], filename) if part)
    found = try_to_load_from_cache(repo_id, place, **where)
    cached = Path(found) if isinstance(found, str) else None
    if not options["local_files_only"] and (force or cached is None):
        # The client would try for half a minute, and write a warning each time.
        cause = connection_error()
        if cause is not None:
            raise errors.LocalEntryNotFoundError(str(cause)) from cause
    for _ in range(_ATTEMPTS):
        download = partial(hf_hub_download, repo_id, filename, force_download=force, **options)
        with _set_aside(cached if force else None):
            path = Path(with_retries(download))
        if _has_expected_content(path):
            return path
        if options["local_files_only"]:
            raise HubError(
                f"The cached copy of {filename!r} of {repo_id!r} is damaged. Load it once without "
                "local_files_only, with a network: it is then downloaded anew."
            )
        _log.warning("%s of %s is damaged; downloading it again.", filename, repo_id)
        force, cached = True, path
    raise HubError(
        f"{filename!r} of {repo_id!r} arrived damaged {_ATTEMPTS} times: something between here "
        "and the Hub changes it. Nothing was loaded; try again, or use another network."
    )


@contextmanager
def _set_aside(cached: Path | None) -> Generator[None]:
    """Let a download replace a cached file, which comes back if the download fails.

    The client renews the content only: a name in its cache that points to another content than the
    Hub means now would point there for ever.
    """
    if cached is None:
        yield
        return
    kept = beside(cached, "old")
    # Another process may do the same at this moment.
    with suppress(FileNotFoundError):
        cached.rename(kept)
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            kept.replace(cached)
        raise
    kept.unlink(missing_ok=True)


def connection_error() -> Exception | None:
    """Return why no connection to the Hub can be made, `None` if one can or nobody may try."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # the errors of the HTTP library, whichever is installed
        return error if is_unreachable(error) else None
    return None


def _has_expected_content(path: Path) -> bool:
    """Return whether a cached file has the hash that its blob is named after."""
    blob = path.resolve()
    # Without symbolic links (Windows) the cache has no blobs, and nothing to compare with.
    if blob == path or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return True
    if blob.stat().st_size > _HASHED_UP_TO:
        return True
    return blob.name in digests(blob.read_bytes())


def digests(content: bytes) -> tuple[str, str]:
    """Return the names that the Hub may give to a content: git's blob id, and its SHA-256."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return git.hexdigest(), hashlib.sha256(content).hexdigest()


def _explain(
    error: Exception,
    repo_id: str,
    revision: str | None,
    place: str,
    token: str | bool | None,
    folder: Path | None,
) -> HubError:
    """Return the error for the user, with what else the Hub says about the repository."""
    from huggingface_hub import HfApi, errors

    api = HfApi(token=token, library_name="neuronsteer")
    found = hub_error(error, repo_id, revision, place)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return HubError(f"{found}{similar_folder(repo_id)}")
    if isinstance(error, errors.EntryNotFoundError):
        available: list[str] = []
        with suppress(Exception):  # it would only improve the message
            available = api.list_repo_files(repo_id, revision=revision)
        name = place.rpartition("/")[2]
        return MissingFileError(str(found), missing=name, available=available, folder=folder)
    if type(error) is errors.RepositoryNotFoundError and "is expired" not in str(error):
        kind = None
        with suppress(Exception):
            kinds = ("dataset", "space")
            kind = next((k for k in kinds if api.repo_exists(repo_id, repo_type=k)), None)
        found = hub_error(error, repo_id, revision, place, kind=kind)
        return HubError(f"{found}{similar_folder(repo_id)}")
    return found
