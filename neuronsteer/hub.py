"""Folders in, folders out: local paths, the Hugging Face Hub, and data inside this package.

Knows files, not what is in them. Writing is atomic per file; every way in which the Hub can say no
becomes a `HubError` that tells what to do.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .errors import HubError

# Folders below this package data folder can be named like a repository: "demo", "demo/lape".
_BUILTIN = "demo"
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def builtin(name: str) -> Path | None:
    """Return the folder of a set shipped inside this package, or `None`.

    `"demo"` and `"demo/<set>"` are such names. The folder is looked up without importing anything
    from it, so this file needs to know nothing about the demo.
    """
    parts = name.split("/")
    if parts[0] != _BUILTIN or not all(re.fullmatch(r"[\w-]+", part) for part in parts):
        return None
    spec = importlib.util.find_spec(__name__.rpartition(".")[0])
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root).joinpath(*parts)
        if folder.is_dir():
            return folder
    return None


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
        filenames: Files to download. All of them must exist in the repository.
        revision: Branch, tag or commit on the Hub. Ignored for local folders.
        subfolder: Folder inside the repository or local folder.
        token: Hub token; `None` uses the one stored by `hf auth login`.
        cache_dir: Download cache; default: the Hugging Face cache.
        local_files_only: Never ask the network, take the cached copy.
        force_download: Download even if cached.

    Raises:
        HubError: If there is no such folder or repository, or it cannot be reached or read.
    """
    name = os.fspath(repo_or_path)
    local = _local_folder(name, filenames, subfolder)
    if local is not None:
        return local
    from huggingface_hub import hf_hub_download

    paths: list[str] = []
    for filename in filenames:
        try:
            path = hf_hub_download(
                name,
                filename,
                subfolder=subfolder,
                revision=revision,
                token=token,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=local_files_only,
                force_download=force_download,
                library_name="neuronsteer",
            )
        except Exception as error:
            place = f"{subfolder}/{filename}" if subfolder else filename
            raise translate(error, name, revision, place) from error
        paths.append(path)
    return Path(paths[0]).parent


def _local_folder(name: str, filenames: Sequence[str], subfolder: str | None) -> Path | None:
    """Return the folder meant by `name`, `None` if it is a repository id, or raise."""
    if not name.strip():
        raise HubError("An empty name: expected a folder or a Hub repository id.")
    path = Path(name).expanduser()
    folder = path / subfolder if subfolder else path
    shipped = builtin(f"{name}/{subfolder}" if subfolder else name)
    if shipped is not None and _has_any(shipped, filenames) and not _has_any(folder, filenames):
        # A folder that happens to be called "demo" hides the shipped one only if it holds a set.
        return shipped
    if folder.is_dir():
        return folder
    if path.is_dir():
        raise HubError(f"The folder {name!r} has no subfolder {subfolder!r}.")
    if path.exists():
        raise HubError(f"{name!r} is a file; expected a folder or a Hub repository id.")
    if name == _BUILTIN:
        raise HubError(
            "This installation of neuronsteer carries no demo set. `neuronsteer demo` makes one."
        )
    if not _REPO_ID.fullmatch(name) or name.startswith("."):
        raise HubError(
            f"No folder {name!r}, and it cannot be a Hub repository id "
            "(expected 'owner/name'). Check the path."
        )
    return None


def _has_any(folder: Path, filenames: Sequence[str]) -> bool:
    return any((folder / file).exists() for file in filenames)


def publish(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
) -> str:
    """Upload the files of `folder` to a Hub repository and return the URL of the commit or PR.

    The repository is created if it does not exist, and so is the branch `revision`. Files that
    exist only in the repository are left alone.

    Raises:
        HubError: If the token may not write there, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="neuronsteer")
    try:
        # Asking for a repository that exists is allowed, but not by a token without write access
        # to its namespace; such a user can still open a pull request.
        if not create_pr or not api.repo_exists(repo_id):
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder),
            revision=revision,
            commit_message=commit_message or "Upload with neuronsteer",
            create_pr=create_pr,
        )
    except Exception as error:
        raise translate(error, repo_id, revision) from error
    return str(commit.pr_url or commit.commit_url)


def translate(
    error: Exception, repo_id: str, revision: str | None = None, filename: str | None = None
) -> HubError:
    """Return the `HubError` that says what an error of `huggingface_hub` means for the user."""
    from huggingface_hub import errors

    login = "run `hf auth login`, or pass token="
    status = _status(error)
    rules: list[tuple[bool, str]] = [
        (
            isinstance(error, errors.GatedRepoError),
            f"The repository {repo_id!r} is gated: accept its terms on the Hub, then {login}.",
        ),
        (
            isinstance(error, errors.RepositoryNotFoundError),
            f"No folder and no Hub repository called {repo_id!r} (or it is private). "
            f"Check the name; for a private repository {login}.",
        ),
        (
            isinstance(error, errors.RevisionNotFoundError),
            f"The repository {repo_id!r} has no revision {revision!r}. Check branch or tag.",
        ),
        (
            isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled),
            f"{repo_id!r} is no local folder and not in the download cache, and the Hub was not "
            "reached (offline, or local_files_only). Connect once to download it, or pass the "
            "path of a folder.",
        ),
        (
            isinstance(error, errors.EntryNotFoundError),
            f"The repository {repo_id!r} has no file {filename or _first_line(error)!r}. "
            "Is it another kind of repository, or is subfolder= missing or wrong?",
        ),
        (
            isinstance(error, errors.HFValidationError),
            f"No folder {repo_id!r}, and it cannot be a Hub repository id: {_first_line(error)}",
        ),
        (
            status == 429,
            f"The Hub refuses more requests for now (429, rate limit) for {repo_id!r}. "
            f"Wait some minutes; signed-in users have a higher limit: {login}.",
        ),
        (
            status in (401, 403),
            f"The Hub refuses access to {repo_id!r} ({status}): the token is missing, expired or "
            f"lacks the permission. To use another one, {login}.",
        ),
    ]
    for applies, message in rules:
        if applies:
            return HubError(message)
    return HubError(f"Could not reach or use {repo_id!r} on the Hub: {_first_line(error)}")


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path:
    """Write `files` into `folder`, each one atomically, and return the folder.

    All contents are on disk before the first file is replaced, and files are replaced in the given
    order: put the one that makes the folder loadable last.

    Raises:
        HubError: If the folder cannot be written; nothing was replaced then.
    """
    target = Path(folder).expanduser()
    staged: dict[str, Path] = {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            staged[name] = target / f".{name}.{secrets.token_hex(4)}.tmp"
            with staged[name].open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            os.replace(staged[name], target / name)
            del staged[name]
    except OSError as error:
        raise HubError(f"Cannot write to {str(folder)!r}: {error.strerror or error}.") from error
    finally:
        for leftover in staged.values():
            with suppress(OSError):
                leftover.unlink()
    return target
