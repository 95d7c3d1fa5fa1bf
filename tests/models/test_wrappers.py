"""Wrapped, quantised, offloaded, compiled and multimodal models."""

import peft
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    LlavaConfig,
    SiglipVisionConfig,
)

from neuronsteer.models import diagnose, inspect, probe
from tests.models.watching import changing
from tests.tiny_models import HIDDEN, WIDTH, tiny_config, tiny_ids, tiny_model


def fired(anatomy):
    return all(result.fired for result in probe(anatomy.root, anatomy))


def lora(model, *targets):
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=list(targets), init_lora_weights=False
    )
    return peft.get_peft_model(model, config).eval()


@pytest.mark.parametrize(
    ("model_type", "targets"),
    [
        ("llama", ("down_proj", "gate_proj", "q_proj")),
        ("gpt2", ("c_proj", "c_fc", "c_attn")),
        ("opt", ("fc1", "fc2")),
        ("phi3", ("gate_up_proj", "down_proj", "qkv_proj")),
    ],
)
@torch.no_grad()
def test_lora_sees_the_steered_input(model_type, targets):
    base = tiny_model(model_type)
    wrapped = lora(base, *targets)
    anatomy = inspect(wrapped)
    assert anatomy.root is base
    assert anatomy.wrapped == ("peft",)
    assert fired(anatomy)
    point = anatomy.hook_points("mlp.neuron")[1]
    assert isinstance(point.module, peft.tuners.lora.LoraLayer)
    assert point.width == WIDTH
    scale = torch.ones(WIDTH)
    scale[[0, 7]] = 0
    with changing(point, scale):
        hooked = wrapped(tiny_ids()).logits
    # Zeroing the columns of the base weight and of the adapter's A is the same only if both were
    # given the steered input.
    weight, a = point.module.base_layer.weight, point.module.lora_A["default"].weight
    a[:, [0, 7]] = 0
    (weight if model_type == "gpt2" else weight.T)[[0, 7]] = 0
    torch.testing.assert_close(wrapped(tiny_ids()).logits, hooked, atol=1e-5, rtol=1e-4)


def test_lora_added_by_transformers():
    model = tiny_model("llama")
    model.add_adapter(peft.LoraConfig(target_modules=["down_proj"]))
    anatomy = inspect(model)
    assert isinstance(anatomy.hook_points("mlp.neuron")[0].module, peft.tuners.lora.LoraLayer)
    assert fired(anatomy)


def test_adapter_on_an_unknown_family():
    """The shape rule must not mistake the adapter's own linears for the model's."""
    anatomy = inspect(lora(as_unknown(tiny_model("llama")), "down_proj", "up_proj"))
    assert anatomy.source == "shape rule"
    assert anatomy.layout.down == "mlp.down_proj"
    assert anatomy.gated


def as_unknown(model):
    model.config.model_type = "never_heard_of"
    return model


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe"])
def test_lora_around_experts_is_unwrapped(model_type):
    model = tiny_model(model_type)
    inside = inspect(model).hook_points("mlp.neuron")[0].module
    config = peft.LoraConfig(r=2, target_modules=[], target_parameters=["experts.down_proj"])
    anatomy = inspect(peft.get_peft_model(model, config).eval())
    assert anatomy.hook_points("mlp.neuron")[0].module is inside


def test_prompt_tuning_is_unwrapped():
    model = tiny_model("llama")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert inspect(peft.get_peft_model(model, config)).root is model


def test_compiled_models_are_found_and_reported():
    model = tiny_model("llama")
    wrapper = torch.compile(model)
    anatomy = inspect(wrapper)
    assert anatomy.root is model
    assert anatomy.compiled
    report = diagnose(wrapper)
    assert not report["steerable"]
    assert "before" in report["problems"][0] or "first" in report["problems"][0]

    in_place = tiny_model("llama")
    assert not inspect(in_place).compiled
    in_place.compile()
    assert inspect(in_place).compiled
    assert fired(inspect(in_place))  # without compiling anything

    one_layer = tiny_model("llama")
    one_layer.model.layers[0] = torch.compile(one_layer.model.layers[0])
    assert inspect(one_layer).compiled


class Quantised(nn.Module):
    """Has the interface of a bitsandbytes-like layer; its weight must not be looked at."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("packed", linear.weight.detach().clone())
        self.bias = linear.bias

    @property
    def weight(self):
        raise RuntimeError("the packed weight was read as if it were a matrix")

    def forward(self, x):
        return nn.functional.linear(x, self.packed, self.bias)


def quantise(module):
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Quantised(child))
        else:
            quantise(child)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "bloom", "opt", "falcon", "qwen2_moe"])
@pytest.mark.parametrize("known", [True, False])
def test_quantised_linears(model_type, known):
    model = tiny_model(model_type)
    plain = inspect(model)
    for layer in plain.layers:
        quantise(layer)
    if not known:
        if plain.is_moe:
            pytest.skip("the shape rule is for dense families")
        as_unknown(model)
    anatomy = inspect(model)
    assert anatomy.widths == plain.widths
    assert anatomy.gated == plain.gated
    assert fired(anatomy)
    assert diagnose(model)["steerable"]


class Silent(nn.Module):
    """A linear layer without size attributes."""

    def __init__(self, linear):
        super().__init__()
        self.inner = linear.weight

    def forward(self, x):
        return nn.functional.linear(x, self.inner)


def test_width_falls_back_to_the_config():
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj = Silent(layer.mlp.down_proj)
    anatomy = inspect(model)
    assert anatomy.source == "table"
    assert anatomy.widths == (WIDTH, WIDTH)


@pytest.mark.parametrize("offload", ["cpu", "disk"])
@pytest.mark.parametrize("known", [True, False])
def test_offloaded_models(offload, known, tmp_path):
    model = tiny_model("llama")
    plain = model(tiny_ids()).logits
    if offload == "cpu":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    if not known:
        as_unknown(model)
    anatomy = inspect(model)
    assert anatomy.gated
    assert anatomy.widths == (WIDTH, WIDTH)
    assert fired(anatomy)
    assert torch.equal(model(tiny_ids()).logits, plain)


def multimodal(kind):
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    if kind == "llava":
        config = LlavaConfig(text_config=tiny_config("llama"), vision_config=vision)
    else:
        config = Gemma3Config(text_config=tiny_config("gemma3_text"), vision_config=vision)
    return AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize("kind", ["llava", "gemma3"])
def test_multimodal_models_are_read_through_their_language_model(kind):
    model = multimodal(kind)
    anatomy = inspect(model)
    assert anatomy.model_type == {"llava": "llama", "gemma3": "gemma3_text"}[kind]
    assert anatomy.source == "table"
    assert anatomy.hidden_size == HIDDEN
    assert anatomy.widths == (WIDTH, WIDTH)
    assert model.get_submodule(anatomy.hook_points("mlp.neuron")[0].name) is not None
    assert fired(anatomy)
    assert diagnose(model)["steerable"]


def test_a_model_without_head_can_be_read_but_not_steered():
    report = diagnose(tiny_model("llama").model)
    assert report["sites"]["mlp.neuron"]["fired"]
    assert not report["steerable"]
    assert any("head" in problem for problem in report["problems"])
