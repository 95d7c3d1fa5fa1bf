"""ZeroGPU: generations run in another process, and still receive control messages."""

from __future__ import annotations

import importlib
import sys
import threading

import pytest

from neuronsteer.errors import ParameterError
from neuronsteer.space import service as service_module
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
            calls.append((duration(*args), os.getpid()))
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

    assert zerogpu.on_gpu(call, lambda: 1) is call
    assert not zerogpu.is_active()
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


def test_the_card_is_asked_for_as_long_as_a_generation_takes(service, spaces, short):
    last(service.generate(changed(short, max_new_tokens=2)))
    last(service.generate(changed(short, max_new_tokens=2, pace=1)))
    fast, slow = (seconds for seconds, _ in spaces.calls)
    assert 0 < fast < slow <= 120
    most = changed(short, max_new_tokens=400, pace=1)
    assert service_module._seconds_on_gpu("", most, None) == 120


def test_mistakes_that_the_other_process_finds_are_told(service, short):
    """A prompt that is too long for the model is found where the tokenizer is used."""
    limit = service.models.wait().model.config.max_position_embeddings
    long = changed(short, prompt="a b " * 450, max_new_tokens=min(400, limit))
    with pytest.raises(ParameterError, match="tokens"):
        last(service.generate(long))


def test_the_model_is_there_before_gradio_starts(monkeypatch):
    """ZeroGPU takes over what the first thread has loaded by then."""
    gradio = pytest.importorskip("gradio", reason="needs the extra space")
    from neuronsteer.space import launch, model_cache

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    happened = []
    load, start = model_cache.load, gradio.Server.launch

    def loading(*args):
        happened.append(("load", threading.current_thread() is threading.main_thread()))
        return load(*args)

    def starting(self, *args, **options):
        happened.append("launch")
        return start(self, *args, **options)

    monkeypatch.setattr(model_cache, "load", loading)
    monkeypatch.setattr(gradio.Server, "launch", starting)
    server = launch(block=False)
    try:
        assert happened == [("load", True), "launch"] and server.service.models.ready
        with pytest.raises(ParameterError, match="ZeroGPU"):
            list(server.service.load("demo", "demo/lape"))
        # What is there can still be chosen.
        assert list(server.service.load("demo", "demo"))[-1]["name"] == "demo + demo"
    finally:
        server.close()
