"""The test Hub: state, two listening ports, and the log of what was asked of it."""

from __future__ import annotations

import contextlib
import re
import threading
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from . import files_api, refs_api, repos_api, upload_api
from .accounts import Accounts, Token
from .errors import ApiError, storage_error
from .faults import Faults
from .router import dispatch
from .store import Repo
from .transport import Listener, Request, Response, refusal
from .upload_api import Upload

# Importing them registers their routes.
HANDLERS = (files_api, refs_api, repos_api, upload_api)


@dataclass
class LoggedRequest:
    """One request as the server saw it; `status` is None when no answer was made."""

    method: str
    site: str
    target: str
    authorization: str | None
    status: int | None = None
    fault: str | None = None
    received: int = 0
    sent: int = 0
    request_id: str = field(default_factory=lambda: f"Root=1-{uuid.uuid4().hex[:24]}")

    @property
    def path(self) -> str:
        return self.target.split("?")[0]

    @property
    def line(self) -> str:
        """What faults and `HubServer.seen` match on."""
        return f"{self.method} {self.site} {unquote(self.target)}"


class HubServer:
    """A Hub on two free ports of this machine. `with HubServer() as server: ...`.

    Attributes to set before a request: `page_size` (entries per page of a tree), `lfs_threshold`
    (bytes from which a text file is a large file), `multipart_over` and `chunk_size` (from what
    size on an upload goes in parts, and how large those are), `redirect_regular` (public files
    are served through `/api/resolve-cache`, as huggingface.co does).
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.accounts = Accounts()
        self.faults = Faults()
        self.requests: list[LoggedRequest] = []
        self.crashes: list[str] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self.uploads: dict[str, Upload] = {}
        self.page_size = 1000
        self.lfs_threshold = 10_000_000
        self.multipart_over: int | None = None
        self.chunk_size = 1 << 20
        self.redirect_regular = True
        self._listeners: list[Listener] = []
        self._ports = (0, 0)
        self.url = self.storage_url = ""

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> HubServer:
        """Listen; the same ports again after a `stop`."""
        hub, storage = (
            Listener(self, site, port)
            for site, port in zip(("hub", "storage"), self._ports, strict=True)
        )
        self.url, self.storage_url = hub.url, storage.url
        self._ports = (hub.server_address[1], storage.server_address[1])
        self._listeners = [hub, storage]
        for listener in self._listeners:
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections; repositories stay."""
        for listener in self._listeners:
            listener.stop()
        self._listeners = []

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Nobody answers while inside: connections are refused."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- for tests -----------------------------------------------------------------------------

    def repo(self, repo_id: str, type: str = "model") -> Repo:
        """State of a repository, e.g. `server.repo("ann/set").pushes`."""
        return self.repos[(type, repo_id)]

    def make_repo(
        self,
        repo_id: str,
        files: dict[str, bytes] | None = None,
        type: str = "model",
        private: bool = False,
        gated: bool | str = False,
    ) -> Repo:
        """Make a repository with files in one commit, without going through HTTP."""
        author = repo_id.split("/")[0]
        self.accounts.users.add(author)
        repo = Repo(repo_id, type, author, "private" if private else "public")
        repo.gated = gated
        if files:
            upload_api.add_files(self, repo, files, author)
        self.repos[(type, repo_id)] = repo
        return repo

    def seen(self, pattern: str) -> list[LoggedRequest]:
        """Logged requests whose `"METHOD site /path?query"` contains the regular expression."""
        return [entry for entry in self.requests if re.search(pattern, entry.line)]

    # -- for the handlers ----------------------------------------------------------------------

    def log(self, method: str, site: str, target: str, authorization: str | None) -> LoggedRequest:
        """Note a request before anything happens to it."""
        entry = LoggedRequest(method, site, target, authorization)
        self.requests.append(entry)
        return entry

    def token(self, request: Request) -> Token | None:
        """Who asks; raises 401 for a bad or expired token."""
        return self.accounts.authenticate(request.headers.get("Authorization"))

    def readable(self, request: Request, kind: str, repo_id: str) -> tuple[Repo, Token | None]:
        """The repository, if whoever asks may know of it."""
        token = self.token(request)
        repo = self.repos.get((kind, repo_id))
        return self.accounts.require_read(token, repo), token

    def writable(
        self, request: Request, kind: str, repo_id: str, rev: str = "", create_pr: bool = False
    ) -> tuple[Repo, Token]:
        """The repository, if whoever asks may commit to it.

        Propose a commit (`create_pr`), or add one to a pull request of their own (`rev`), may
        everybody who can see the repository.
        """
        repo, token = self.readable(request, kind, repo_id)
        if found := re.fullmatch(r"refs/pr/(\d+)", rev):
            pull = repo.pulls.get(int(found[1]))
            create_pr = bool(pull and token and pull.author == token.user)
        return repo, self.accounts.require_write(token, repo, create_pr=create_pr)

    def answer(self, request: Request) -> Response:
        """Handle one request; one at a time, so that every change is atomic."""
        with self.lock:
            try:
                if request.site == "storage" and request.headers.get("Authorization"):
                    # A signed URL is the permission there; a Hub token must never arrive.
                    message = "Only one auth mechanism allowed"
                    raise storage_error(400, "InvalidArgument", message)
                return dispatch(self, request)
            except ApiError as error:
                return refusal(error, request)
            except Exception:
                self.crashes.append(traceback.format_exc())
                return Response(500, {"error": "The test Hub crashed: see HubServer.crashes"})
