"""The loaded models of a Space: loaded once, shared by all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from ..errors import NeuronSteerError, ParameterError
from . import zerogpu
from .loaded_model import LoadedModel
from .loading import Progress, load
from .settings import SpaceSettings, model_name

#: Seconds that a server which closes waits for a model that is being loaded.
_LONGEST_LOAD = 60.0


class ModelCache:
    """Loads models, keeps the first one and a few more, and never drops one in use.

    Args:
        settings: What may be loaded, and how many are kept.
    """

    def __init__(self, settings: SpaceSettings) -> None:
        self._settings = settings
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._first: LoadedModel | None = None
        self._failure: NeuronSteerError | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start loading the first model in the background, so that the page is served at once."""
        self._thread = threading.Thread(
            target=self.load_first, name="neuronsteer-load", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Wait until nothing is being loaded.

        A process that ends while a thread of it is inside native code is aborted by the system.
        """
        if self._thread is not None:
            self._thread.join(_LONGEST_LOAD)

    def load_first(self) -> None:
        """Load the first model; why it could not be loaded is told to those who ask for it."""
        try:
            for _ in self.load(self._settings.model, self._settings.neurons):
                pass
        except NeuronSteerError as error:
            self._failure = error
        except Exception as error:  # shown to every visitor; the server keeps running
            self._failure = ParameterError(f"The first model could not be loaded: {error}")
        finally:
            self._ready.set()

    @property
    def ready(self) -> bool:
        """Whether the first model is loaded, or has failed to load."""
        return self._ready.is_set()

    def wait(self, timeout: float | None = None) -> LoadedModel:
        """Wait for the first model and return it.

        Raises:
            NeuronSteerError: Why it could not be loaded.
        """
        if not self._ready.wait(timeout):
            raise ParameterError("The first model is still being loaded; try again in a moment.")
        if self._first is None:
            raise self._failure or ParameterError("No model is loaded.")
        return self._first

    def names(self) -> list[str]:
        """Return the names of the loaded models."""
        with self._lock:
            return list(self._models)

    def load(self, model_id: str, set_id: str) -> Generator[Progress, None, LoadedModel]:
        """Load a model and its set, unless they are loaded; yield progress and return them.

        Raises:
            NeuronSteerError: If it cannot be loaded.
        """
        name = model_name(model_id.strip(), set_id.strip())
        with self._lock:
            loaded = self._models.get(name)
        if loaded is not None:
            return loaded
        if zerogpu.is_active() and self._ready.is_set():
            raise ParameterError(
                "On ZeroGPU a Space has one model, that of its settings: a graphics card that was "
                "asked for before knows no other. Duplicate the Space for another model."
            )
        if self._loading.locked():
            yield 0.01, "Waiting for another model that is being loaded"
        # One at a time: two models that each fit may not fit together.
        with self._loading:
            with self._lock:
                self._drop_unused()
            loaded = yield from load(model_id, set_id, self._settings)
            with self._lock:
                self._models[loaded.name] = loaded
                if self._first is None:
                    self._first = loaded
        return loaded

    @contextmanager
    def using(self, name: str) -> Generator[LoadedModel, None, None]:
        """Give a loaded model, the first one for an empty name; it is kept until the end."""
        # A server that was started again is asked for its first model by pages from before.
        loaded = self.wait(60) if name in ("", self._settings.first) else None
        with self._lock:
            if loaded is None:
                loaded = self._models.get(name)
            if loaded is None:
                raise ParameterError(
                    f"{name[:160]!r} is not loaded here (any more). Load it again in the Load tab."
                )
            if loaded is not self._first:
                self._models.move_to_end(loaded.name)
            self._used[loaded.name] = self._used.get(loaded.name, 0) + 1
        try:
            yield loaded
        finally:
            with self._lock:
                self._used[loaded.name] -= 1

    def _drop_unused(self) -> None:
        """Drop unused models, the longest unused first, until one more may be loaded."""
        first = None if self._first is None else self._first.name
        others = [name for name in self._models if name != first]
        free = [name for name in others if not self._used.get(name)]
        while len(others) >= max(self._settings.kept, 1) and free:
            gone = free.pop(0)
            others.remove(gone)
            del self._models[gone]
        if len(others) >= max(self._settings.kept, 1) and first is not None:
            raise ParameterError(
                "Other visitors are using all the models that fit here. Try again in a minute."
            )
