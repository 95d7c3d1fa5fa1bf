"""Branches, tags, history, discussions and pull requests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .errors import ApiError, forbidden
from .router import route
from .store import PullRequest, Repo, iso
from .transport import Request, Response

if TYPE_CHECKING:
    from .server import HubServer

BASE = "/api/{types}/{repo}"
REF_NAME = re.compile(r"(?!refs/)(?!.*(\.\.|//|@\{|\.lock$))[^\s~^:?*\[\\]+")


@route("GET", f"{BASE}/refs")
def refs(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """All refs; pull requests only when asked for."""
    found, _ = hub.readable(request, kind, repo)

    def named(prefix: str, targets: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{prefix}/{name}", "targetCommit": oid}
            for name, oid in targets.items()
        ]

    body: dict[str, Any] = {
        "branches": named("heads", found.branches),
        "tags": named("tags", found.tags),
        "converts": [],
    }
    if request.query.get("include_prs"):
        heads = {str(p.num): p.head for p in found.pulls.values() if p.is_pull_request}
        body["pullRequests"] = named("pr", heads)
    return Response(body=body)


@route("POST DELETE", f"{BASE}/branch/{{rev}}")
def branch(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """Make a branch (from `startingPoint`) or delete one."""
    found, _ = hub.writable(request, kind, repo)
    if request.method == "DELETE":
        if rev == "main":
            raise forbidden("Cannot delete the default branch")
        if found.branches.pop(rev, None) is None:
            raise ApiError(404, "Reference does not exist")
        return Response()
    if not REF_NAME.fullmatch(rev):
        raise ApiError(400, "Invalid reference for a branch")
    if rev in found.branches:
        raise ApiError(409, "Reference already exists")
    payload = request.json()
    if payload.get("emptyBranch"):
        raise ApiError(501, "The test Hub makes no empty branches")
    found.branches[rev] = found.resolve(payload.get("startingPoint") or "main").oid
    return Response()


@route("POST DELETE", f"{BASE}/tag/{{rev}}")
def tag(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """Tag a revision, or delete a tag."""
    found, _ = hub.writable(request, kind, repo)
    if request.method == "DELETE":
        if found.tags.pop(rev, None) is None:
            raise ApiError(404, "Tag does not exist")
        return Response()
    name = request.json().get("tag", "")
    if not REF_NAME.fullmatch(name):
        raise ApiError(400, "Invalid reference for a tag")
    commit = found.resolve(rev)
    if name in found.tags:
        raise ApiError(409, "Tag reference exists already.")
    found.tags[name] = commit.oid
    return Response()


@route("GET", f"{BASE}/commits/{{rev}}")
def commits(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """History, newest first, on one page."""
    found, _ = hub.readable(request, kind, repo)
    body = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": iso(commit.date),
        }
        for commit in found.history(rev)
    ]
    return Response(body=body, headers={"X-Total-Count": str(len(body))})


@route("POST", f"{BASE}/super-squash/{{rev}}")
def squash(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """Replace a branch's history with one commit."""
    found, token = hub.writable(request, kind, repo)
    ref, tree = found.writable_ref(rev), found.resolve(rev).tree
    title = request.json().get("message") or "Super-squash"
    found.move(ref, found.store(tree, (), title, "", token.user))
    return Response()


def describe(repo: Repo, pull: PullRequest) -> dict[str, Any]:
    """A discussion as JSON."""
    body: dict[str, Any] = {
        "num": pull.num,
        "title": pull.title,
        "author": {"name": pull.author},
        "status": pull.status,
        "isPullRequest": pull.is_pull_request,
        "createdAt": iso(pull.created),
        "repo": {"name": repo.id, "type": repo.type},
        "events": [],
    }
    if pull.is_pull_request:
        body["changes"] = {"base": f"refs/heads/{pull.target}"}
        if pull.merge_commit:
            body["changes"]["mergeCommitId"] = pull.merge_commit
        body |= {"filesWithConflicts": [], "diff": ""}
    return body


@route("GET POST", f"{BASE}/discussions")
def discussions(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """List discussions on one page, or open one; a pull request opened here is a draft."""
    found, token = hub.readable(request, kind, repo)
    if request.method == "POST":
        token = hub.accounts.require_write(token, found, create_pr=True)
        payload = request.json()
        title = payload.get("title", "").strip()
        if not 3 <= len(title) <= 200:
            raise ApiError(400, '"title" must be 3 to 200 characters long')
        is_pull = bool(payload.get("pullRequest"))
        status = "draft" if is_pull else "open"
        pull = found.open_pull(title, token.user, found.resolve("main"), status)
        pull.is_pull_request, pull.description = is_pull, payload.get("description", "")
        return Response(body=describe(found, pull))
    query, pulls = request.query, []
    for pull in found.pulls.values():
        state = "open" if pull.status in ("open", "draft") else "closed"
        type_ = "pull_request" if pull.is_pull_request else "discussion"
        wanted = query.get("type", "all") in ("all", type_)
        wanted = wanted and query.get("status", "all") in ("all", state)
        if wanted and query.get("author", pull.author) == pull.author:
            pulls.append(describe(found, pull))
    start = len(pulls) if int(query.get("p", 0)) else 0
    body = {"discussions": pulls[start:], "count": len(pulls), "start": start}
    return Response(body=body)


def one(repo: Repo, num: int) -> PullRequest:
    """A discussion by number."""
    if num not in repo.pulls:
        raise ApiError(404, "Discussion not found")
    return repo.pulls[num]


@route("GET", f"{BASE}/discussions/{{num}}")
def discussion(hub: HubServer, request: Request, kind: str, repo: str, num: int) -> Response:
    """One discussion, without its events."""
    found, _ = hub.readable(request, kind, repo)
    return Response(body=describe(found, one(found, num)))


@route("POST", f"{BASE}/discussions/{{num}}/merge")
def merge(hub: HubServer, request: Request, kind: str, repo: str, num: int) -> Response:
    """Merge an open pull request."""
    found, token = hub.writable(request, kind, repo)
    pull = one(found, num)
    if not pull.is_pull_request or pull.status not in ("open", "draft"):
        raise ApiError(409, f"This pull request is {pull.status}")
    commit = found.merge(pull, token.user)
    return Response(body={"commitOid": commit.oid})
