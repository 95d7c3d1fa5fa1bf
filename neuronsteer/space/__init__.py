"""The page that shows a model changing language in the middle of a sentence.

It runs on this machine (`neuronsteer demo --ui`) and, unchanged, as a Hugging Face Space.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .settings import SpaceSettings

if TYPE_CHECKING:
    from .server import PageServer

__all__ = ["SpaceSettings", "from_environment", "launch"]


def launch(
    model: str = "demo",
    neurons: str = "demo",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    public: bool | None = None,
    allow: Sequence[str] = (),
    device: str = "auto",
    mcp: bool = False,
    block: bool = True,
    on_ready: Callable[[str], None] | None = None,
    settings: SpaceSettings | None = None,
) -> PageServer:
    """Serve the page and, unless told otherwise, return when the user interrupts.

    Args:
        model: Hub id or folder of a model; `"demo"` is the embedded one.
        neurons: Its neuron set.
        host: Address to listen on; `"0.0.0.0"` lets other machines in.
        port: Port; default: the first free one from 7860 on.
        open_browser: Show the page in the user's browser.
        public: Whether strangers use it: then only what `allow` names can be loaded. By default
            they do if `host` lets other machines in.
        allow: Hub ids, `owner/*`, or folders.
        device: `"auto"`, `"cpu"`, `"cuda"`, …
        mcp: Offer tools to agents, by the Model Context Protocol; needs the extra `mcp`.
        block: Wait until the user interrupts.
        on_ready: Called with the address when the page can be opened.
        settings: All settings, in place of the arguments about them.

    Raises:
        MissingExtraError: Without gradio (install `neuronsteer[space]`), or with `mcp` without the
            package of that name.
        ParameterError: If the port is taken.
    """
    from . import zerogpu

    zerogpu.prepare()
    # After that, because this imports torch.
    from .server import serve

    chosen = settings or SpaceSettings(
        model=model, neurons=neurons, public=public, allow=tuple(allow), device=device, mcp=mcp
    )
    server = serve(chosen, host=host, port=port, open_browser=open_browser)
    try:
        if on_ready is not None:
            on_ready(server.url)
        if block:
            server.wait()
    except KeyboardInterrupt:
        server.close()
        if not block:
            raise
    return server


def from_environment(model: str = "demo", neurons: str = "demo", mcp: bool = False) -> None:
    """Serve the page as environment variables say; what `app.py` of a Space calls.

    Args:
        model: What to load where no variable says otherwise.
        neurons: Its neuron set.
        mcp: Whether agents may call it, where no variable says otherwise.
    """
    on_spaces = "SPACE_ID" in os.environ
    port = os.environ.get("GRADIO_SERVER_PORT")
    launch(
        settings=SpaceSettings.from_environment(model=model, neurons=neurons, mcp=mcp),
        host=os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if on_spaces else "127.0.0.1"),
        port=int(port) if port else 7860 if on_spaces else None,
        on_ready=_write_address,
    )


def _write_address(url: str) -> None:
    # The log of a Space shows it, and it is what a user who starts app.py needs.
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
