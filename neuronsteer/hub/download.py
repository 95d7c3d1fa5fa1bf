"""Files from the Hub: all from one commit, and with the content that the Hub says they have."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import HubError
from .failures import MissingFileError, translate
from .folders import clean_subfolder, local_folder
from .retrying import patiently

# Beyond this, hashing would take longer than loading; files of neuron sets are far smaller.
_HASHED_UP_TO = 64 << 20
_DOWNLOADS = 3

_log = logging.getLogger(__name__)


def fetch(
    repo_or_path: str | os.PathLike[str],
    *,
    filenames: Sequence[str],
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return a local folder that holds `filenames`.

    Args:
        repo_or_path: An existing folder, a name such as `"demo/lape"`, or a Hub repository id. A
            folder is returned as it is, even if files are missing (the caller knows what to say).
        filenames: Files to download, all from the same commit. All of them must exist in the
            repository.
        revision: Branch, tag or commit on the Hub. Ignored for local folders.
        subfolder: Folder inside the repository or local folder.
        token: Hub token; `None` uses the one stored by `hf auth login`.
        cache_dir: Download cache; default: the Hugging Face cache.
        local_files_only: Never ask the network, take the cached copy.
        force_download: Download even if cached.

    Raises:
        MissingFileError: If the repository lacks one of the files.
        HubError: If there is no such folder or repository, or it cannot be reached or read.
    """
    name = os.fspath(repo_or_path)
    subfolder = clean_subfolder(subfolder)
    local = local_folder(name, filenames, subfolder)
    if local is not None:
        return local
    options: dict[str, Any] = {
        "subfolder": subfolder,
        "token": token,
        "cache_dir": None if cache_dir is None else Path(cache_dir).expanduser(),
        "local_files_only": local_files_only,
        "library_name": "neuronsteer",
    }
    commit = revision
    path = None
    for filename in filenames:
        try:
            path = _intact(name, filename, force_download, revision=commit, **options)
        except Exception as error:
            place = f"{subfolder}/{filename}" if subfolder else filename
            raise _explained(error, name, revision, place, token, path) from error
        # The branch may move between two files, so the rest comes from the commit of the first.
        commit = path.parents[subfolder.count("/") + 1 if subfolder else 0].name
    if path is None:
        raise HubError(f"No files were asked for from {name!r}.")
    return path.parent


def _intact(repo_id: str, filename: str, force: bool, **options: Any) -> Path:
    """Return the path of a file whose content is what the Hub says it is.

    The client compares lengths only, and would keep a damaged file in its cache for ever.
    """
    from huggingface_hub import hf_hub_download

    for _ in range(_DOWNLOADS):
        download = partial(hf_hub_download, repo_id, filename, force_download=force, **options)
        path = Path(patiently(download))
        if _as_promised(path):
            return path
        if options["local_files_only"]:
            raise HubError(
                f"The cached copy of {filename!r} of {repo_id!r} is damaged. Load it once without "
                "local_files_only, with a network: it is then downloaded anew."
            )
        _log.warning("%s of %s is damaged; downloading it again.", filename, repo_id)
        force = True
    raise HubError(
        f"{filename!r} of {repo_id!r} arrived damaged {_DOWNLOADS} times: something between here "
        "and the Hub changes it. Nothing was loaded; try again, or use another network."
    )


def _as_promised(path: Path) -> bool:
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


def _explained(
    error: Exception,
    repo_id: str,
    revision: str | None,
    place: str,
    token: str | bool | None,
    fetched: Path | None,
) -> HubError:
    """Return the translated error, with what more the Hub knows about the repository."""
    from huggingface_hub import HfApi, errors

    api = HfApi(token=token, library_name="neuronsteer")
    kind, told = None, translate(error, repo_id, revision, place)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return told
    if isinstance(error, errors.EntryNotFoundError):
        there: list[str] = []
        with suppress(Exception):  # only the message gets better by it
            there = api.list_repo_files(repo_id, revision=revision)
        folder = None if fetched is None else fetched.parent
        name = place.rpartition("/")[2]
        return MissingFileError(str(told), missing=name, there=there, folder=folder)
    if type(error) is errors.RepositoryNotFoundError and "is expired" not in str(error):
        with suppress(Exception):
            kinds = ("dataset", "space")
            kind = next((k for k in kinds if api.repo_exists(repo_id, repo_type=k)), None)
        return translate(error, repo_id, revision, place, kind=kind)
    return told
