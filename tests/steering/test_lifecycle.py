"""Hooks come and go completely, never act silently, and never act on somebody else's run."""

from __future__ import annotations

import copy
import gc
import threading
import types
import weakref

import pytest
import torch
from torch import nn

from neuronsteer.errors import HookError, LayoutError, MismatchError, ScheduleError
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.steering.schedule import Schedule
from neuronsteer.steering.steerer import Steerer, attach
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) + len(
        {"generate", "prepare_inputs_for_generation", "generate_batch"} & set(model.__dict__)
    )


def test_nothing_is_left_after_an_exception_in_the_middle():
    model, ids = tiny_model("llama"), tiny_ids(1)
    plain = greedy(model, ids)

    class Crash:
        def put(self, _value):
            raise RuntimeError("boom")

        def end(self):
            pass

    with pytest.raises(RuntimeError, match="boom"), attach(model, toy_set(model)) as steer:
        steer.to("fr")
        greedy(model, ids, streamer=Crash())
    assert hooks_of(model) == 0
    assert torch.equal(greedy(model, ids), plain)


def test_an_exception_inside_a_forward_does_not_leave_its_plan_behind():
    model, ids = tiny_model("llama"), tiny_ids(1)
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        steer.to("fr")
        want = model(ids).logits
        handle = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(ids)
        with pytest.raises(ZeroDivisionError):
            greedy(model, ids)
        handle.remove()
        steer.off()
        hidden = model.model(ids).last_hidden_state  # without the causal LM
        steer.to("fr")
        assert not torch.equal(model.model(ids).last_hidden_state, hidden)
        assert torch.equal(model(ids).logits, want)


def test_attach_that_fails_half_way_leaves_no_hook(monkeypatch):
    model = tiny_model("llama", layers=3)
    last = model.model.layers[2].mlp.down_proj

    def refuse(*_args, **_kwargs):
        raise RuntimeError("no hooks here")

    monkeypatch.setattr(last, "register_forward_pre_hook", refuse)
    with pytest.raises(RuntimeError, match="no hooks here"):
        attach(model, toy_set(model))
    assert hooks_of(model) == 0


@pytest.mark.parametrize("order", ["nested", "crossed"])
def test_nested_steerers_detach_in_any_order(order):
    model, ids = tiny_model("llama"), tiny_ids(1)
    plain = greedy(model, ids)
    one, two = attach(model, toy_set(model, seed=1)), attach(model, toy_set(model, seed=2))
    one.to("en")
    alone = greedy(model, ids)
    two.to("fr")
    both = greedy(model, ids)
    assert not torch.equal(both, alone)
    first, second = (two, one) if order == "nested" else (one, two)
    first.detach()
    left = greedy(model, ids)
    assert torch.equal(left, alone) == (order == "nested")
    second.detach()
    second.detach()
    assert torch.equal(greedy(model, ids), plain)
    assert hooks_of(model) == 0
    with pytest.raises(HookError, match="detached"):
        one.to("fr")


def test_two_models_in_one_process_do_not_meet():
    model, other, ids = tiny_model("llama"), tiny_model("llama", seed=5), tiny_ids(1)
    plain = greedy(other, ids)
    with attach(model, toy_set(model)) as steer:
        steer.to("fr")
        assert torch.equal(greedy(other, ids), plain)
        assert hooks_of(other) == 0


def test_a_model_is_freed_after_detach():
    model = copy.deepcopy(tiny_model("llama"))
    with attach(model, toy_set(model)) as steer:
        steer.to("fr")
        greedy(model, tiny_ids(1))
    gone = weakref.ref(model)
    del model, steer
    gc.collect()
    assert gone() is None, [type(r) for r in gc.get_referrers(gone())]


def test_private_steerers_in_parallel_threads_equal_single_runs():
    model, ids = tiny_model("llama"), tiny_ids(1)
    neurons = toy_set(model)
    targets = ["en", "fr", "ja", None, Schedule("en", (5, "ja"))] * 2

    def run(target, out, i):
        with attach(model, neurons, private=True) as steer:
            steer.to(target)
            out[i] = steer.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
            )

    alone, together = {}, {}
    for i, target in enumerate(targets):
        run(target, alone, i)
    threads = [
        threading.Thread(target=run, args=(target, together, i)) for i, target in enumerate(targets)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(alone[i], together[i]) for i in alone)
    assert hooks_of(model) == 0


def test_report_counts_what_was_steered():
    model, ids = tiny_model("llama"), tiny_ids(3)
    with attach(model, toy_set(model)) as steer:
        steer.to("fr")
        greedy(model, ids, new=5)
        report = steer.report()
        positions = 3 * (ids.shape[1] + 4)  # the last token is never fed back
        assert report["generations"] == 1
        assert [(e["calls"], e["positions"]) for e in report["layers"]] == [(5, positions)] * 2
        assert report["layers"][1]["module"] == "model.layers.1.mlp.down_proj"
        steer.to(Schedule(None, (2, "en")))
        greedy(model, ids, new=5)
        after = [e["positions"] - positions for e in steer.report()["layers"]]
        assert after == [3 * 3] * 2


def whole_mlp_kernel(self, x):
    gate = nn.functional.linear(x, self.gate_proj.weight)
    up = nn.functional.linear(x, self.up_proj.weight)
    return nn.functional.linear(nn.functional.silu(gate) * up, self.down_proj.weight)


def test_kernels_that_bypass_the_hooks_are_refused_at_attach():
    model = copy.deepcopy(tiny_model("llama"))
    neurons = toy_set(model)
    mlp = model.model.layers[1].mlp
    mlp.forward = types.MethodType(whole_mlp_kernel, mlp)
    with pytest.raises(HookError, match=r"1 of 2 hooks do not fire.*layers\.1\.mlp\.down_proj"):
        attach(model, neurons)
    assert hooks_of(model) == 0


def test_kernels_swapped_in_later_raise_instead_of_running_unsteered():
    model, ids = copy.deepcopy(tiny_model("llama")), tiny_ids(1)
    with attach(model, toy_set(model)) as steer:
        steer.to("fr")
        for layer in model.model.layers:
            layer.mlp.forward = types.MethodType(whole_mlp_kernel, layer.mlp)
        with pytest.raises(HookError, match="ran unsteered"):
            model(ids)
        with pytest.raises(HookError, match="ran unsteered"):
            greedy(model, ids)


def test_schedules_where_tokens_are_not_counted_are_refused():
    model, ids = tiny_model("llama"), tiny_ids(1)
    cache = model(ids, use_cache=True).past_key_values
    with attach(model, toy_set(model)) as steer:
        steer.to(Schedule("en", (4, "fr")))
        with pytest.raises(HookError, match="decoder was called directly"):
            model.model(ids)
        with pytest.raises(ScheduleError, match="needs a tokenizer"):
            steer.to("en,sentence:fr")
        with pytest.raises(ScheduleError, match="prompt_length"):
            model(ids[:, :1], past_key_values=cache)


def test_continuous_batching_takes_one_label_only():
    model, ids = tiny_model("llama"), tiny_ids(2)
    with attach(model, toy_set(model)) as steer:
        steer.to(["fr", "ja"])
        with pytest.raises(ScheduleError, match="packs all requests"):
            model.generate_batch(ids.tolist(), max_new_tokens=2)


def test_sets_of_other_models_are_refused():
    model = tiny_model("llama")
    neurons = toy_set(model)
    with pytest.raises(MismatchError, match="num_layers"):
        attach(tiny_model("llama", layers=3), neurons)
    with pytest.raises(MismatchError, match="model_type"):
        attach(tiny_model("qwen2"), neurons)
    with pytest.raises(LayoutError, match="not a transformers model"):
        attach(nn.Linear(3, 3), neurons)


def test_from_pretrained_and_attach_by_path(tmp_path):
    model, ids = tiny_model("llama"), tiny_ids(1)
    neurons = toy_set(model)
    neurons.save_pretrained(tmp_path / "set")
    with attach(model, neurons) as steer:
        steer.to("fr")
        want = greedy(model, ids)
    with Steerer.from_pretrained(model, str(tmp_path / "set")) as steer:
        steer.to("fr")
        assert torch.equal(greedy(model, ids), want)
    with attach(model, [tmp_path / "set"]) as steer:
        assert "fr" in repr(steer) and "attached" in repr(steer)
    assert NeuronSet.from_pretrained(str(tmp_path / "set")) == neurons


def test_peft_wrapped_models_are_steered():
    peft = pytest.importorskip("peft")
    model, ids = copy.deepcopy(tiny_model("llama")), tiny_ids(2)
    neurons = toy_set(model)
    with attach(model, neurons) as steer:
        steer.to("fr")
        want = greedy(model, ids)
    config = peft.LoraConfig(target_modules=["down_proj", "q_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model, config)  # B starts at zero: the same function
    with attach(wrapped, neurons) as steer:
        steer.to("fr")
        mask = torch.ones_like(ids)
        got = wrapped.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12)
        assert torch.equal(got[:, ids.shape[1] :], want)
    assert hooks_of(model) == 0


def test_offloaded_models_are_steered_where_their_activations_are(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    model, ids = tiny_model("llama"), tiny_ids(2)
    neurons = toy_set(model)
    with attach(model, neurons) as steer:
        steer.to(Schedule("en", (3, "fr")))
        want = greedy(model, ids)
    model.save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "lm_head": "cpu"}
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "off"
    )
    with attach(offloaded, neurons) as steer:
        steer.to(Schedule("en", (3, "fr")))
        assert torch.equal(greedy(offloaded, ids), want)


class PackedLinear(nn.Module):
    """A quantised linear as bitsandbytes makes them: sizes are known, `weight` is not usable."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)

    @property
    def weight(self):
        raise AssertionError("nothing may read the weight of a quantised layer")

    def forward(self, x):
        return nn.functional.linear(x, self.packed)


def test_quantised_linears_are_steered_without_reading_weights():
    model, ids = copy.deepcopy(tiny_model("llama")), tiny_ids(2)
    neurons = toy_set(model)
    with attach(model, neurons) as steer:
        steer.to("fr")
        want = greedy(model, ids)
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, PackedLinear(getattr(layer.mlp, name)))
    with attach(model, neurons) as steer:
        steer.to("fr")
        assert torch.equal(greedy(model, ids), want)
