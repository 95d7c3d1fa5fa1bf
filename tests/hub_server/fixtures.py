"""The `hub` fixture: a running test Hub, and this process pointed at it.

In a test module or in `tests/conftest.py`::

    pytest_plugins = ("tests.hub_server.fixtures",)

    def test_push(hub):
        HfApi().create_repo("ann/set")  # logged in as ann, who may write
        assert len(hub.repo("ann/set").pushes) == 0

**In-process.** `huggingface_hub` reads its settings from the environment once, on import, so the
fixture replaces them where they live and gives them back afterwards: every copy, in any
`huggingface_hub` module, of the constants in `Hub.constants()`; the endpoint of the one `HfApi`
behind the module-level functions (`hf_api.api.endpoint`; they are bound methods, so every
`from huggingface_hub import create_repo` follows); the Hub origins of `utils._http` (that keeps a
token on redirects within the Hub). The HTTP client is closed before and after, since it keeps
connections. `HfApi` objects made *before* the fixture keep their old endpoint: make them inside
the test. `datasets` has copies of its own: use a subprocess with `hub.env()` for it.

**Subprocesses.** `hub.env()` is an environment with the same settings.

**Waiting.** The client sleeps between retries (`Retry-After` plus one second; 1, 2, 4 … s
otherwise). In-process those sleeps are noted in `hub.sleeps` and shortened by `hub.sleep_scale`
(0 by default; set it to 1 to really wait). Nothing else of the client is changed. Subprocesses
really wait. Code with a back-off of its own can be given `hub.sleep`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers.utils.hub as transformers_hub
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _http

from .faults import Faults
from .server import HubServer
from .store import Repo


class _Clock:
    """The `time` module with a `sleep` that is noted and shortened."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        self._hub.sleep(seconds)


class Hub:
    """A test Hub with this process logged in.

    Attributes:
        server: the server; `faults`, `url` and `repo()` are also here.
        user: the user who is logged in ("ann").
        token: ann's write token, in `HF_TOKEN` and in the token file of a temporary `HF_HOME`.
        home: that `HF_HOME`.
        cache: the download cache in use.
        sleeps: seconds that the client wanted to wait between retries.
    """

    def __init__(self, server: HubServer, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.user = "ann"
        self.token: str | None = server.accounts.add_token(self.user)
        self.home = folder / "hf_home"
        self.cache = self.home / "hub"
        self.home.mkdir(parents=True)
        self.sleeps: list[float] = []
        self.sleep_scale = 0.0
        self._patch = patch
        self._caches = 0
        for module in (_http, file_download):
            patch.setattr(module, "time", _Clock(self))
        self._apply()
        self.login(self.token)

    # -- shortcuts -----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def faults(self) -> Faults:
        return self.server.faults

    def repo(self, repo_id: str, type: str = "model") -> Repo:
        """State of a repository."""
        return self.server.repo(repo_id, type)

    def add_token(self, user: str, role: str = "write", *, expired: bool = False) -> str:
        """A token of another (new) user, or another of ann's."""
        return self.server.accounts.add_token(user, role, expired=expired)

    # -- this process --------------------------------------------------------------------------

    def constants(self) -> dict[str, Any]:
        """What `huggingface_hub.constants` would be with `env()`."""
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        return {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
            "HF_HOME": str(self.home),
            "HF_HUB_CACHE": str(self.cache),
            "HUGGINGFACE_HUB_CACHE": str(self.cache),
            "HF_ASSETS_CACHE": str(self.home / "assets"),
            "HF_XET_CACHE": str(self.home / "xet"),
            "HF_TOKEN_PATH": str(self.home / "token"),
            "HF_STORED_TOKENS_PATH": str(self.home / "stored_tokens"),
            "AGENT_HARNESSES_PATH": str(self.home / ".agent_harnesses.json"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }

    def _apply(self) -> None:
        for name, value in self.constants().items():
            self._set_constant(name, value)
        origins = _http._HUB_ORIGINS | {_http._url_origin(self.url)}
        self._patch.setattr(_http, "_HUB_ORIGINS", origins)
        self._patch.setattr(hf_api.api, "endpoint", self.url)
        # transformers makes one HfApi and keeps it, with the endpoint of whoever came first.
        self._patch.setattr(transformers_hub, "_hf_api", None, raising=False)
        for name in ("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "NO_PROXY", "HF_HUB_DISABLE_XET"):
            self._patch.setenv(name, self.env()[name])
        self._patch.setenv("HF_HUB_OFFLINE", "0")
        _http.close_session()

    def _set_constant(self, name: str, value: Any) -> None:
        for key, module in list(sys.modules.items()):
            if key.split(".")[0] == "huggingface_hub" and name in vars(module):
                self._patch.setattr(module, name, value)

    def login(self, token: str | None) -> None:
        """Use another token, or (None) none at all."""
        self.token = token
        path = self.home / "token"
        self._patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        if token is None:
            self._patch.delenv("HF_TOKEN", raising=False)
            path.unlink(missing_ok=True)
        else:
            self._patch.setenv("HF_TOKEN", token)
            path.write_text(token, "utf-8")

    def fresh_cache(self) -> Path:
        """Go on with an empty download cache; returns its folder."""
        self._caches += 1
        self.cache = self.home / f"hub{self._caches}"
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            self._set_constant(name, str(self.cache))
        self._patch.setenv("HF_HUB_CACHE", str(self.cache))
        return self.cache

    @contextlib.contextmanager
    def offline(self) -> Iterator[None]:
        """As with `HF_HUB_OFFLINE=1` while inside (the server is up, nobody may ask it)."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            patch.setenv("HF_HUB_OFFLINE", "1")
            yield

    def down(self) -> contextlib.AbstractContextManager[None]:
        """Connections are refused while inside."""
        return self.server.down()

    def timeouts(self, seconds: float) -> None:
        """How long the client waits for metadata and for the next bytes of a download."""
        for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
            self._set_constant(name, seconds)
        # What the client allows when it asks for metadata a second time.
        self._patch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", seconds)

    def sleep(self, seconds: float) -> None:
        """Note a wait and take `sleep_scale` of it."""
        self.sleeps.append(seconds)
        time.sleep(seconds * self.sleep_scale)

    # -- other processes -----------------------------------------------------------------------

    def env(self, token: str | None | bool = True, **more: str) -> dict[str, str]:
        """Environment of a subprocess that talks to this Hub (token: True is the one in use)."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        env |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.home),
            "HF_HUB_CACHE": str(self.cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        # The token file is in HF_HOME: without a token a process needs a home of its own.
        value = self.token if token is True else token
        if value:
            env["HF_TOKEN"] = str(value)
        else:
            env["HF_TOKEN_PATH"] = str(self.home / "no_token")
        return env | more


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A test Hub with this process logged in as ann; see the module's documentation."""
    with HubServer() as server:
        yield Hub(server, tmp_path / "hub", monkeypatch)
        _http.close_session()
        assert not server.crashes, server.crashes[0]


# Loading the lazy package's modules first means that their copies of constants are found.
_LOADED = (huggingface_hub.HfApi, huggingface_hub.snapshot_download, huggingface_hub.CommitInfo)
