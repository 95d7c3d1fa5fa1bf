"""Writing: preupload, the LFS batch and its uploads, and commits."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import cards
from .errors import ApiError, commit_conflict, entry_not_found, storage_error
from .repos_api import web_url
from .router import route
from .store import Blob, Commit, Repo
from .transport import Request, Response

if TYPE_CHECKING:
    from .server import HubServer

BASE = "/api/{types}/{repo}"
GIT = "/{prefix}{repo}.git/info/lfs"


@dataclass
class Upload:
    """An upload that storage waits for: where it belongs and what it must turn out to be."""

    repo: Repo
    oid: str
    size: int
    chunk_size: int | None = None
    parts: dict[int, bytes] = field(default_factory=dict)


def is_large(hub: HubServer, tree: Mapping[str, Blob], path: str, size: int, sample: bytes) -> bool:
    """Whether a file goes to storage: by `.gitattributes`, by size, or because it is binary."""
    attributes = tree[".gitattributes"].data.decode() if ".gitattributes" in tree else ""
    name = path.split("/")[-1]
    for line in attributes.splitlines():
        pattern, *rules = line.split() or [""]
        if "filter=lfs" in rules and fnmatch.fnmatchcase(path if "/" in pattern else name, pattern):
            return True
    return size >= hub.lfs_threshold or b"\0" in sample


def ignored(rules: str, path: str) -> bool:
    """A simple reading of .gitignore: plain patterns, folders, no negation."""
    for line in rules.splitlines():
        rule = line.strip().strip("/")
        if not rule or rule.startswith("#"):
            continue
        parts = path.split("/")
        if fnmatch.fnmatchcase(path, rule) or any(fnmatch.fnmatchcase(p, rule) for p in parts):
            return True
    return False


@route("POST", f"{BASE}/preupload/{{rev}}")
def preupload(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """How each file must be uploaded, and its id if it is there already."""
    create_pr = request.query.get("create_pr") == "1"
    found, _ = hub.writable(request, kind, repo, rev, create_pr)
    tree, payload = found.resolve(rev).tree, request.json()
    rules = payload.get("gitIgnore")
    if rules is None:
        rules = tree[".gitignore"].data.decode() if ".gitignore" in tree else ""
    if len(payload["files"]) > 256:
        raise ApiError(413, "Too many files in one request")
    files = []
    for file in payload["files"]:
        path, sample = file["path"], base64.b64decode(file.get("sample", ""))
        entry = {
            "path": path,
            "uploadMode": "lfs" if is_large(hub, tree, path, file["size"], sample) else "regular",
            "shouldIgnore": ignored(rules, path),
        }
        if path in tree:
            entry["oid"] = tree[path].etag
        files.append(entry)
    return Response(body={"files": files, "commitOid": found.resolve(rev).oid})


@route("POST", f"{GIT}/objects/batch")
def batch(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """Where to put large files; nothing to do for those that are there."""
    payload = request.json()
    ref = payload.get("ref", {}).get("name")
    # Without a ref the upload is for a pull request, which needs no right to a branch.
    found, _ = hub.writable(request, kind, repo, ref or "", create_pr=ref is None)
    if ref is not None:
        found.resolve(ref)
    if payload.get("operation") != "upload" or payload.get("hash_algo", "sha256") != "sha256":
        raise ApiError(422, "Only uploads by sha256 are played")
    objects = []
    for item in payload["objects"]:
        entry: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in found.lfs:
            upload = upload_action(hub, found, item, payload.get("transfers", ["basic"]))
            verify = {"href": f"{web_url(hub, found)}.git/info/lfs/verify", "header": {}}
            entry |= {"authenticated": True, "actions": {"upload": upload, "verify": verify}}
        objects.append(entry)
    multipart = any("chunk_size" in str(entry) for entry in objects)
    body = {"transfer": "multipart" if multipart else "basic", "objects": objects}
    return Response(body=body, headers={"Content-Type": "application/vnd.git-lfs+json"})


def upload_action(
    hub: HubServer, repo: Repo, item: dict[str, Any], transfers: list[str]
) -> dict[str, Any]:
    """Signed addresses for one upload, in one piece or in parts."""
    upload, ticket = Upload(repo, item["oid"], item["size"]), secrets.token_hex(8)
    hub.uploads[ticket] = upload
    signed = f"{hub.storage_url}/upload/{ticket}"
    if hub.multipart_over is None or upload.size <= hub.multipart_over:
        return {"href": f"{signed}?X-Amz-Signature={ticket}", "header": {}}
    if "multipart" not in transfers:
        raise ApiError(422, "This file must be uploaded in parts")
    upload.chunk_size = hub.chunk_size
    count = -(-upload.size // hub.chunk_size)
    parts = {f"{n:05d}": f"{signed}/{n}?X-Amz-Signature={ticket}" for n in range(1, count + 1)}
    href = f"{hub.url}/api/complete_multipart?uploadId={ticket}"
    return {"href": href, "header": {"chunk_size": str(hub.chunk_size), **parts}}


def open_upload(hub: HubServer, ticket: str) -> Upload:
    """The upload that a signed address stands for."""
    if ticket not in hub.uploads:
        raise storage_error(403, "AccessDenied", "Request has expired")
    return hub.uploads[ticket]


@route("PUT", "/upload/{name}", site="storage")
def put_whole(hub: HubServer, request: Request, name: str) -> Response:
    """A large file in one piece; kept only if it is the file that was promised."""
    upload = open_upload(hub, name)
    if len(request.body) != upload.size:
        raise storage_error(400, "IncompleteBody", "The number of bytes is not as announced.")
    if hashlib.sha256(request.body).hexdigest() != upload.oid:
        raise storage_error(400, "BadDigest", "The SHA-256 you specified did not match.")
    upload.repo.lfs[upload.oid] = request.body
    return Response(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("PUT", "/upload/{name}/{num}", site="storage")
def put_part(hub: HubServer, request: Request, name: str, num: int) -> Response:
    """One part of a large file."""
    upload = open_upload(hub, name)
    upload.parts[num] = request.body
    return Response(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("POST", "/api/complete_multipart")
def complete(hub: HubServer, request: Request) -> Response:
    """Join the parts and check the whole."""
    upload, payload = open_upload(hub, request.query.get("uploadId", "")), request.json()
    parts = []
    for number, part in enumerate(payload["parts"], start=1):
        data = upload.parts.get(part["partNumber"])
        known = data is not None and hashlib.md5(data).hexdigest() == part["etag"].strip('"')
        if data is None or not known or part["partNumber"] != number:
            raise ApiError(400, f"Part {part['partNumber']} is missing or was changed")
        parts.append(data)
    whole = b"".join(parts)
    if len(whole) != upload.size or hashlib.sha256(whole).hexdigest() != upload.oid:
        raise ApiError(400, "The uploaded parts do not add up to the announced SHA-256")
    upload.repo.lfs[upload.oid] = whole
    return Response(body={})


@route("POST", f"{GIT}/verify")
def verify(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """Whether a large file has arrived."""
    found, token = hub.readable(request, kind, repo)
    hub.accounts.require_user(token)
    payload = request.json()
    data = found.lfs.get(payload["oid"])
    if data is None:
        raise ApiError(404, "Object not found")
    if len(data) != payload["size"]:
        raise ApiError(422, "Object has another size")
    return Response(body={})


@dataclass
class Proposal:
    """A commit request, parsed line by line."""

    title: str = ""
    description: str = ""
    parent: str | None = None
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def parse(body: bytes) -> Proposal:
    """Read newline-delimited JSON; anything unexpected rejects the whole commit."""
    proposal = Proposal()
    for line in body.splitlines():
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
        except (ValueError, KeyError, TypeError) as exc:
            raise ApiError(400, "Invalid line in the commit request") from exc
        if key == "header":
            proposal.title = value.get("summary", "")
            proposal.description = value.get("description", "")
            proposal.parent = value.get("parentCommit")
        elif key in ("file", "lfsFile", "deletedFile", "deletedFolder"):
            proposal.operations.append((key, value))
        else:
            raise ApiError(400, f"Unknown operation {key!r}")
    if not proposal.title:
        raise ApiError(400, '"summary" is required')
    return proposal


def apply(hub: HubServer, repo: Repo, base: Commit, proposal: Proposal) -> dict[str, Blob]:
    """The tree after a commit; raises before anything is changed."""
    tree = dict(base.tree)
    for key, value in proposal.operations:
        path = value.get("path", "").rstrip("/")
        if not path or path.startswith("/") or {"..", ".", "", ".git"} & set(path.split("/")):
            raise ApiError(400, f"Invalid path: {value.get('path')!r}")
        if key == "file":
            try:
                data = base64.b64decode(value["content"], validate=True)
            except (KeyError, binascii.Error) as exc:
                raise ApiError(400, f"Invalid content for {path}") from exc
            if is_large(hub, tree, path, len(data), data[:512]) and data:
                message = f"Your push was rejected because {path} must be uploaded as a large file"
                raise ApiError(400, message)
            tree[path] = Blob(data)
        elif key == "lfsFile":
            stored = repo.lfs.get(value["oid"])
            if stored is None or value.get("size", len(stored)) != len(stored):
                message = (
                    "Your push was rejected because an LFS pointer pointed to a file that does "
                    f"not exist. Offending file: {path}"
                )
                raise ApiError(400, message)
            tree[path] = Blob(stored, lfs=True)
        elif key == "deletedFile":
            if tree.pop(path, None) is None:
                raise entry_not_found(f"A file with this name doesn't exist: {path}")
        else:
            inside = [p for p in tree if p.startswith(path + "/")]
            if not inside:
                raise entry_not_found(f"A folder with this name doesn't exist: {path}")
            for name in inside:
                del tree[name]
    touched = {value["path"] for key, value in proposal.operations if key == "file"}
    if "README.md" in touched:
        errors, _ = cards.validate(tree["README.md"].data.decode(errors="replace"), repo.type)
        if errors:
            raise ApiError(400, "Invalid metadata in README.md: " + "; ".join(errors))
    return tree


@route("POST", f"{BASE}/commit/{{rev}}")
def commit(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """One atomic commit on a branch or pull request, or (`create_pr=1`) in a new pull request."""
    create_pr = request.query.get("create_pr") == "1"
    found, token = hub.writable(request, kind, repo, rev, create_pr)
    ref, proposal = found.writable_ref(rev), parse(request.body)
    base = found.resolve(ref)
    if proposal.parent and not base.oid.startswith(proposal.parent):
        if not create_pr:
            raise commit_conflict()
        base = found.resolve(proposal.parent)
    tree = apply(hub, found, base, proposal)
    made = found.store(tree, (base.oid,), proposal.title, proposal.description, token.user)
    url = f"{web_url(hub, found)}/commit/{made.oid}"
    body = {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""}
    if create_pr:
        opened = found.open_pull(proposal.title, token.user, base, target=ref)
        ref, body["pullRequestUrl"] = (
            f"refs/pr/{opened.num}",
            f"{web_url(hub, found)}/discussions/{opened.num}",
        )
    found.move(ref, made)
    return Response(body=body)


def add_files(hub: HubServer, repo: Repo, files: dict[str, bytes], author: str) -> Commit:
    """One commit made by the test itself."""
    base = repo.resolve("main")
    tree = dict(base.tree)
    for path, data in files.items():
        blob = Blob(data, is_large(hub, tree, path, len(data), data[:512]) and bool(data))
        if blob.lfs:
            repo.lfs[blob.sha256] = data
        tree[path] = blob
    made = repo.store(tree, (base.oid,), f"Add {len(files)} files", "", author)
    repo.move("main", made)
    return made
