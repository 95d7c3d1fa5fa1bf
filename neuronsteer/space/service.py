"""What visitors can ask for: generate, switch, stop, neurons, load. Knows nothing of Gradio."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Generator
from typing import Any

from .control_messages import Mailbox, Mailboxes
from .generation_job import Running
from .model_cache import Shelf
from .request import Order, check_label, explained
from .settings import Settings
from .zerogpu import on_gpu


class Desk:
    """Serves visitors; every generation has a steerer, a thread and a mailbox of its own.

    Args:
        settings: What is allowed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shelf = Shelf(settings)
        self._mail = Mailboxes()
        self._sessions: dict[str, str] = {}
        self._lock = threading.Lock()
        # On ZeroGPU this runs in a copy of this process, which knows the pairs by their names.
        self._compute = on_gpu(self._run)

    def generate(
        self, order: Order, pair: str = "", session: str = ""
    ) -> Generator[dict[str, Any], None, None]:
        """Yield snapshots of one generation, see `Running.snapshots`.

        Args:
            order: What to generate; not to be trusted.
            pair: Name of a loaded pair; empty for the first one.
            session: What `switch` and `stop` will call this generation; empty for a random name.
        """
        session = session or secrets.token_urlsafe(12)
        with self.shelf.borrow(pair) as lent:
            checked = order.checked(self.settings, lent.neurons)
            box = self._mail.open(session)
            with self._lock:
                self._sessions[session] = lent.name
            try:
                for snapshot in self._compute(lent.name, checked, box):
                    yield {"session": session, **snapshot}
            finally:
                # The other process, if there is one, may not hear that nobody looks any more.
                self._mail.post(session, {"stop": True})
                box.close()
                with self._lock:
                    self._sessions.pop(session, None)

    def _run(self, pair: str, order: Order, box: Mailbox) -> Generator[dict[str, Any], None, None]:
        with self.shelf.borrow(pair) as lent:
            yield from Running(lent, order, box).snapshots()

    def switch(self, label: str | None, session: str) -> dict[str, Any]:
        """Make a running generation go on in another language, from its next token on.

        Args:
            label: The label; `None`, `""` or `"-"` for no steering.
            session: Name of the generation.
        """
        target = None if label in (None, "", "-") else label
        with self._lock:
            pair = self._sessions.get(session)
        if pair is None:
            return {"switched": False, "why": "Nothing is being generated in this session."}
        if target is not None:
            with self.shelf.borrow(pair) as lent:
                check_label(target, lent.neurons)
        return {"switched": self._mail.post(session, {"switch": target}), "label": target}

    def stop(self, session: str) -> dict[str, Any]:
        """End a running generation after its current token."""
        with self._lock:
            known = session in self._sessions
        return {"stopped": known and self._mail.post(session, {"stop": True})}

    @property
    def running(self) -> int:
        """How many generations are running."""
        with self._lock:
            return len(self._sessions)

    def neurons(self, pair: str = "") -> dict[str, Any]:
        """Return facts about a loaded pair, see `Pair.describe`."""
        with self.shelf.borrow(pair) as lent:
            return lent.describe()

    def load(self, model: str, neurons: str) -> Generator[dict[str, Any], None, None]:
        """Load a pair; yield `done` (0 … 1), `doing`, and in the end `pair`."""
        steps = self.shelf.load(str(model)[:500], str(neurons)[:500])
        while True:
            try:
                done, doing = next(steps)
            except StopIteration as end:
                yield {"done": 1.0, "doing": "Ready", "pair": end.value.name}
                return
            yield {"done": done, "doing": doing, "pair": None}

    def welcome(self) -> dict[str, Any]:
        """Return what the page asks first: rules, defaults, and what is loaded."""
        order = Order(prompt="")
        rules = dataclasses.asdict(self.settings)
        kept = ("public", "allow", "prompt_characters", "max_new_tokens", "model", "neurons")
        return {
            "ready": self.shelf.ready,
            "pairs": self.shelf.names(),
            "rules": {key: rules[key] for key in kept},
            "defaults": {
                key: value for key, value in dataclasses.asdict(order).items() if key != "prompt"
            },
            "operations": explained(),
        }
