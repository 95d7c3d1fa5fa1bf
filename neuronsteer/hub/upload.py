"""Files to the Hub: one commit that is there completely, or a repository as it was before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import HubError
from .atomic_files import scratch_folder
from .download import check_options, digests, fetch
from .errors import (
    LONGEST_SILENCE,
    RetryBudget,
    hub_error,
    is_temporary,
    silence_ends,
    status_code,
    with_retries,
)
from .folders import check_repo_id

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from typing_extensions import Unpack

_log = logging.getLogger(__name__)


class UploadOptions(TypedDict, total=False):
    """What can be said about an upload, wherever something is pushed to the Hub.

    Attributes:
        private: Whether a new repository is private. An existing public one is refused if `True`.
        revision: Branch, made if needed.
        create_pr: Whether to open a pull request instead of committing.
        token: Hub token; default: the one stored by `hf auth login`.
    """

    private: bool | None
    revision: str | None
    create_pr: bool
    token: str | bool | None


@dataclass(frozen=True)
class CommitContent:
    """What a commit does: files that it writes, and files that it deletes."""

    files: Mapping[str, bytes]
    deleted: Sequence[str] = ()


class Repository:
    """A model repository on the Hub that is going to be changed; made if it does not exist.

    Attributes:
        repo_id: Its id, with the owner.
        head: The commit that the branch is at.
        files: Path and content id of every file in that commit.

    Args:
        repo_id: `owner/name`.
        **options: See `UploadOptions`.

    Raises:
        HubError: If the token may not write there, or the Hub cannot be reached.
    """

    def __init__(self, repo_id: str, **options: Unpack[UploadOptions]) -> None:
        from huggingface_hub import HfApi

        check_options("Uploading", options, UploadOptions.__optional_keys__)
        check_repo_id(repo_id)
        self.repo_id = repo_id
        self.revision = options.get("revision")
        self._create_pr = options.get("create_pr", False)
        self._token = options.get("token")
        self._api: Any = HfApi(token=self._token, library_name="neuronsteer")
        self.head = ""
        self.files: dict[str, str] = {}
        try:
            self._open(options.get("private"))
        except Exception as error:
            raise hub_error(error, repo_id, self.revision, writing=True) from error

    def _open(self, private: bool | None) -> None:
        from huggingface_hub.errors import RevisionNotFoundError

        # Asking for a repository that exists is allowed, but not by a token without write access
        # to its namespace; such a user can still open a pull request.
        if not self._create_pr or not self._exists():
            made = with_retries(
                lambda: self._api.create_repo(self.repo_id, private=private, exist_ok=True)
            )
            self.repo_id = made.repo_id
        try:
            info = self._read_state()
        except RevisionNotFoundError:
            if self._create_pr or self.revision is None:
                raise
            with_retries(
                lambda: self._api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
            )
            info = self._read_state()
        if private and not info.private:
            raise HubError(
                f"The repository {self.repo_id!r} exists and is public, but private was asked for. "
                "Nothing was uploaded. Make it private in its settings, or take another name."
            )

    def _exists(self) -> bool:
        from huggingface_hub.errors import (
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            self._read_state("main")
        except (GatedRepoError, RevisionNotFoundError):
            return True
        except RepositoryNotFoundError:
            return False
        return True

    def _read_state(self, revision: str | None = None) -> Any:
        """Read the state of the branch, or return the one of another revision."""
        asked = revision or self.revision
        info = with_retries(
            lambda: self._api.repo_info(
                self.repo_id, revision=asked, files_metadata=True, timeout=LONGEST_SILENCE
            )
        )
        if revision is None:
            self.head, self.files = info.sha, _content_ids(info)
        return info

    def read(self, path: str) -> bytes:
        """Return the content of a file of the branch's commit."""
        folder, _, name = path.rpartition("/")
        # A cache of its own: what is read here is looked at once.
        with scratch_folder() as scratch:
            found = fetch(
                self.repo_id,
                filenames=[name],
                subfolder=folder,
                revision=self.head,
                token=self._token,
                cache_dir=scratch,
            )
            return (found / name).read_bytes()

    def commit(self, decide: Callable[[Repository], CommitContent], message: str) -> CommitInfo:
        """Make one commit, or open one pull request, and return what the Hub says about it.

        Args:
            decide: Returns what to commit, from what is there; called again when somebody
                else's commit came first.
            message: The commit's title.

        Raises:
            HubError: If it could not be made; the repository is then as it was before, unless the
                message says that this is not known.
        """
        try:
            budget = RetryBudget()
            while True:
                content = decide(self)
                try:
                    with silence_ends():
                        return self._commit(content, message)
                except Exception as error:
                    if status_code(error) not in (409, 412) and not is_temporary(error):
                        raise
                    failure = error
                # The answer may be lost and the commit there all the same.
                try:
                    done = self._find(content, message)
                except Exception as error:
                    said = hub_error(error, self.repo_id, self.revision, writing=True)
                    raise HubError(
                        f"{said} Whether the upload arrived is not known; pushing the same again "
                        "is safe."
                    ) from error
                if done is not None:
                    return done
                if not budget.wait(failure):
                    raise failure
        except Exception as error:
            raise hub_error(error, self.repo_id, self.revision, writing=True) from error

    def _commit(self, content: CommitContent, message: str) -> CommitInfo:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        adds = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)
            for path, data in content.files.items()
        ]
        options: dict[str, Any] = {"revision": self.revision, "create_pr": self._create_pr}
        if ".gitignore" in self.files:
            # The Hub leaves ignored files out of a commit without an error.
            self._api.preupload_lfs_files(self.repo_id, adds, free_memory=False, **options)
            ignored = [add.path_in_repo for add in adds if getattr(add, "_should_ignore", False)]
            if ignored:
                raise HubError(
                    f"The .gitignore of {self.repo_id!r} excludes {', '.join(ignored)}. Nothing "
                    "was uploaded. Remove that rule from the repository."
                )
        made = self._api.create_commit(
            self.repo_id,
            [*adds, *(CommitOperationDelete(path_in_repo=path) for path in content.deleted)],
            commit_message=message,
            parent_commit=self.head,
            **options,
        )
        self._check(content, made.pr_revision or made.oid)
        return made

    def _check(self, content: CommitContent, revision: str) -> None:
        """Raise if the Hub acknowledged a commit that does not hold what was sent."""
        try:
            there = _content_ids(self._read_state(revision))
        except Exception as error:
            _log.warning("The upload was acknowledged but cannot be looked at (%r).", error)
            return
        if not _holds(there, content):
            raise ConnectionError(
                "the files on the Hub are not what was sent; loading refuses them until a push "
                "succeeds"
            )

    def _find(self, content: CommitContent, message: str) -> CommitInfo | None:
        """Return the commit or pull request if it was made after all."""
        before = self.head
        self._read_state()
        if not self._create_pr:
            done = self.head != before and _holds(self.files, content)
            return self._commit_info(message, self.head) if done else None
        found = with_retries(
            lambda: list(
                self._api.get_repo_discussions(
                    self.repo_id, discussion_type="pull_request", discussion_status="open"
                )
            )
        )
        for each in found:
            if each.title == message:
                state = self._read_state(f"refs/pr/{each.num}")
                if _holds(_content_ids(state), content):
                    return self._commit_info(message, state.sha, each.url)
        return None

    def _commit_info(self, message: str, commit: str, pr_url: str | None = None) -> CommitInfo:
        from huggingface_hub import CommitInfo

        return CommitInfo(
            commit_url=f"{self._api.endpoint}/{self.repo_id}/commit/{commit}",
            commit_message=message,
            commit_description="",
            oid=commit,
            _endpoint=self._api.endpoint,
            pr_url=pr_url,
        )


def _content_ids(info: Any) -> dict[str, str]:
    return {
        file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
        for file in info.siblings or []
    }


def _holds(there: Mapping[str, str], content: CommitContent) -> bool:
    gone = not any(path in there for path in content.deleted)
    return gone and all(there.get(path) in digests(data) for path, data in content.files.items())
