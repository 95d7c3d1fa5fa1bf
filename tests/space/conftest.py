"""The page with the embedded model, served once for all tests of a process."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from neuronsteer.space import SpaceSettings
from neuronsteer.space.generation_job import GenerationJob
from neuronsteer.space.request import GenerationRequest
from neuronsteer.space.service import Service

PROMPT = "The old man looked out of the window, and"
#: Seconds after which a test gives up. Only a defect needs them, so that a slow machine is no harm.
PATIENCE = 120


@pytest.fixture(scope="session")
def service() -> Service:
    """A service without a server, its model loaded."""
    service = Service(SpaceSettings())
    service.models.start()
    service.models.wait()
    return service


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """A running server."""
    pytest.importorskip("gradio", reason="needs the extra space")
    from neuronsteer.space import launch

    # Without a port: a free one that is looked for here may be taken by the time it is used.
    server = launch(block=False, settings=SpaceSettings(max_new_tokens=240))
    server.service.models.wait()
    yield server
    server.close()


@pytest.fixture
def short() -> GenerationRequest:
    """A short request without controls."""
    return GenerationRequest(prompt=PROMPT, schedule="fr", max_new_tokens=16, controls=False)


class Pause:
    """Lets generations write so many tokens and then wait, while they still take messages.

    A test that switches or stops in the middle of a text would otherwise race with the text. The
    numbers are shared with forked processes.
    """

    def __init__(self) -> None:
        self._tokens = multiprocessing.Value("l", 0)

    def at(self, tokens: int) -> None:
        """Wait after that many tokens."""
        self._tokens.value = tokens

    def resume(self) -> None:
        """Write the rest."""
        self._tokens.value = 0

    def holds(self, tokens: int) -> bool:
        """Whether a generation with that many tokens has to wait."""
        return 0 < self._tokens.value <= tokens


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pause]:
    """Pauses the generations of this test."""
    pause = Pause()
    original = GenerationJob._time_to_next_token

    def time_to_next_token(job: GenerationJob) -> float:
        return 0.01 if pause.holds(len(job._tokens)) else original(job)

    monkeypatch.setattr(GenerationJob, "_time_to_next_token", time_to_next_token)
    yield pause
    pause.resume()


def last(snapshots: Any) -> dict[str, Any]:
    """The last of some snapshots."""
    return list(snapshots)[-1]


def changed(request: GenerationRequest, **changes: Any) -> GenerationRequest:
    """A request with other fields."""
    return dataclasses.replace(request, **changes)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so; fail after a long time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE} s in vain: {what}"
        time.sleep(0.02)
