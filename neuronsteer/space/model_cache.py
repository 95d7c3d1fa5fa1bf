"""The models that a Space holds: loaded once, shared by all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from ..errors import NeuronSteerError, ParameterError
from .downloading import Step
from .loaded_model import Pair
from .loading import load
from .settings import Settings


class Shelf:
    """Loads pairs, keeps the first one and a few more, and never drops one in use.

    Args:
        settings: What may be loaded, and how many are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pairs: OrderedDict[str, Pair] = OrderedDict()
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._first: Pair | None = None
        self._failure: NeuronSteerError | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start loading the first pair in the background, so that the page is there at once."""
        self._thread = threading.Thread(target=self._open, name="neuronsteer-load", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        try:
            for _ in self.load(self._settings.model, self._settings.neurons):
                pass
        except NeuronSteerError as error:
            self._failure = error
        except Exception as error:  # told to every visitor, and the server lives on
            self._failure = ParameterError(f"The first model could not be loaded: {error}")
        finally:
            self._ready.set()

    @property
    def ready(self) -> bool:
        """Whether the first pair is loaded, or has failed to."""
        return self._ready.is_set()

    def wait(self, timeout: float | None = None) -> Pair:
        """Return the first pair, when it is there.

        Raises:
            NeuronSteerError: Why it could not be loaded.
        """
        if not self._ready.wait(timeout):
            raise ParameterError("The first model is still being loaded; try again in a moment.")
        if self._first is None:
            raise self._failure or ParameterError("No model is loaded.")
        return self._first

    def names(self) -> list[str]:
        """Return the names of the pairs that are loaded."""
        with self._lock:
            return list(self._pairs)

    def load(self, model_id: str, set_id: str) -> Generator[Step, None, Pair]:
        """Load a pair, or return the one that is there; yields steps.

        Raises:
            NeuronSteerError: If it cannot be loaded.
        """
        name = f"{model_id.strip()} + {set_id.strip()}"
        with self._lock:
            there = self._pairs.get(name)
        if there is not None:
            return there
        if self._loading.locked():
            yield 0.01, "Waiting for another model that is being loaded"
        # One at a time: two models that each fit may not fit together.
        with self._loading:
            with self._lock:
                self._make_room()
            pair = yield from load(model_id, set_id, self._settings)
            with self._lock:
                self._pairs[pair.name] = pair
                if self._first is None:
                    self._first = pair
        return pair

    @contextmanager
    def borrow(self, name: str) -> Generator[Pair, None, None]:
        """Lend a pair, the first one for an empty name; it stays loaded until it is given back."""
        pair = self.wait(60) if not name else None
        with self._lock:
            if pair is None:
                pair = self._pairs.get(name)
            if pair is None:
                raise ParameterError(
                    f"{name[:160]!r} is not loaded here (any more). Load it again in the Load tab."
                )
            if pair is not self._first:
                self._pairs.move_to_end(pair.name)
            self._used[pair.name] = self._used.get(pair.name, 0) + 1
        try:
            yield pair
        finally:
            with self._lock:
                self._used[pair.name] -= 1

    def _make_room(self) -> None:
        """Forget pairs that nobody uses, the longest unused first, until one more may come."""
        first = None if self._first is None else self._first.name
        others = [name for name in self._pairs if name != first]
        free = [name for name in others if not self._used.get(name)]
        while len(others) >= max(self._settings.kept, 1) and free:
            gone = free.pop(0)
            others.remove(gone)
            del self._pairs[gone]
        if len(others) >= max(self._settings.kept, 1) and first is not None:
            raise ParameterError(
                "Other visitors are using all the models that fit here. Try again in a minute."
            )
