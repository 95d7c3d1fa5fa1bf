"""Repositories, commits and large files of the test Hub, in memory, with git's object ids."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from types import MappingProxyType

from .errors import ApiError, revision_not_found

# What the Hub puts into a new model repository; it decides which uploads become large files.
LFS_SUFFIXES = (
    ["7z", "arrow", "bin", "bz2", "ckpt", "ftz", "gz", "h5", "joblib", "lfs.*", "mlmodel"]
    + ["model", "msgpack", "npy", "npz", "onnx", "ot", "parquet", "pb", "pickle", "pkl", "pt"]
    + ["pth", "rar", "safetensors", "tar.*", "tar", "tflite", "tgz", "wasm", "xz", "zip", "zst"]
)
GITATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES
).encode()


def git_oid(kind: str, data: bytes) -> str:
    """SHA-1 that git gives an object."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def iso(moment: float) -> str:
    """The Hub's date format."""
    stamp = datetime.fromtimestamp(moment, tz=timezone.utc)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stamp.microsecond // 1000:03d}Z"


@dataclass(frozen=True)
class Blob:
    """One file of a commit; a large one is a pointer in git and bytes in the bucket."""

    data: bytes
    lfs: bool = False

    @property
    def size(self) -> int:
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
        return f"{text}size {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        return git_oid("blob", self.pointer if self.lfs else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


def tree_oid(files: Mapping[str, Blob]) -> str:
    """Git's id of a folder, given its files by relative path."""
    folders: dict[str, dict[str, Blob]] = {}
    entries: list[tuple[str, bytes]] = []
    for path, blob in files.items():
        head, _, rest = path.partition("/")
        if rest:
            folders.setdefault(head, {})[rest] = blob
        else:
            entries.append((head, b"100644 " + head.encode() + b"\0" + bytes.fromhex(blob.oid)))
    for name, inside in folders.items():
        raw = b"40000 " + name.encode() + b"\0" + bytes.fromhex(tree_oid(inside))
        entries.append((name + "/", raw))  # git sorts folders as if they ended with a slash
    return git_oid("tree", b"".join(raw for _, raw in sorted(entries)))


@dataclass(frozen=True)
class Commit:
    """An immutable snapshot of a repository."""

    oid: str
    parents: tuple[str, ...]
    tree: Mapping[str, Blob]
    title: str
    message: str
    author: str
    date: float

    def files(self) -> dict[str, bytes]:
        """Content by path."""
        return {path: blob.data for path, blob in self.tree.items()}


@dataclass
class PullRequest:
    """A discussion with a ref of its own."""

    num: int
    title: str
    author: str
    base: str
    head: str
    status: str
    description: str = ""
    target: str = "main"
    is_pull_request: bool = True
    merge_commit: str | None = None
    created: float = field(default_factory=time.time)


class Repo:
    """A repository: refs pointing into a set of immutable commits.

    Every write makes a whole new commit first and moves one ref last, so a request that fails
    leaves nothing behind.
    """

    def __init__(self, id: str, type: str, author: str, visibility: str = "public") -> None:
        self.id = id
        self.type = type
        self.visibility = visibility
        self.gated: bool | str = False
        self.granted: set[str] = set()
        self.created = time.time()
        self.space: dict[str, object] = {}
        self.objects: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pulls: dict[int, PullRequest] = {}
        self.lfs: dict[str, bytes] = {}
        tree = {".gitattributes": Blob(GITATTRIBUTES)}
        self.branches["main"] = self.store(tree, (), "initial commit", "", author).oid

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def private(self) -> bool:
        return self.visibility == "private"

    def store(
        self,
        tree: Mapping[str, Blob],
        parents: tuple[str, ...],
        title: str,
        message: str,
        author: str,
    ) -> Commit:
        """Make a commit object without pointing any ref to it."""
        now = time.time()
        stamp = f"{author} <{author}@test.invalid> {int(now)} +0000"
        lines = [f"tree {tree_oid(tree)}", *(f"parent {oid}" for oid in parents)]
        # The number of objects keeps two equal commits of one second apart.
        lines += [f"author {stamp}", f"committer {stamp}", f"serial {len(self.objects)}"]
        raw = "\n".join([*lines, "", title, "", message]).encode()
        commit = Commit(
            git_oid("commit", raw),
            parents,
            MappingProxyType(dict(sorted(tree.items()))),
            title,
            message,
            author,
            now,
        )
        self.objects[commit.oid] = commit
        return commit

    def resolve(self, revision: str) -> Commit:
        """Commit of a branch, tag, `refs/…` or (abbreviated) id; raises the Hub's 404."""
        if revision.startswith("refs/heads/"):
            oid = self.branches.get(revision.removeprefix("refs/heads/"))
        elif revision.startswith("refs/tags/"):
            oid = self.tags.get(revision.removeprefix("refs/tags/"))
        elif found := re.fullmatch(r"refs/pr/(\d+)", revision):
            pull = self.pulls.get(int(found[1]))
            oid = pull.head if pull and pull.is_pull_request else None
        else:
            oid = self.branches.get(revision) or self.tags.get(revision) or self.expand(revision)
        if oid is None:
            raise revision_not_found(revision)
        return self.objects[oid]

    def expand(self, oid: str) -> str | None:
        """Full id of an abbreviated one."""
        if not re.fullmatch(r"[0-9a-f]{7,40}", oid):
            return None
        return next((full for full in self.objects if full.startswith(oid)), None)

    def move(self, ref: str, commit: Commit) -> None:
        """Point a branch or pull-request ref to a commit."""
        if found := re.fullmatch(r"refs/pr/(\d+)", ref):
            self.pulls[int(found[1])].head = commit.oid
        else:
            self.branches[ref.removeprefix("refs/heads/")] = commit.oid

    def writable_ref(self, revision: str) -> str:
        """The ref that a commit to `revision` moves; only branches and pull requests have one."""
        branch = revision.removeprefix("refs/heads/")
        if branch in self.branches:
            return branch
        if re.fullmatch(r"refs/pr/\d+", revision):
            self.resolve(revision)
            return revision
        raise revision_not_found(revision)

    def open_pull(
        self, title: str, author: str, start: Commit, status: str = "open", target: str = "main"
    ) -> PullRequest:
        """Open a pull request whose ref starts at a commit."""
        num = max(self.pulls, default=0) + 1
        pull = PullRequest(num, title, author, start.oid, start.oid, status, target=target)
        self.pulls[num] = pull
        return pull

    def merge(self, pull: PullRequest, author: str) -> Commit:
        """Merge a pull request by path; raises 409 when both sides changed the same file."""
        base, head = self.objects[pull.base].tree, self.objects[pull.head].tree
        ours = self.resolve(pull.target)
        tree = dict(ours.tree)
        for path in set(base) | set(head):
            before, after = base.get(path), head.get(path)
            if before == after:
                continue
            if tree.get(path) not in (before, after):
                raise ApiError(409, f"This pull request has a merge conflict in {path}")
            tree.pop(path, None)
            if after is not None:
                tree[path] = after
        title = f"{pull.title} (#{pull.num})"
        commit = self.store(tree, (ours.oid, pull.head), title, "", author)
        self.move(pull.target, commit)
        pull.status, pull.merge_commit = "merged", commit.oid
        return commit

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits of a revision, newest first, following first parents."""
        commits = [self.resolve(revision)]
        while commits[-1].parents:
            commits.append(self.objects[commits[-1].parents[0]])
        return commits

    @property
    def commits(self) -> list[Commit]:
        """Commits of main, oldest first; the first is the Hub's own "initial commit"."""
        return self.history("main")[::-1]

    @property
    def pushes(self) -> list[Commit]:
        """Commits of main made by users."""
        return self.commits[1:]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content by path, without the Hub's own `.gitattributes`."""
        found = self.resolve(revision).files()
        return {path: data for path, data in found.items() if path != ".gitattributes"}
