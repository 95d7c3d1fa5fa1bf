"""What visitors can do: generate, switch, stop, neurons, load. Independent of Gradio."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Generator
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from ..errors import NeuronSteerError, ParameterError
from ..hub import laid_out
from .control_messages import ControlFolder, ControlMessages
from .generation_job import GenerationJob
from .model_cache import ModelCache
from .request import GenerationRequest, check_label, describe_operations
from .settings import SpaceSettings
from .zerogpu import on_gpu

#: Seconds of a graphics card on ZeroGPU: for starting, for a token of a model of some billion
#: parameters, and in all; visitors have a few minutes a day.
_STARTING_SECONDS, _SECONDS_PER_TOKEN, _LONGEST_ON_GPU = 15, 0.15, 120


class Service:
    """Serves visitors; every generation has its own steerer, thread and control messages.

    Args:
        settings: What is allowed.
    """

    def __init__(self, settings: SpaceSettings) -> None:
        self.settings = settings
        self.models = ModelCache(settings)
        self._control = ControlFolder()
        self._sessions: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()
        # On ZeroGPU this runs in a copy of this process, which finds the models by their names.
        self._compute = on_gpu(self._run, _seconds_on_gpu)

    def generate(
        self, request: GenerationRequest, model: str = "", session: str = ""
    ) -> Generator[dict[str, Any], None, None]:
        """Yield snapshots of one generation, see `GenerationJob.snapshots`.

        Args:
            request: What to generate; it is not checked yet.
            model: Name of a loaded model; empty for the first one.
            session: What `switch` and `stop` will call this generation; empty for a random name.
        """
        session = session or secrets.token_urlsafe(12)
        with self.models.using(model) as loaded:
            checked = request.checked(self.settings, loaded.neurons)
            messages = self._control.open(session)
            watched = checked.keep if checked.is_watched(loaded.neurons) else ""
            with self._lock:
                self._sessions[session] = loaded.name, watched
            try:
                for snapshot in self._compute(loaded.name, checked, messages):
                    if "error" in snapshot:
                        raise ParameterError(snapshot["error"])
                    yield {"session": session, **snapshot}
            finally:
                # The other process, if there is one, may not notice that the visitor has left.
                self._control.send(session, {"stop": True})
                messages.close()
                with self._lock:
                    self._sessions.pop(session, None)

    def _run(
        self, model: str, request: GenerationRequest, messages: ControlMessages
    ) -> Generator[dict[str, Any], None, None]:
        with self.models.using(model) as loaded:
            try:
                yield from GenerationJob(loaded, request, messages).snapshots()
            except NeuronSteerError as error:
                # ZeroGPU passes on the class of an exception, but not its message.
                yield {"error": str(error)}

    def switch(self, label: str | None, session: str) -> dict[str, Any]:
        """Make a running generation continue in another language, from its next token on.

        Args:
            label: The label; `None`, `""` or `"-"` for no steering.
            session: Name of the generation.
        """
        target = None if label in (None, "", "-") else label
        with self._lock:
            model, watched = self._sessions.get(session, (None, ""))
        if model is None:
            return {"switched": False, "why": "Nothing is being generated in this session."}
        if watched:
            why = f"This text is kept in {watched!r}; nothing else is steered to."
            return {"switched": False, "why": why}
        if target is not None:
            with self.models.using(model) as loaded:
                check_label(target, loaded.neurons)
        return {"switched": self._control.send(session, {"switch": target}), "label": target}

    def stop(self, session: str) -> dict[str, Any]:
        """End a running generation after its current token."""
        return {"stopped": session in self.sessions and self._control.send(session, {"stop": True})}

    @property
    def sessions(self) -> list[str]:
        """The names of the running generations."""
        with self._lock:
            return list(self._sessions)

    def neurons(self, model: str = "") -> dict[str, Any]:
        """Return facts about a loaded model, see `LoadedModel.describe`."""
        with self.models.using(model) as loaded:
            return loaded.describe()

    def load(self, model: str, neurons: str) -> Generator[dict[str, Any], None, None]:
        """Load a model and its set; yield `done` (0 … 1), `doing`, and in the end its `name`."""
        steps = self.models.load(str(model)[:500], str(neurons)[:500])
        while True:
            try:
                done, doing = next(steps)
            except StopIteration as end:
                yield {"done": 1.0, "doing": "Ready", "name": end.value.name}
                return
            yield {"done": done, "doing": doing, "name": None}

    def welcome(self) -> dict[str, Any]:
        """Return what the page needs first: settings, defaults, and what is loaded."""
        settings = dataclasses.asdict(self.settings)
        kept = ("public", "allow", "prompt_characters", "max_new_tokens", "model", "neurons")
        defaults = dataclasses.asdict(GenerationRequest(prompt=""))
        del defaults["prompt"]
        return {
            "ready": self.models.ready,
            "models": self.models.names(),
            "choices": self._choices(),
            "links": project_links(),
            "settings": {key: settings[key] for key in kept},
            "defaults": defaults,
            "operations": describe_operations(),
        }

    def _choices(self) -> list[dict[str, str]]:
        """Return the models to choose from: the first, and what `make real` laid out."""
        first = {"model": self.settings.model, "set": self.settings.neurons}
        found = [first, *({"model": name, "set": name} for name in laid_out())]
        # Strangers may load only what was allowed, so it is of no use to them to be offered more.
        settings = self.settings
        return [
            each
            for i, each in enumerate(found)
            if each not in found[:i]
            and (each == first or not settings.public or each["model"] in settings.allow)
        ]


def _seconds_on_gpu(_model: str, request: GenerationRequest, _messages: ControlMessages) -> int:
    """Return how long a generation may need the graphics card on ZeroGPU."""
    token = 1 / request.pace if request.pace else _SECONDS_PER_TOKEN
    needed = _STARTING_SECONDS + request.max_new_tokens * max(token, _SECONDS_PER_TOKEN)
    return min(int(needed), _LONGEST_ON_GPU)


def project_links() -> dict[str, str]:
    """Return where the project is: the addresses that the installed package names, if it does."""
    try:
        entries = metadata("neuronsteer").get_all("Project-URL") or []
    except PackageNotFoundError:
        entries = []
    return {name.strip(): url.strip() for name, _, url in (each.partition(",") for each in entries)}
