"""ZeroGPU: generations run in another process, and still receive control messages."""

from __future__ import annotations

import importlib
import sys

import pytest

from neuronsteer.space import zerogpu
from neuronsteer.space.service import Service
from neuronsteer.space.settings import SpaceSettings

from .conftest import changed, last

# As the real package: the decorated function runs in a forked process, everything that goes in or
# comes out is pickled.
FAKE = """
import multiprocessing, os, pickle, torch
calls = []
def GPU(duration):
    def decorate(function):
        def wrapper(*args):
            calls.append((duration, os.getpid()))
            here, there = multiprocessing.Pipe(duplex=False)
            data = pickle.dumps(args)
            def work():
                # A forked process hangs if it uses the threads that its parent had.
                torch.set_num_threads(1)
                for value in function(*pickle.loads(data)):
                    there.send({**value, "pid": os.getpid()})
                there.send(None)
            process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
            process.start()
            while here.poll(60) and (value := here.recv()) is not None:
                yield value
            process.join(20)
        return wrapper
    return decorate
"""


@pytest.fixture
def spaces(tmp_path, monkeypatch):
    """A package that does what `spaces` does."""
    if sys.platform != "linux":
        pytest.skip("ZeroGPU forks, which is safe on Linux only")
    (tmp_path / "spaces.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("spaces")
    sys.modules.pop("spaces", None)


def test_elsewhere_nothing_is_wrapped():
    def call():
        return 1

    assert zerogpu.on_gpu(call) is call
    zerogpu.prepare()


@pytest.fixture
def service(spaces) -> Service:  # noqa: ARG001 - found when the service is made
    service = Service(SpaceSettings())
    service.models.start()
    service.models.wait()
    return service


def test_switches_reach_the_other_process(service, spaces, short, pause):
    pause.at(6)
    end = None
    asked = changed(short, schedule="en", max_new_tokens=60)
    for end in service.generate(asked, session="far-away"):
        if end["tokens"] == 6 and not end["switches"]:
            assert service.switch("ja", "far-away")["switched"]
            pause.resume()
    assert spaces.calls and end["pid"] != spaces.calls[0][1]
    assert [span["label"] for span in end["outputs"][0]["spans"]] == ["en", "ja"]
    assert end["state"] == "done" and "code" in end


def test_stop_reaches_the_other_process(service, short, pause):
    pause.at(6)
    seen = service.generate(changed(short, max_new_tokens=200), session="far-away")
    next(seen)
    assert service.stop("far-away")["stopped"]
    end = last(seen)
    assert end["state"] == "stopped" and end["tokens"] <= 6 and service.sessions == []
