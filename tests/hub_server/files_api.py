"""Reading: trees, paths, `resolve` and the storage behind it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from .accounts import Token
from .errors import ApiError, entry_not_found, storage_error
from .router import route
from .store import Blob, Commit, Repo, iso, tree_oid
from .transport import Request, Response

if TYPE_CHECKING:
    from .server import HubServer

BASE = "/api/{types}/{repo}"


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    """A file of a tree."""
    entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.lfs:
        size = len(blob.pointer)
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": size}
    return entry


def folder_entry(path: str, commit: Commit) -> dict[str, Any]:
    """A folder of a tree."""
    prefix = path + "/"
    inside = {p[len(prefix) :]: b for p, b in commit.tree.items() if p.startswith(prefix)}
    return {"type": "directory", "oid": tree_oid(inside), "size": 0, "path": path}


def folders(commit: Commit) -> list[str]:
    """Every folder of a commit, parents first."""
    parts = (path.split("/")[:-1] for path in commit.tree)
    return sorted({"/".join(p[:n]) for p in parts for n in range(1, len(p) + 1)})


def with_last_commit(repo: Repo, revision: str, entry: dict[str, Any]) -> dict[str, Any]:
    """An `expand=true` entry: which commit changed it last, and the scanners' verdict."""
    path, last = entry["path"], repo.resolve(revision)
    history = repo.history(revision)
    for commit, before in zip(history, [*history[1:], None], strict=True):
        last = commit
        inside = {p for p in commit.tree if p == path or p.startswith(path + "/")}
        if before is None or any(commit.tree[p] != before.tree.get(p) for p in inside):
            break
    entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": iso(last.date)}
    if entry["type"] == "file":
        entry["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return entry


@route("GET", f"{BASE}/tree/{{rev}}")
@route("GET", f"{BASE}/tree/{{rev}}/{{path}}")
def tree(
    hub: HubServer, request: Request, kind: str, repo: str, rev: str, path: str = ""
) -> Response:
    """A folder, page by page; the next page's address is in the Link header."""
    found, _ = hub.readable(request, kind, repo)
    commit, query, path = found.resolve(rev), request.query, path.strip("/")
    if path and path not in folders(commit):
        raise entry_not_found(f"{path} does not exist on {rev}", commit.oid)
    recursive = query.get("recursive", "").lower() in ("true", "1")
    expand = query.get("expand", "").lower() in ("true", "1")

    def inside(candidate: str) -> bool:
        parent = candidate.rpartition("/")[0]
        if recursive:
            return not path or candidate.startswith(path + "/")
        return parent == path

    entries = [folder_entry(p, commit) for p in folders(commit) if inside(p)]
    entries += [file_entry(p, blob) for p, blob in commit.tree.items() if inside(p)]
    size = min(hub.page_size, 50) if expand else hub.page_size
    start = int(query.get("cursor", 0))
    page = entries[start : start + size]
    headers = {"X-Repo-Commit": commit.oid}
    if start + size < len(entries):
        following = urlencode({**query, "cursor": start + size})
        headers["Link"] = f'<{hub.url}{request.path}?{following}>; rel="next"'
    if expand:
        page = [with_last_commit(found, rev, entry) for entry in page]
    return Response(body=page, headers=headers)


@route("POST", f"{BASE}/paths-info/{{rev}}")
def paths_info(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """Entries of the paths that exist; the others are left out."""
    found, _ = hub.readable(request, kind, repo)
    commit, form = found.resolve(rev), request.form()
    if len(form.get("paths", [])) > 1000:
        raise ApiError(413, "too many parameters")
    known = set(folders(commit))
    entries = []
    for path in form.get("paths", []):
        if path in commit.tree:
            entries.append(file_entry(path, commit.tree[path]))
        elif path.strip("/") in known:
            entries.append(folder_entry(path.strip("/"), commit))
    if form.get("expand", ["false"])[0].lower() == "true":
        entries = [with_last_commit(found, rev, entry) for entry in entries]
    return Response(body=entries)


def ranged(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    """Bytes, or the part that a Range header asks for; 416 when there is no such part."""
    headers |= {"Accept-Ranges": "bytes"}
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if found is None or found.groups() == ("", ""):
        return Response(200, data, headers)
    total = len(data)
    if found[1]:
        start, end = int(found[1]), min(int(found[2] or total - 1), total - 1)
    else:
        start, end = max(0, total - int(found[2])), total - 1
    if start > end:
        span = {"Content-Range": f"bytes */{total}"}
        raise ApiError(416, "The requested range is not satisfiable", None, span)
    headers["Content-Range"] = f"bytes {start}-{end}/{total}"
    return Response(206, data[start : end + 1], headers)


def look_up(
    hub: HubServer, request: Request, kind: str, repo: str, rev: str, path: str
) -> tuple[Repo, Commit, Blob, Token | None]:
    """The file behind a `resolve` URL, if whoever asks may read it."""
    found, token = hub.readable(request, kind, repo)
    hub.accounts.require_content(token, found)
    commit = found.resolve(rev)
    if path not in commit.tree:
        raise entry_not_found(commit=commit.oid)
    return found, commit, commit.tree[path], token


@route("GET HEAD", "/{prefix}{repo}/resolve/{rev}/{path}")
def resolve(
    hub: HubServer, request: Request, kind: str, repo: str, rev: str, path: str
) -> Response:
    """A file: from storage when large, through the cache when public, else directly."""
    found, commit, blob, _ = look_up(hub, request, kind, repo, rev, path)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    name = path.split("/")[-1]
    if blob.lfs:
        shown = f"inline; filename*=UTF-8''{quote(name)}; filename=\"{name}\";"
        signed = {"response-content-disposition": shown, "X-Amz-Signature": blob.sha256[:16]}
        address = f"{hub.storage_url}/{found.type}s/{found.id}/{blob.sha256}?{urlencode(signed)}"
        headers |= {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.sha256}"'}
        return Response(302, b"", headers | {"Location": address})
    public = not found.private and not found.gated
    if hub.redirect_regular and public and blob.size:
        # Only the path: the client must follow it on the same host, with its token.
        where = f"/api/resolve-cache/{found.type}s/{found.id}/{commit.oid}/{quote(path)}"
        query = urlencode({request.path: "", "etag": f'"{blob.etag}"'})
        return Response(307, b"", headers | {"Location": f"{where}?{query}"})
    return regular(request, commit, blob, name)


def regular(request: Request, commit: Commit, blob: Blob, name: str) -> Response:
    """A file that lives in git."""
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{blob.etag}"',
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Disposition": f'inline; filename="{name}"',
    }
    if request.headers.get("If-None-Match", "").strip('W/"') == blob.etag:
        return Response(304, b"", headers)
    return ranged(request, blob.data, headers)


@route("GET HEAD", "/api/resolve-cache/{types}/{repo}/{rev}/{path}")
def resolve_cache(
    hub: HubServer, request: Request, kind: str, repo: str, rev: str, path: str
) -> Response:
    """Where `resolve` sends for small public files."""
    _, commit, blob, _ = look_up(hub, request, kind, repo, rev, path)
    return regular(request, commit, blob, path.split("/")[-1])


@route("GET HEAD", "/{types}/{repo}/{name}", site="storage")
def stored(hub: HubServer, request: Request, kind: str, repo: str, name: str) -> Response:
    """A large file, to whoever holds the signed address."""
    found = hub.repos.get((kind, repo))
    if found is None or name not in found.lfs:
        raise storage_error(404, "NoSuchKey", "The specified key does not exist.")
    if request.query.get("X-Amz-Signature") != name[:16]:
        raise storage_error(403, "SignatureDoesNotMatch", "The signature does not match.")
    return ranged(request, found.lfs[name], {"ETag": f'"{name}"'})
