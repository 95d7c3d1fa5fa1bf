"""From a push to another machine's adapter, through the Hub and the unmodified clients."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("peft")

from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from neuronsteer import NeuronSet
from neuronsteer.integrations.peft import as_peft_model
from tests.steering.sets import toy_set
from tests.tiny_models import tiny_model

from .peft_cases import by_hooks, case, fresh, logits

pytest_plugins = ("tests.hub_server.fixtures",)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def test_a_pushed_set_loads_as_an_adapter(hub):
    fresh().push_to_hub("ann/base")
    _, neurons = case(base_model="ann/base")
    want = {label: by_hooks(fresh(), neurons, label) for label in neurons.labels}
    neurons.push_to_hub("ann/set")
    hub.fresh_cache()

    assert NeuronSet.from_pretrained("ann/set") == neurons
    model = PeftModel.from_pretrained(fresh(), "ann/set")
    assert torch.equal(logits(model), want["en"])
    model.load_adapter("ann/set", "lang_ja", subfolder="lang_ja")
    model.set_adapter("lang_ja")
    assert torch.equal(logits(model), want["ja"])
    model = as_peft_model(fresh(), "ann/set", ["fr"])
    assert torch.equal(logits(model), want["fr"])
    for auto in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
        assert torch.equal(logits(auto.from_pretrained("ann/set").eval()), want["en"])
    model = fresh()
    model.load_adapter("ann/set", "lang_fr", adapter_kwargs={"subfolder": "lang_fr"})
    assert torch.equal(logits(model), want["fr"])


def test_what_cannot_be_an_adapter_is_pushed_without(hub):
    toy_set(tiny_model("mixtral")).push_to_hub("ann/experts")
    assert not [name for name in hub.repo("ann/experts").files() if "adapter_model" in name]


def test_pushing_without_adapters(hub):
    _, neurons = case()
    neurons.push_to_hub("ann/set")
    assert "lang_ja/adapter_model.safetensors" in hub.repo("ann/set").files()
    neurons.push_to_hub("ann/set", peft=False)
    assert not [name for name in hub.repo("ann/set").files() if "adapter_model" in name]
