"""A local Hugging Face Hub for tests, spoken to by the unmodified `huggingface_hub` client.

The server speaks the Hub's HTTP API on one port and plays its storage bucket / CDN on a second
one (another origin, so that the client must drop its token there, as it does in production).
Everything lives in memory and every commit has git's real object ids.

Use the `hub` fixture of `tests.hub_server.fixtures`; `HubServer` is the server on its own.

What it is careful about: status codes, error-code headers and messages the client acts on, atomic
commits, SHA-256 of every large file, HEAD/redirect/Range behaviour of `resolve`, permissions of
users and tokens. What it does not play: Xet storage (the client must run with
`HF_HUB_DISABLE_XET=1`, which the fixture and `Hub.env()` set), git over HTTP, search, likes,
discussion comments, organisation roles, jobs, and running a Space.
"""

from __future__ import annotations

from .errors import ApiError
from .faults import Fault, Faults
from .server import HubServer, LoggedRequest
from .store import Blob, Commit, PullRequest, Repo

__all__ = [
    "ApiError",
    "Blob",
    "Commit",
    "Fault",
    "Faults",
    "HubServer",
    "LoggedRequest",
    "PullRequest",
    "Repo",
]
