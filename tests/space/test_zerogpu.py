"""ZeroGPU: generations run in another process, and still hear what visitors say."""

from __future__ import annotations

import importlib
import sys

import pytest

from neuronsteer.space import zerogpu
from neuronsteer.space.service import Desk
from neuronsteer.space.settings import Settings

from .conftest import changed, last

# As the real package: the decorated function runs in a forked process, everything that goes in or
# comes out is pickled.
FAKE = """
import multiprocessing, os, pickle
calls = []
def GPU(duration):
    def decorate(function):
        def wrapper(*args):
            calls.append((duration, os.getpid()))
            here, there = multiprocessing.Pipe(duplex=False)
            data = pickle.dumps(args)
            def work():
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


def test_switches_reach_the_other_process(spaces, order):
    desk = Desk(Settings())
    desk.shelf.open()
    desk.shelf.wait()
    asked = changed(order, schedule="en", max_new_tokens=60, pace=15)
    end = None
    for end in desk.generate(asked, session="far-away"):
        if end["tokens"] >= 6 and not end["switches"]:
            assert desk.switch("ja", "far-away")["switched"]
    assert spaces.calls and end["pid"] != spaces.calls[0][1]
    assert [span["label"] for span in end["lanes"][0]["spans"]] == ["en", "ja"]
    assert end["state"] == "done" and "code" in end


def test_stop_reaches_the_other_process(spaces, order):
    desk = Desk(Settings())
    desk.shelf.open()
    desk.shelf.wait()
    seen = desk.generate(changed(order, max_new_tokens=200, pace=20), session="far-away")
    next(seen)
    assert desk.stop("far-away")["stopped"]
    end = last(seen)
    assert end["state"] == "stopped" and end["tokens"] < 200 and desk.running == 0
