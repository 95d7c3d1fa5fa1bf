"""The Gradio server: named endpoints with a queue, and the page that calls them."""

from __future__ import annotations

import html
import io
import os
import threading
import typing
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from ..errors import NeuronSteerError, ParameterError, require
from . import zerogpu
from .endpoint_types import LoadStep, NeuronFacts, Snapshot, Stopped, Switched
from .mcp_tools import NOT_A_TOOL, add_tools
from .middleware import SecurityMiddleware
from .request import GenerationRequest
from .service import Service
from .settings import SpaceSettings, is_loopback

Snapshots = Generator[dict[str, Any], None, None]

_PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


class PageServer:
    """A page that is being served; made by `serve()`.

    Attributes:
        url: Where it is.
        service: What visitors can do.
    """

    def __init__(self, url: str, service: Service, blocks: Any) -> None:
        self.url, self.service = url, service
        self._blocks = blocks
        self._closed = threading.Event()

    def wait(self) -> None:
        """Return when `close` is called."""
        while not self._closed.wait(1.0):
            pass

    def close(self) -> None:
        """Stop serving."""
        self._closed.set()
        self._blocks.close(verbose=False)
        self.service.models.close()


def serve(
    settings: SpaceSettings,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
) -> PageServer:
    """Start serving and return at once; the first model is loaded in the background.

    Args:
        settings: What is loaded and allowed.
        host: Address to listen on.
        port: Port; default: the first free one from 7860 on.
        open_browser: Show the page in the user's browser.

    Raises:
        ParameterError: If the port is taken.
        MissingExtraError: Without gradio, or without mcp where the settings ask for it.
    """
    # Before gradio is imported: it sends no statistics, and does not look for newer versions.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    gr: Any = require("gradio", "space", "The page")
    if settings.mcp:
        require("mcp", "mcp", "A page with tools for agents")
    settings = settings.at(host)
    service = Service(settings)
    app = gr.Server(title="neuronsteer", docs_url=None, redoc_url=None)
    app.add_middleware(SecurityMiddleware, local=not settings.public and is_loopback(host))
    _add_pages(app, service)
    if zerogpu.is_active():
        # Gradio's start is when ZeroGPU takes the models over; a thread could not even load them.
        service.models.load_first()
    if settings.mcp:
        # First, because Gradio calls a tool by its function, and these have names of endpoints.
        add_tools(app, service, _errors_shown(gr))
    _add_endpoints(app, service, gr)
    # Gradio prints where the tools are, whatever it is told.
    silent = redirect_stdout(io.StringIO()) if settings.mcp else nullcontext()
    try:
        with silent:
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
                mcp_server=settings.mcp,
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
    # Not before: Gradio gives its server five seconds to start, and loading keeps a machine busy.
    if not zerogpu.is_active():
        service.models.start()
    blocks = app.get_blocks()
    if settings.mcp and not blocks.mcp_server:  # Gradio goes on without
        blocks.close(verbose=False)
        raise ParameterError(f"The tools for agents cannot be served: {blocks.mcp_error}")
    # Server mode has no argument for it.
    blocks._queue.max_size = settings.waiting
    blocks.validate_inputs = _count_inputs(gr)
    return PageServer(url.rstrip("/"), service, blocks)


def _count_inputs(gr: Any) -> Callable[[Any, list[Any]], None]:
    """Return the check that replaces Gradio's, which writes what it received to the log."""

    def check(function: Any, inputs: list[Any]) -> None:
        expected = len(function.inputs)
        if len(inputs) < expected:
            text = f"/{function.name} got {len(inputs)} arguments; expected {expected}."
            raise gr.Error(text, print_exception=False)

    return check


def _add_pages(app: Any, service: Service) -> None:
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

    # Whoever shows a link with its picture wants to know the picture's whole address.
    text = (_PAGE / "index.html").read_text(encoding="utf-8")
    fixed = os.environ.get("SPACE_HOST")

    def index(request: Request) -> Any:
        address = f"https://{fixed}" if fixed else str(request.base_url).rstrip("/")
        return HTMLResponse(
            text.replace("{address}", html.escape(address)), headers={"cache-control": "no-cache"}
        )

    # Annotations are text in this file, and FastAPI would look for the name among its globals.
    index.__annotations__["request"] = Request
    app.get("/")(app.head("/")(index))

    @app.get("/page/{name}")
    def page(name: str) -> Any:
        file = _PAGE / name
        if file.suffix not in _TYPES or file.parent != _PAGE or not file.is_file():
            return Response("Not found.", 404)
        headers = {"cache-control": "no-cache"}
        return FileResponse(file, media_type=_TYPES[file.suffix], headers=headers)

    @app.get("/welcome")
    def welcome() -> Any:
        return JSONResponse(service.welcome())


def _errors_shown(gr: Any) -> Callable[[], AbstractContextManager[None]]:
    """Return what turns errors that a visitor can cause into messages for the visitor."""

    @contextmanager
    def errors_shown() -> Generator[None, None, None]:
        try:
            yield
        except NeuronSteerError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, not imported here
                raise
            text = "The graphics card has no memory left for this; ask for a shorter text."
            raise gr.Error(text, print_exception=False) from None

    return errors_shown


def _add_endpoints(app: Any, service: Service, gr: Any) -> None:
    """Register what `gradio_client` can call; the docstrings are its documentation."""
    errors_shown = _errors_shown(gr)

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
        model: str = "",
        session: str = "",
        keep: str = "",
        request: Any = None,
    ) -> Snapshots:
        with errors_shown():
            wanted = GenerationRequest(
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
                keep=keep,
            )
            yield from service.generate(wanted, model, session or _session(request))

    def switch(label: str, session: str = "", request: Any = None) -> dict[str, Any]:
        with errors_shown():
            return service.switch(label, session or _session(request))

    def stop(session: str = "", request: Any = None) -> dict[str, Any]:
        with errors_shown():
            return service.stop(session or _session(request))

    def neurons(model: str = "") -> dict[str, Any]:
        with errors_shown():
            return service.neurons(model)

    def load(model: str, neurons: str) -> Snapshots:
        with errors_shown():
            yield from service.load(model, neurons)

    limit = service.settings.at_once
    for call, limits in (
        (generate, {"concurrency_limit": limit, "concurrency_id": "generate"}),
        (load, {"concurrency_limit": 2, "concurrency_id": "load"}),
        (neurons, {"concurrency_limit": 8, "concurrency_id": "neurons"}),
        # Not queued: they act on what runs now.
        (switch, {"queue": False}),
        (stop, {"queue": False}),
    ):
        # Gradio makes a schema of what is sent, not of the generator, and fills in the request.
        hints = typing.get_type_hints(call)
        special = {"request": gr.Request} if "request" in hints else {}
        call.__annotations__ = {**hints, **special, "return": RETURNS[call.__name__]}
        vars(call).update(NOT_A_TOOL)
        app.api(call, name=call.__name__, description=DESCRIPTIONS[call.__name__], **limits)


def _session(request: Any) -> str:
    """Return the name of a client's session, which `gradio_client` chooses itself."""
    return str(getattr(request, "session_hash", None) or "")


#: The names in what the endpoints give, which Gradio describes to clients.
RETURNS: dict[str, Any] = {
    "generate": Snapshot,
    "switch": Switched,
    "stop": Stopped,
    "neurons": NeuronFacts,
    "load": LoadStep,
}

#: What the endpoints do, for `Client.view_api()` and the API's own description.
DESCRIPTIONS = {
    "generate": "Generate while steering along a schedule; yields snapshots with the text, its "
    "spans, and the language detected in them, for the steered text and its controls.",
    "switch": "Make the generation that runs in this session continue in another language, from "
    "its next token on; '-' stops steering.",
    "stop": "End the generation that runs in this session.",
    "neurons": "Describe a neuron set: labels, counts, layers, sharing, best neurons.",
    "load": "Load a model and its neuron set; yields progress, in the end the name to use.",
}
