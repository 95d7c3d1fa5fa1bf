"""Accounts and repositories: who am I, create, delete, settings, info, lists, cards, Spaces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from . import cards
from .errors import ApiError, repo_not_found
from .router import route
from .store import Commit, Repo, iso
from .transport import Request, Response

if TYPE_CHECKING:
    from .server import HubServer

TYPES = "{types}"
NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]{0,94}[A-Za-z0-9_]|[A-Za-z0-9_]")


def web_url(hub: HubServer, repo: Repo) -> str:
    """Address of a repository's page."""
    return f"{hub.url}/{'' if repo.type == 'model' else repo.type + 's/'}{repo.id}"


@route("GET", "/api/whoami-v2")
def whoami(hub: HubServer, request: Request) -> Response:
    """The user of a token."""
    token = hub.accounts.require_user(hub.token(request))
    orgs = [
        {"type": "org", "name": name, "fullname": name, "roleInOrg": "write", "isEnterprise": False}
        for name, members in hub.accounts.orgs.items()
        if token.user in members
    ]
    access = {"displayName": token.name, "role": token.role, "createdAt": iso(0)}
    body = {
        "type": "user",
        "id": f"id-{token.user}",
        "name": token.user,
        "fullname": token.user.title(),
        "email": f"{token.user}@test.invalid",
        "isPro": False,
        "orgs": orgs,
        "auth": {"type": "access_token", "accessToken": access},
    }
    return Response(body=body)


@route("POST", "/api/repos/create")
def create(hub: HubServer, request: Request) -> Response:
    """Make a repository; 409, with its address, when there is one already."""
    payload, token = request.json(), hub.accounts.require_user(hub.token(request))
    kind = payload.get("type") or "model"
    namespace, name = payload.get("organization") or token.user, payload.get("name") or ""
    token = hub.accounts.require_namespace(token, namespace, f"create a {kind}")
    if not NAME.fullmatch(name):
        raise ApiError(400, f"Invalid repo name: {name}")
    if kind == "space" and payload.get("sdk") not in ("gradio", "streamlit", "docker", "static"):
        raise ApiError(400, '"sdk" must be one of [gradio, streamlit, docker, static]')
    key = (kind, f"{namespace}/{name}")
    if found := hub.repos.get(key):
        message = f"You already created this {kind} repo"
        raise ApiError(409, message, body={"error": message, "url": web_url(hub, found)})
    private = "private" if payload.get("private") else "public"
    repo = Repo(key[1], kind, token.user, payload.get("visibility") or private)
    repo.space = {
        k: payload[k] for k in ("sdk", "hardware", "secrets", "variables") if k in payload
    }
    hub.repos[key] = repo
    body = {"url": web_url(hub, repo), "name": repo.id, "id": f"{kind}-{repo.id}"}
    return Response(body=body)


@route("DELETE", "/api/repos/delete")
def delete(hub: HubServer, request: Request) -> Response:
    """Delete a repository for good."""
    payload, token = request.json(), hub.accounts.require_user(hub.token(request))
    kind = payload.get("type") or "model"
    repo_id = f"{payload.get('organization') or token.user}/{payload.get('name')}"
    repo = hub.accounts.require_read(token, hub.repos.get((kind, repo_id)))
    hub.accounts.require_namespace(token, repo.namespace, f"delete a {kind}")
    del hub.repos[(kind, repo_id)]
    return Response()


@route("POST", "/api/repos/move")
def move(hub: HubServer, request: Request) -> Response:
    """Rename a repository. The real Hub also redirects from the old name; this one forgets it."""
    payload, token = request.json(), hub.accounts.require_user(hub.token(request))
    kind, target = payload.get("type") or "model", payload["toRepo"]
    repo = hub.accounts.require_read(token, hub.repos.get((kind, payload["fromRepo"])))
    hub.accounts.require_namespace(token, repo.namespace, f"move a {kind}")
    hub.accounts.require_namespace(token, target.split("/")[0], f"move a {kind}")
    if (kind, target) in hub.repos:
        raise ApiError(409, f"There is already a {kind} named {target}")
    del hub.repos[(kind, repo.id)]
    repo.id = target
    hub.repos[(kind, target)] = repo
    return Response()


@route("PUT", f"/api/{TYPES}/{{repo}}/settings")
def settings(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """Visibility and gating."""
    found, _ = hub.writable(request, kind, repo)
    payload = request.json()
    if "private" in payload:
        found.visibility = "private" if payload["private"] else "public"
    found.visibility = payload.get("visibility", found.visibility)
    found.gated = payload.get("gated", found.gated)
    return Response(body={"private": found.private, "gated": found.gated})


@route("POST", f"/api/{TYPES}/{{repo}}/user-access-request/grant")
def grant(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """Let a user into a gated repository."""
    found, _ = hub.writable(request, kind, repo)
    found.granted.add(request.json()["user"])
    return Response(body={"status": "accepted"})


@route("GET", f"/api/{TYPES}/{{repo}}/auth-check")
@route("GET", f"/api/{TYPES}/{{repo}}/auth-check/write")
def auth_check(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """Whether files may be read, or written."""
    found, token = hub.readable(request, kind, repo)
    hub.accounts.require_content(token, found)
    if request.path.endswith("/write"):
        hub.accounts.require_write(token, found)
    return Response()


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: HubServer, request: Request) -> Response:
    """Check a card before it is pushed."""
    payload = request.json()
    errors, warnings = cards.validate(payload.get("content", ""), payload.get("repoType", "model"))
    body = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return Response(400 if errors else 200, body)


def describe(hub: HubServer, repo: Repo, commit: Commit, *, blobs: bool, full: bool = True) -> Any:
    """What model, dataset and Space info have in common."""
    try:
        readme = commit.tree.get("README.md")
        card = cards.metadata(readme.data.decode()) if readme else None
    except (ValueError, UnicodeDecodeError):
        card = None
    card = card or {}
    last = repo.resolve("main")
    tags = [*card.get("tags", []), f"region:{'us'}"]
    for key in ("language", "license", "base_model"):
        values = card.get(key) or []
        prefix = "" if key == "language" else f"{key}:"
        tags += [f"{prefix}{v}" for v in (values if isinstance(values, list) else [values])]
    info: dict[str, Any] = {
        "_id": f"{repo.type}-{repo.id}",
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": iso(last.date),
        "createdAt": iso(repo.created),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [tag for tag in tags if tag != "region:us"] + ["region:us"],
    }
    if repo.type == "model":
        info["modelId"] = repo.id
        names = ("library_name", "pipeline_tag")
        info.update({name: card[name] for name in names if name in card})
        info["tags"] += [card["library_name"]] if "library_name" in card else []
    if repo.type == "space":
        info |= {"sdk": repo.space.get("sdk"), "runtime": runtime_of(repo)}
        info["subdomain"] = repo.id.replace("/", "-").lower()
    if not full:
        return info
    info |= {"cardData": card or None, "usedStorage": sum(map(len, repo.lfs.values()))}
    info["siblings"] = []
    for path, blob in commit.tree.items():
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": blob.size, "blobId": blob.oid}
            if blob.lfs:
                size = len(blob.pointer)
                sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": size}
        info["siblings"].append(sibling)
    return info


@route("GET", f"/api/{TYPES}/{{repo}}")
def info(hub: HubServer, request: Request, kind: str, repo: str) -> Response:
    """Info at main."""
    return info_at(hub, request, kind, repo, "main")


@route("GET", f"/api/{TYPES}/{{repo}}/revision/{{rev}}")
def info_at(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """Info at a revision. Public even when gated: only contents are withheld."""
    found, _ = hub.readable(request, kind, repo)
    commit = found.resolve(rev)
    body = describe(hub, found, commit, blobs=request.query.get("blobs", "").lower() == "true")
    return Response(body=body, headers={"X-Repo-Commit": commit.oid})


@route("GET", f"/api/{TYPES}")
def listing(hub: HubServer, request: Request, kind: str) -> Response:
    """Repositories by author, search word, and tag, newest first; no pages."""
    token, query = hub.token(request), request.query
    found = []
    for (type_, _), repo in hub.repos.items():
        visible = not repo.private or (token and hub.accounts.belongs(token.user, repo.namespace))
        if type_ != kind or not visible or query.get("author", repo.namespace) != repo.namespace:
            continue
        entry = describe(hub, repo, repo.resolve("main"), blobs=False, full=False)
        wanted = [query[key] for key in ("filter", "library") if key in query]
        if query.get("search", "").lower() in repo.id.lower() and set(wanted) <= set(entry["tags"]):
            found.append(entry)
    found.sort(key=lambda entry: entry["lastModified"], reverse=True)
    return Response(body=found[: int(query.get("limit", len(found)))])


def runtime_of(repo: Repo) -> dict[str, Any]:
    """A Space that is always up: code is never run here."""
    hardware = repo.space.get("hardware") or "cpu-basic"
    return {"stage": "RUNNING", "hardware": {"current": hardware, "requested": hardware}}


@route("GET", "/api/spaces/{repo}/runtime")
@route("POST", "/api/spaces/{repo}/restart")
@route("POST", "/api/spaces/{repo}/pause")
@route("POST", "/api/spaces/{repo}/hardware")
def space_runtime(hub: HubServer, request: Request, repo: str) -> Response:
    """State of a Space; asking for hardware grants it."""
    if request.method == "GET":
        return Response(body=runtime_of(hub.readable(request, "space", repo)[0]))
    found, _ = hub.writable(request, "space", repo)
    if request.path.endswith("/hardware"):
        found.space["hardware"] = request.json()["flavor"]
    return Response(body=runtime_of(found))


@route("POST DELETE", "/api/spaces/{repo}/secrets")
@route("POST DELETE", "/api/spaces/{repo}/variables")
def space_values(hub: HubServer, request: Request, repo: str) -> Response:
    """Keep or drop a secret or a variable (`Repo.space["secrets"]`: a list of dicts)."""
    found, _ = hub.writable(request, "space", repo)
    name, payload = request.path.rsplit("/", 1)[1], request.json()
    stored: Any = found.space.get(name) or []
    kept = [item for item in stored if item["key"] != payload["key"]]
    found.space[name] = kept + ([payload] if request.method == "POST" else [])
    return Response(body={item["key"]: item for item in kept})


@route("GET", f"/api/{TYPES}/{{repo}}/xet-read-token/{{rev}}")
@route("GET", f"/api/{TYPES}/{{repo}}/xet-write-token/{{rev}}")
def xet(hub: HubServer, request: Request, kind: str, repo: str, rev: str) -> Response:
    """Refuse in words: there is no content-addressed storage behind this Hub."""
    raise ApiError(501, "The test Hub has no Xet storage: run the client with HF_HUB_DISABLE_XET=1")


@route("GET HEAD", "/api/telemetry/{path}")
@route("GET", "/api/agent-harnesses")
def side_channels(hub: HubServer, request: Request, path: str = "") -> Response:
    """What the client asks on the side and does without."""
    raise repo_not_found()
