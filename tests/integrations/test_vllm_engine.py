"""How vLLM's functions are wrapped and its engine is changed, on stand-ins. No vLLM is needed."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from neuronsteer.errors import MissingExtraError, NeuronSteerError
from neuronsteer.integrations.vllm import (
    add_set,
    add_set_async,
    list_sets,
    remove_set,
    runner_v2,
    workers,
)
from neuronsteer.integrations.vllm.admission import rows_in_use, schedule_of
from neuronsteer.integrations.vllm.compiled_labels import ServedSet
from neuronsteer.integrations.vllm.runner_v1 import BatchTracker
from neuronsteer.integrations.vllm.served_sets import ServedSets
from neuronsteer.integrations.vllm.settings import KEY, ServeSettings
from neuronsteer.integrations.vllm.vllm_internals import (
    InternalUse,
    add_method,
    missing,
    verify,
    wrap,
)

from .test_vllm_requests import save
from .test_vllm_worker_tables import request, worker


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module that is not imported yet."""
    name = "stand_in_for_vllm"
    (tmp_path / f"{name}.py").write_text(
        "class Engine:\n    def start(self, size):\n        return size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


def test_functions_are_wrapped_once_when_their_module_is_imported(module: str):
    def doubled(original):
        return lambda self, size: 2 * original(self, size)

    uses = (InternalUse(module, "Engine.start", (), "wrapped: …", "…"),)
    assert "could not be wrapped" in missing(uses)[0]
    del sys.modules[module]
    for _ in range(2):  # vLLM loads plugins more than once
        wrap(module, "Engine.start", doubled)
        wrap(module, "Engine.gone", doubled)
        add_method(module, "Engine", "stop", lambda self: "stopped")
    engine = importlib.import_module(module).Engine()
    assert engine.start(3) == 6 and engine.stop() == "stopped"
    assert missing(uses) == []
    gone = (InternalUse(module, "Engine.gone", (), "wrapped: …", "…"),)
    assert "gone" in missing(gone)[0]
    other = (InternalUse(module, "Engine.start", ("speed",), "wrapped: …", "…"),)
    assert "takes no speed" in missing(other)[0]


def test_versions_are_checked(module: str, monkeypatch: pytest.MonkeyPatch):
    fake = ModuleType("vllm")
    fake.__version__ = "0.32.1"
    monkeypatch.setitem(sys.modules, "vllm", fake)
    verify(())
    with pytest.raises(MissingExtraError, match=rf"are missing: {module}\.Engine\.gone"):
        verify((InternalUse(module, "Engine.gone", (), "…", "…"),))
    fake.__version__ = "0.31.0"
    with pytest.raises(MissingExtraError, match=r"vLLM 0\.31\.0 is not supported"):
        verify(())
    monkeypatch.setenv("NEURONSTEER_VLLM_ANY_VERSION", "1")
    verify(())


class Engine:
    """What `add_set` and the like use of vLLM's `LLM`."""

    def __init__(self, served: ServedSets) -> None:
        self.input_processor = SimpleNamespace(neuronsteer=served)
        self.output_processor = SimpleNamespace(request_states={})
        self.vllm_config = SimpleNamespace(parallel_config=SimpleNamespace())
        self.calls: list = []
        self.answers: list[str | None] = [None]

    def collective_rpc(self, name: str, args: tuple) -> list[str | None]:
        self.calls.append((name, *args))
        return self.answers


class AsyncEngine(Engine):
    async def collective_rpc(self, name: str, args: tuple) -> list[str | None]:
        return super().collective_rpc(name, args)


@pytest.fixture
def served(tmp_path: Path) -> ServedSets:
    one = save(tmp_path / "one", "en", "fr")
    return ServedSets(ServeSettings.read({"sets": {"one": one}, "capacity": 4}))


def test_sets_are_added_and_removed(served: ServedSets, tmp_path: Path):
    engine = Engine(served)
    other = save(tmp_path / "other", "de", seed=1)
    assert add_set(engine, other)["used"] == 3
    [(name, kept, added)] = engine.calls
    assert name == "neuronsteer_change" and len(kept) == len(added) == 1
    assert ServedSet.from_wire(added[0]).labels == ("de",)
    assert list(remove_set(engine, "one")["sets"]) == ["other"]
    engine.answers = [None, "no memory"]
    with pytest.raises(NeuronSteerError, match="cannot be served: no memory"):
        add_set(engine, save(tmp_path / "third", "ja", seed=2))
    assert list(list_sets(engine)["sets"]) == ["other"]


def test_sets_are_added_to_an_asynchronous_engine(served: ServedSets, tmp_path: Path):
    other = save(tmp_path / "other", "de", seed=1)
    assert list(asyncio.run(add_set_async(AsyncEngine(served), other))["sets"]) == ["one", "other"]


def test_an_engine_without_steering_says_so():
    with pytest.raises(NeuronSteerError, match="started without neuron steering"):
        list_sets(Engine(None))  # pyright: ignore[reportArgumentType]


def test_rows_are_in_use_until_their_request_has_finished():
    output = SimpleNamespace(request_states={"a": 1, "b": 1})
    rows_in_use(output).update(a=frozenset({"x"}), b=frozenset({"y"}))
    del output.request_states["a"]
    assert rows_in_use(output) == {"b": frozenset({"y"})}


def test_the_batch_of_runner_v1_is_tracked():
    tables, _ = worker(capacity=2)

    def state(text: str) -> SimpleNamespace:
        schedule = request(text, 2)
        extra = None if schedule is None else {KEY: schedule.to_wire()}
        return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra))

    tracker = BatchTracker(tables)
    states = {"a": state("en"), "b": state("-"), "c": state("fr")}
    assert schedule_of(states["a"].sampling_params) == request("en", 2)

    def step(*names: str) -> list[int]:
        runner = SimpleNamespace(
            input_batch=SimpleNamespace(num_reqs=len(names), req_ids=list(names)),
            requests=states,
            query_start_loc=SimpleNamespace(np=np.arange(len(names) + 1) * 2),
        )
        positions = torch.arange(2).repeat(len(names))
        tracker.update(runner, positions, len(positions))
        return tables.tokens.rows[: len(positions)].tolist()

    first = step("a", "b", "c")
    english, french = tables._rows["en"], tables._rows["fr"]
    assert first == [english] * 2 + [0] * 2 + [french] * 2
    assert step("c", "a") == [french] * 2 + [english] * 2
    states["a"] = state("fr")  # another request under the same name
    assert step("c", "a") == [french] * 4
    assert step("b") == [0, 0] and not tables.tokens.steering
    # The tables are full, and what is over comes after what is new.
    states["d"] = state("ja")
    assert step("c", "b") == [french] * 2 + [0] * 2
    states["a"] = state("en")
    assert step("c", "a") == [french] * 2 + [english] * 2
    assert step("d", "a") == [french] * 2 + [english] * 2 and "ja" in tables.keys
    assert step("c", "d") == [english] * 2 + [french] * 2


def test_the_state_of_runner_v2_is_subclassed(monkeypatch: pytest.MonkeyPatch):
    tables, _ = worker(capacity=2)
    monkeypatch.setattr(runner_v2, "build_tables", lambda *_: tables)
    settings = SimpleNamespace(additional_config={KEY: {"sets": ["a/b"]}})

    class ModelState:
        def __init__(self, vllm_config, model) -> None:
            self.device = "cpu"

        def add_request(self, req_index, new_req_data) -> None:
            pass

        def remove_request(self, req_id) -> None:
            pass

        def prepare_inputs(self, input_batch, req_states) -> str:
            return "inputs"

    resolve = runner_v2._subclass_state(lambda *_: ModelState)
    assert resolve(SimpleNamespace(additional_config={}), None) is ModelState
    steered = resolve(settings, None)(settings, None)
    assert steered.__class__.__name__ == "SteeredModelState"
    extra = {KEY: request("fr", 2).to_wire()}
    params = SimpleNamespace(extra_args=extra)
    steered.add_request(3, SimpleNamespace(req_id="a", sampling_params=params))
    batch = SimpleNamespace(
        num_tokens=3,
        num_reqs=2,
        num_tokens_after_padding=4,
        query_start_loc=torch.tensor([0, 1, 3]),
        idx_mapping=torch.tensor([5, 3]),
        positions=torch.tensor([7, 0, 1, 0]),
    )
    assert steered.prepare_inputs(batch, None) == "inputs"
    french = tables._rows["fr"]
    assert tables.tokens.rows[:4].tolist() == [0, french, french, 0]
    assert workers._rows(SimpleNamespace(model_runner=SimpleNamespace(model_state=steered)))
    steered.remove_request("a")
    steered.prepare_inputs(batch, None)
    assert not tables.tokens.steering and not tables.tokens.rows.any()
