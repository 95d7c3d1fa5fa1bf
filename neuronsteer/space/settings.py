"""What a running Space allows: which models and sets, how long, how many at once."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from ..hub import builtin

DEMO = "demo"
_PREFIX = "NEURONSTEER_SPACE_"


@dataclasses.dataclass(frozen=True)
class SpaceSettings:
    """What one running Space allows.

    Args:
        model: Hub id or folder of the model that is loaded first; `"demo"` is the embedded one.
        neurons: Its neuron set.
        public: Whether strangers use it: then only what `allow` names can be loaded. By default
            that depends on the address it listens on, see `at`.
        allow: Hub ids, `owner/*`, or folders whose content may be loaded. The first model and set
            always may.
        prompt_characters: How long a prompt may be.
        max_new_tokens: How many tokens one generation may have.
        at_once: How many generations run at the same time.
        waiting: How many may wait in the queue.
        kept: How many models stay loaded beside the first one.
        device: `"auto"`, or a torch device.
        mcp: Whether agents may call it by the Model Context Protocol, see `mcp_tools`.
    """

    model: str = DEMO
    neurons: str = DEMO
    public: bool | None = None
    allow: tuple[str, ...] = ()
    prompt_characters: int = 2000
    max_new_tokens: int = 400
    at_once: int = 4
    waiting: int = 24
    kept: int = 1
    device: str = "auto"
    mcp: bool = False

    def __post_init__(self) -> None:
        if (self.model == DEMO) != (self.neurons.split("/")[0] == DEMO):
            raise ParameterError(
                f"Model {self.model!r} and neuron set {self.neurons!r} do not belong together: a "
                "set is made for one model. Name both, or neither for the embedded ones."
            )
        for name in ("prompt_characters", "max_new_tokens", "at_once", "waiting"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name}={getattr(self, name)}: expected at least 1.")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **defaults: Any
    ) -> SpaceSettings:
        """Return the settings written in environment variables, as on a Hugging Face Space.

        `NEURONSTEER_SPACE_MODEL`, `…_SET`, `…_PUBLIC` (`1` or `0`; by default yes where `SPACE_ID`
        says that this is a Space, or where other machines are let in), `…_ALLOW` (separated by
        commas), `…_MCP` (`1` or `0`), and a number for every limit, e.g. `…_MAX_NEW_TOKENS`.

        Args:
            environment: Default: that of this process.
            **defaults: `model`, `neurons` and `mcp`, where no variable says otherwise.
        """
        env = os.environ if environment is None else environment
        given = {
            key[len(_PREFIX) :].lower(): value.strip()
            for key, value in env.items()
            if key.startswith(_PREFIX) and value.strip()
        }
        found: dict[str, Any] = {"public": True} if "SPACE_ID" in env else {}
        for name, text in given.items():
            if name in ("model", "device"):
                found[name] = text
            elif name == "set":
                found["neurons"] = text
            elif name in ("public", "mcp"):
                found[name] = text.lower() not in ("0", "no", "false")
            elif name == "allow":
                found[name] = tuple(each.strip() for each in text.split(",") if each.strip())
            elif name in ("prompt_characters", "max_new_tokens", "at_once", "waiting", "kept"):
                if not text.isdecimal():
                    raise ParameterError(
                        f"{_PREFIX}{name.upper()} is {text!r}; expected a whole number."
                    )
                found[name] = int(text)
            else:
                raise ParameterError(
                    f"There is no setting {_PREFIX}{name.upper()}; see docs/space.md."
                )
        found.setdefault("mcp", defaults.pop("mcp", False))
        if "model" not in found and "neurons" not in found:
            found |= defaults
        elif "model" not in found or "neurons" not in found:
            raise ParameterError(
                f"{_PREFIX}MODEL and {_PREFIX}SET belong together, and only one of them is set."
            )
        return cls(**found)

    @property
    def first(self) -> str:
        """The name of the model that is loaded first."""
        return model_name(self.model, self.neurons)

    def at(self, host: str) -> SpaceSettings:
        """Return the settings of a page that listens on an address.

        Where other machines are let in, the page is public unless `public` says otherwise.
        """
        if self.public is not None:
            return self
        return dataclasses.replace(self, public=not is_loopback(host))

    def check_allowed(self, name: str, what: str) -> None:
        """Raise unless the model or set called `name` may be loaded here.

        Raises:
            ParameterError: The message does not tell whether such a folder exists.
        """
        if not self.public or name in (self.model, self.neurons):
            return
        # What is part of the package is neither secret nor downloaded.
        if name == DEMO or (what == "neuron set" and builtin(name) is not None):
            return
        if any(_matches(name, pattern) for pattern in self.allow):
            return
        allowed = ", ".join(dict.fromkeys((self.model, self.neurons, *self.allow)))
        raise ParameterError(
            f"This page is public and does not load the {what} {name[:80]!r}; it loads {allowed}. "
            "To use anything else, run it yourself: pip install 'neuronsteer[space]', then "
            "neuronsteer demo --ui."
        )


def model_name(model: str, neurons: str) -> str:
    """Return the name by which visitors ask for a model with its set."""
    return f"{model} + {neurons}"


def is_loopback(host: str) -> bool:
    """Return whether an address or name is that of this machine to itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _matches(name: str, pattern: str) -> bool:
    if name == pattern:
        return True
    owner, _, rest = pattern.rpartition("/")
    if rest == "*" and owner:
        start, _, repo = name.rpartition("/")
        return start == owner and bool(repo) and not Path(name).exists()
    folder = Path(pattern).expanduser()
    if not folder.is_absolute() or not folder.is_dir():
        return False
    # What counts is where a path leads, not how it is written.
    return Path(name).expanduser().resolve().is_relative_to(folder.resolve())
