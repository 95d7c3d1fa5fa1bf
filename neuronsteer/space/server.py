"""The Gradio server: named endpoints with a queue, and the page that calls them."""

from __future__ import annotations

import os
import threading
import typing
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import NeuronSteerError, ParameterError, require
from .middleware import Gate
from .request import Order
from .service import Desk
from .settings import Settings

Snapshots = Generator[dict[str, Any], None, None]

_PAGE = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Site:
    """A page that is being served; made by `serve()`.

    Attributes:
        url: Where it is.
        desk: What visitors can ask for.
    """

    def __init__(self, url: str, desk: Desk, blocks: Any) -> None:
        self.url, self.desk = url, desk
        self._blocks = blocks
        self._closed = threading.Event()

    def wait(self) -> None:
        """Return when the page is closed, or the user interrupts."""
        try:
            while not self._closed.wait(1.0):
                pass
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop serving."""
        self._closed.set()
        self._blocks.close(verbose=False)


def serve(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> Site:
    """Start serving and return at once; the first model is loaded in the background.

    Args:
        settings: What is loaded and allowed.
        host: Address to listen on.
        port: Port; default: the first free one from 7860 on.
        open_browser: Show the page in the user's browser.
        on_ready: Called with the address when the page can be opened.

    Raises:
        ParameterError: If the port is taken.
        MissingExtraError: Without gradio.
    """
    # Before gradio is imported: no statistics to anybody, no look for newer versions.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    gr: Any = require("gradio", "space", "The page")
    desk = Desk(settings)
    desk.shelf.open()
    app = gr.Server(title="neuronsteer", docs_url=None, redoc_url=None)
    app.add_middleware(Gate)
    _pages(app, desk)
    _endpoints(app, desk, gr)
    try:
        _, url, _ = app.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            inline=False,
            inbrowser=open_browser,
            quiet=True,
            share=False,
            show_error=True,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            allowed_paths=[],
            _frontend=False,
        )
    except OSError as error:
        raise ParameterError(
            f"Cannot serve the page on {host}:{port or '7860…7959'}: {error} "
            "Choose another --port, or stop what is using it."
        ) from error
    blocks = app.get_blocks()
    # Server mode has no argument for it.
    blocks._queue.max_size = settings.waiting
    site = Site(url.rstrip("/"), desk, blocks)
    if on_ready is not None:
        on_ready(site.url)
    return site


def _pages(app: Any, desk: Desk) -> None:
    from starlette.responses import FileResponse, JSONResponse, Response

    @app.get("/")
    @app.head("/")
    def index() -> Any:
        return FileResponse(
            _PAGE / "index.html", media_type="text/html", headers={"cache-control": "no-cache"}
        )

    @app.get("/page/{name}")
    def page(name: str) -> Any:
        file = _PAGE / name
        if file.suffix not in _TYPES or file.parent != _PAGE or not file.is_file():
            return Response("Not here.", 404)
        headers = {"cache-control": "no-cache"}
        return FileResponse(file, media_type=_TYPES[file.suffix], headers=headers)

    @app.get("/welcome")
    def welcome() -> Any:
        return JSONResponse(desk.welcome())


def _endpoints(app: Any, desk: Desk, gr: Any) -> None:
    """Register what `gradio_client` can call; the docstrings are its documentation."""

    @contextmanager
    def told() -> Generator[None, None, None]:
        """Turn errors that a visitor can cause into messages for them."""
        try:
            yield
        except NeuronSteerError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, not imported here
                raise
            said = "The graphics card has no memory left for this; ask for a shorter text."
            raise gr.Error(said, print_exception=False) from None

    def generate(
        prompt: str,
        schedule: str = "-",
        operation: str = "",
        strength: float = 1.0,
        max_new_tokens: int = 120,
        temperature: float = 0.6,
        top_p: float = 0.95,
        seed: int = 1,
        controls: bool = True,
        full_length: bool = True,
        pace: float = 0.0,
        pair: str = "",
        session: str = "",
        request: Any = None,
    ) -> Snapshots:
        with told():
            order = Order(
                prompt=prompt,
                schedule=schedule,
                operation=operation,
                strength=strength,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                controls=controls,
                full_length=full_length,
                pace=pace,
            )
            yield from desk.generate(order, pair, session or _session(request))

    def switch(label: str, session: str = "", request: Any = None) -> dict[str, Any]:
        with told():
            return desk.switch(label, session or _session(request))

    def stop(session: str = "", request: Any = None) -> dict[str, Any]:
        with told():
            return desk.stop(session or _session(request))

    def neurons(pair: str = "") -> dict[str, Any]:
        with told():
            return desk.neurons(pair)

    def load(model: str, neurons: str) -> Snapshots:
        with told():
            yield from desk.load(model, neurons)

    limit = desk.settings.at_once
    for call, limits in (
        (generate, {"concurrency_limit": limit, "concurrency_id": "generate"}),
        (load, {"concurrency_limit": 2, "concurrency_id": "load"}),
        (neurons, {"concurrency_limit": 8, "concurrency_id": "neurons"}),
        # Not queued: they are about what runs now.
        (switch, {"queue": False}),
        (stop, {"queue": False}),
    ):
        # Gradio makes a schema of what is sent, not of what yields it, and fills in the request.
        hints = typing.get_type_hints(call)
        special = {"request": gr.Request} if "request" in hints else {}
        call.__annotations__ = {**hints, **special, "return": dict[str, Any]}
        app.api(call, name=call.__name__, description=DESCRIPTIONS[call.__name__], **limits)


def _session(request: Any) -> str:
    """Return the name of a client's session, which `gradio_client` makes up by itself."""
    return str(getattr(request, "session_hash", None) or "")


#: What the endpoints do, for `Client.view_api()` and the API's own description.
DESCRIPTIONS = {
    "generate": "Generate while steering along a schedule; yields snapshots with the text, its "
    "spans, and what a language identifier hears in them, for the steered text and its controls.",
    "switch": "Make the generation that runs in this session go on in another language, from its "
    "next token on; '-' stops steering.",
    "stop": "End the generation that runs in this session.",
    "neurons": "Tell what a neuron set holds: labels, counts, layers, sharing, best neurons.",
    "load": "Load a model and its neuron set; yields progress, in the end the pair's name.",
}
