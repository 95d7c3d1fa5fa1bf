"""Serving the page from this machine: the options that `demo` and `space` share."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from . import console

LOCAL = "127.0.0.1"

PageHost = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Where the page listens; 0.0.0.0 lets other machines in, and then the page is public: "
        "it loads no other model.",
    ),
]
PagePort = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65535, help="Default: the first free one from 7860 on."),
]
NoBrowser = Annotated[
    bool, typer.Option("--no-browser", help="Only serve the page; open no browser.")
]


@dataclasses.dataclass(frozen=True)
class PagePlace:
    """Where the page is served, and to whom.

    Attributes:
        host: The address it listens on.
        port: The port; `None` for the first free one.
        no_browser: Whether the user's browser is left alone.
        mcp: Whether agents get tools.
    """

    host: str = LOCAL
    port: int | None = None
    no_browser: bool = False
    mcp: bool = False


def serve_page(model: str, neurons: str, place: PagePlace, *, device: str, quiet: bool) -> None:
    """Serve the page until the user interrupts."""
    from ..space import launch
    from ..space.settings import is_loopback

    def ready(address: str) -> None:
        console.note(f"The page is at {address} – Ctrl+C ends it.", quiet=quiet)
        if place.mcp:
            console.note(f"Agents find its tools at {address}/gradio_api/mcp/", quiet=quiet)
        if not is_loopback(place.host):
            console.note(
                "Other machines can reach it, so it is public: it loads no other model. "
                "docs/security.md says what else to think of.",
                quiet=quiet,
            )

    launch(
        model,
        neurons,
        host=place.host,
        port=place.port,
        mcp=place.mcp,
        device=device,
        open_browser=not place.no_browser,
        on_ready=ready,
    )
