"""Compiled graphs: attach first, then switching languages changes data and never the graph."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from neuronsteer.errors import HookError
from neuronsteer.steering.schedule import Schedule
from neuronsteer.steering.steerer import attach
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model

# "eager" runs the traced graph without a C++ compiler: what is tested is what gets traced.
BACKEND = "eager"
SWITCHES = ["en", "fr", None, "ja", "fr", "en"]


@pytest.fixture(autouse=True)
def _fresh_graphs():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    assert not counters["graph_break"], dict(counters["graph_break"])
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "opt", "phi3", "bloom"])
def test_one_graph_for_all_languages(family):
    model, ids = copy.deepcopy(tiny_model(family)), tiny_ids(2)
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        want = [model(ids).logits for label in SWITCHES if steer.to(label)]
        compiled = torch.compile(model, backend=BACKEND, fullgraph=True, dynamic=False)
        for label, logits in zip(SWITCHES, want, strict=True):
            steer.to(label)
            torch.testing.assert_close(compiled(ids).logits, logits)
        assert graphs() == 1
        assert steer.report()["compiled"]


def test_experts_compile_too():
    model, ids = copy.deepcopy(tiny_model("mixtral")), tiny_ids(2)
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        want = [model(ids).logits for label in SWITCHES if steer.to(label)]
        compiled = torch.compile(model, backend=BACKEND, dynamic=False)
        compiled(ids)
        before = counters["stats"]["unique_graphs"]
        for label, logits in zip(SWITCHES, want, strict=True):
            steer.to(label)
            torch.testing.assert_close(compiled(ids).logits, logits, rtol=1e-4, atol=1e-4)
        assert counters["stats"]["unique_graphs"] == before


def test_gate_semantics_compile_if_asked_for_before():
    model, ids = copy.deepcopy(tiny_model("llama")), tiny_ids(2)
    at_gate = {"name": "set", "value": "mean", "site": "mlp.act"}
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        steer.to("fr", operation=at_gate)
        want = model(ids).logits
        compiled = torch.compile(model, backend=BACKEND, fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(ids).logits, want)
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        torch._dynamo.reset()
        compiled = torch.compile(model, backend=BACKEND, fullgraph=True, dynamic=False)
        compiled(ids)
        with pytest.raises(HookError, match="after the model was compiled"):
            steer.to("fr", operation=at_gate)


@pytest.mark.parametrize("per_row", [False, True])
def test_compiled_decoding_switches_in_mid_generation(per_row):
    model, ids = copy.deepcopy(tiny_model("llama")), tiny_ids(2)
    schedules = [Schedule("en", (4, "fr"), (8, "ja")), Schedule("ja", (2, "en"))]
    config = CompileConfig(backend=BACKEND, mode=None, fullgraph=True, dynamic=False)
    config._compile_all_devices = True
    static = {"cache_implementation": "static", "compile_config": config}
    with attach(model, toy_set(model)) as steer:
        for i, target in enumerate([schedules] * 2 if per_row else [*schedules, *schedules]):
            steer.to(target)
            want = greedy(model, ids, cache_implementation="static", disable_compile=True)
            assert torch.equal(greedy(model, ids, **static), want)
            if i == 0:
                first = graphs()
        assert graphs() == first == 1


def test_a_compiled_forward_inside_generate():
    model, ids = copy.deepcopy(tiny_model("llama")), tiny_ids(2)
    with attach(model, toy_set(model)) as steer:
        steer.to(Schedule("en", (4, "fr")))
        want = greedy(model, ids)
        model.forward = torch.compile(model.forward, backend=BACKEND)
        assert torch.equal(greedy(model, ids), want)


def test_attaching_to_a_compiled_model_is_refused():
    model = copy.deepcopy(tiny_model("llama"))
    neurons = toy_set(model)
    with pytest.raises(HookError, match="Attach first, then compile"):
        attach(torch.compile(model, backend=BACKEND), neurons)
    model.compile(backend=BACKEND)
    with pytest.raises(HookError, match="Attach first, then compile"):
        attach(model, neurons)


def test_a_model_compiled_behind_our_back_is_noticed():
    model, ids = copy.deepcopy(tiny_model("llama")), tiny_ids(1)
    neurons = toy_set(model)
    forward = torch.compile(model.forward, backend=BACKEND)
    with torch.no_grad():
        forward(ids)
        model.forward = forward
        try:
            steer = attach(model, neurons)
        except HookError:
            return  # noticed at attach, which is even better
        with steer:
            steer.to("fr")
            with pytest.raises(HookError, match="ran unsteered"):
                model(ids)
