"""The page on which one watches a model change language in the middle of a sentence.

It runs on this machine (`neuronsteer demo --ui`) and, unchanged, as a Hugging Face Space.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .settings import Settings

if TYPE_CHECKING:
    from .sampling import Seeded
    from .server import Site

__all__ = ["Seeded", "Settings", "from_environment", "launch"]


def launch(
    model: str = "demo",
    neurons: str = "demo",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    public: bool = False,
    allow: Sequence[str] = (),
    device: str = "auto",
    block: bool = True,
    on_ready: Callable[[str], None] | None = None,
    settings: Settings | None = None,
) -> Site:
    """Serve the page and, unless told otherwise, return when the user interrupts.

    Args:
        model: Hub id or folder of a model; `"demo"` is the embedded one.
        neurons: Its neuron set.
        host: Address to listen on; `"0.0.0.0"` lets other machines in.
        port: Port; default: the first free one from 7860 on.
        open_browser: Show the page in the user's browser.
        public: Whether strangers use it: then only what `allow` names can be loaded.
        allow: Hub ids, `owner/*`, or folders.
        device: `"auto"`, `"cpu"`, `"cuda"`, …
        block: Wait until the user interrupts.
        on_ready: Called with the address when the page can be opened.
        settings: All of the rules, in place of the arguments about them.

    Raises:
        MissingExtraError: Without gradio; install `neuronsteer[space]`.
        ParameterError: If the port is taken.
    """
    from . import zerogpu

    zerogpu.prepare()
    from .server import serve

    rules = settings or Settings(
        model=model, neurons=neurons, public=public, allow=tuple(allow), device=device
    )
    site = serve(rules, host=host, port=port, open_browser=open_browser, on_ready=on_ready)
    if block:
        site.wait()
    return site


def from_environment(model: str = "demo", neurons: str = "demo") -> None:
    """Serve the page as environment variables say; what `app.py` of a Space calls.

    Args:
        model: What to load where no variable says otherwise.
        neurons: Its neuron set.
    """
    here = "SPACE_ID" in os.environ
    port = os.environ.get("GRADIO_SERVER_PORT")
    launch(
        settings=Settings.from_environment(model=model, neurons=neurons),
        host=os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if here else "127.0.0.1"),
        port=int(port) if port else 7860 if here else None,
        on_ready=_tell,
    )


def _tell(url: str) -> None:
    # The log of a Space shows it; a person who started app.py needs it.
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def __getattr__(name: str) -> object:
    # torch is imported only by those who sample.
    if name == "Seeded":
        return importlib.import_module(".sampling", __name__).Seeded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
