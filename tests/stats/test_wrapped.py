"""Models that are not plain: adapters, offloaded layers, compiled modules."""

import accelerate
import peft
import pytest
import torch

import neuronsteer.stats as st
from tests.tiny_models import tiny_model, tiny_tokenizer

from .material import corpus, hooks


def counts(model, **options):
    stats = st.collect(model, tiny_tokenizer(), corpus("a", count=6), progress=False, **options)
    return stats.get("count", "mlp.act")


def test_peft_models_are_read_with_their_adapter():
    plain = counts(tiny_model("llama"))
    config = peft.LoraConfig(target_modules=["gate_proj", "down_proj"], init_lora_weights=True)
    model = peft.get_peft_model(tiny_model("llama"), config)
    assert torch.equal(counts(model), plain)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.equal(counts(model), plain)
    assert hooks(model) == 0


@pytest.mark.parametrize("offload", ["cpu_offload", "disk_offload"])
def test_offloaded_models(tmp_path, offload):
    plain = counts(tiny_model("llama"))
    model = tiny_model("llama")
    if offload == "cpu_offload":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert torch.equal(counts(model), plain)
    assert torch.equal(counts(model, checkpoint=tmp_path / "c"), plain)


def test_a_device_can_be_given():
    assert torch.equal(counts(tiny_model("llama"), device="cpu"), counts(tiny_model("llama")))


def test_models_saved_and_loaded_again_are_named(tmp_path):
    from transformers import AutoModelForCausalLM

    tiny_model("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    stats = st.collect(model, tiny_tokenizer(), corpus("a", count=2), progress=False)
    # Not by its path: statistics and sets are shared.
    assert stats.base_model == f"./{tmp_path.name}"
