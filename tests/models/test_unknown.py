"""Families without a row: what the shape rule finds, what it refuses, and what `diagnose` says."""

import json
import types

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, silu
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from neuronsteer.errors import LayoutError, ParameterError
from neuronsteer.models import LAYOUTS, Bias, Layout, diagnose, inspect, probe
from tests.models.watching import watching
from tests.tiny_models import ALL_FAMILIES, DENSE, MOE, WIDTH, tiny_ids, tiny_model

LLAMA = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": 320,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": WIDTH,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Families of transformers that the table does not have: (config, gated, width)
UNKNOWN = {
    "gpt_bigcode": (GPT2, False, WIDTH),
    "codegen": ({**GPT2, "rotary_dim": 4}, False, WIDTH),
    "openai-gpt": (GPT2, False, 128),
    "persimmon": (LLAMA, False, WIDTH),
    "biogpt": (LLAMA, False, WIDTH),
    "glm": ({**LLAMA, "head_dim": 8}, True, WIDTH),
    "cwm": (LLAMA, True, WIDTH),
    "diffllama": (LLAMA, True, WIDTH),
    "gpt_neox_japanese": ({**LLAMA, "intermediate_multiple_size": 3}, False, 96),
}


def build(model_type, config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


def as_unknown(model):
    model.config.model_type = "never_heard_of"
    return model


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_real_families_without_a_row(model_type):
    config, gated, width = UNKNOWN[model_type]
    anatomy = inspect(build(model_type, config))
    assert model_type not in LAYOUTS
    assert anatomy.source == "shape rule"
    assert anatomy.gated == gated
    assert anatomy.widths == (width, width)
    assert anatomy.sites() == ["mlp.act", "mlp.neuron", "mlp.out", "resid"]
    assert all(result.fired for result in probe(anatomy.root, anatomy))
    neuron, gate, up = (
        anatomy.hook_points("mlp.neuron")[1],
        anatomy.hook_points("mlp.act")[1],
        anatomy.up_hook_points(),
    )
    with watching([neuron, gate, *up]) as seen, torch.no_grad():
        anatomy.root(tiny_ids())
    g = anatomy.activation(seen[gate], 1)
    want = g * seen[up[1]] if up else g
    torch.testing.assert_close(seen[neuron], want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model_type", [name for name in DENSE if name != "lfm2"])
def test_the_rule_finds_what_the_table_says(model_type):
    model = tiny_model(model_type)
    row = LAYOUTS.get(model_type)
    found = inspect(as_unknown(model)).layout
    for field in ("layers", "down", "gate", "up", "act", "flattened"):
        assert getattr(found, field) == getattr(row, field), field
    bias = inspect(model).hook_points("mlp.neuron")[0].module.bias
    assert found.bias.present(model.config) == (bias is not None)


def test_the_gate_is_not_guessed():
    """Nothing names lfm2's activation, so which of w1 and w3 is the gate stays open."""
    anatomy = inspect(as_unknown(tiny_model("lfm2")))
    assert anatomy.sites() == ["mlp.neuron", "mlp.out", "resid"]
    with pytest.raises(LayoutError, match=r"mlp\.act.*Register a Layout"):
        anatomy.hook_points("mlp.act")
    report = diagnose(anatomy.root)
    assert report["steerable"]
    assert any("mlp.act" in problem for problem in report["problems"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_rule_in_half_precision(dtype):
    anatomy = inspect(as_unknown(tiny_model("phi3", dtype=dtype)))
    assert anatomy.layout.gate == LAYOUTS.get("phi3").gate


@pytest.mark.parametrize("model_type", MOE)
def test_unknown_mixtures_of_experts_are_refused(model_type):
    with pytest.raises(LayoutError, match="mixture of experts"):
        inspect(as_unknown(tiny_model(model_type)))


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba"])
def test_state_space_models_are_refused(model_type):
    model = build(
        model_type,
        {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    )
    with pytest.raises(LayoutError, match=r"not a plain MLP.*conv1d"):
        inspect(model)
    report = diagnose(model)
    assert not report["steerable"]
    assert model_type in report["problems"][0]


def test_two_candidates_are_refused_with_their_names():
    model = as_unknown(tiny_model("llama"))
    for layer in model.model.layers:
        layer.other = nn.Linear(WIDTH, 32)
    with pytest.raises(LayoutError, match=r"several.*mlp\.down_proj, other"):
        inspect(model)


def test_no_mlp_is_refused():
    model = as_unknown(tiny_model("llama"))
    for layer in model.model.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(LayoutError, match="no linear layer"):
        inspect(model)


def test_encoder_decoder_is_refused():
    config = AutoConfig.for_model(
        "t5", vocab_size=320, d_model=32, d_ff=64, num_layers=1, num_heads=4, d_kv=8
    )
    model = AutoModelForSeq2SeqLM.from_config(config)
    with pytest.raises(LayoutError, match="encoder-decoder"):
        inspect(model)
    assert diagnose(model)["problems"]


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), "gpt2", None])
def test_other_things_are_refused(thing):
    with pytest.raises(LayoutError, match="AutoModelForCausalLM"):
        inspect(thing)
    assert not diagnose(thing)["steerable"]


def test_custom_code_under_a_known_name_falls_back_to_the_rule():
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.ffn = layer.mlp
        del layer.mlp
        layer.forward = types.MethodType(_renamed_forward, layer)
    anatomy = inspect(model)
    assert anatomy.source == "shape rule"
    assert anatomy.layout.down == "ffn.down_proj"
    assert anatomy.gated


def _renamed_forward(self, hidden_states, **kwargs):
    hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
    return hidden_states + self.ffn(self.post_attention_layernorm(hidden_states))


def test_a_family_is_added_by_registering_one_row(monkeypatch):
    monkeypatch.setattr(LAYOUTS, "_items", dict(LAYOUTS.items()))
    row = Layout("never_heard_of", bias=Bias("config", "mlp_bias", True))
    LAYOUTS.register("never_heard_of")(row)
    anatomy = inspect(as_unknown(tiny_model("llama")))
    assert anatomy.source == "table"
    assert anatomy.layout is row
    assert len(anatomy.sites()) == 8


def test_a_wrong_width_is_refused():
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.gate_proj = nn.Linear(32, WIDTH + 1)
    with pytest.raises(LayoutError, match=r"mlp\.gate_proj.*81 outputs, expected 80"):
        inspect(model)


def test_sites():
    anatomy = inspect(tiny_model("llama"))
    with pytest.raises(ParameterError, match=r"mlp\.nueron.*Did you mean 'mlp\.neuron'"):
        anatomy.hook_points("mlp.nueron")
    unknown = inspect(as_unknown(tiny_model("llama")))
    with pytest.raises(LayoutError, match=r"attn\.q"):
        unknown.hook_points("attn.q")


# What fused kernels do, see integration.md on Liger.
def _reads_weights_only(self, x):
    gate, up = linear(x, self.gate_proj.weight), linear(x, self.up_proj.weight)
    return linear(silu(gate) * up, self.down_proj.weight)


def _skips_the_activation(self, x):
    return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


def patched(forward):
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.forward = types.MethodType(forward, layer.mlp)
    return model


def test_dead_hooks_are_a_problem():
    model = patched(_reads_weights_only)
    results = {(r.site, r.layer): r for r in probe(model)}
    assert not results["mlp.neuron", 0].fired
    assert results["mlp.neuron", 0].calls == 0
    assert results["attn.q", 0].fired
    report = diagnose(model)
    assert not report["steerable"]
    assert not report["sites"]["mlp.neuron"]["fired"]
    text = " ".join(report["problems"])
    assert "model.layers.0.mlp.down_proj" in text
    assert "never fired in 2 of 2 layers" in text


def test_bloom_can_bypass_its_down_projection():
    report = diagnose(tiny_model("bloom", pretraining_tp=2, slow_but_exact=True))
    assert not report["steerable"]
    assert "dense_4h_to_h" in report["problems"][0]


def test_reprs_are_one_line():
    anatomy = inspect(tiny_model("mixtral"))
    assert "\n" not in repr(anatomy)
    assert "\n" not in repr(anatomy.hook_points("mlp.neuron")[0])


def test_one_dead_layer_is_enough():
    model = tiny_model("llama", layers=3)
    mlp = model.model.layers[2].mlp
    mlp.forward = types.MethodType(_reads_weights_only, mlp)
    report = diagnose(model)
    assert not report["steerable"]
    assert "1 of 3 layers" in report["problems"][0]


def test_kernels_that_skip_only_the_activation_module_are_fine():
    report = diagnose(patched(_skips_the_activation))
    assert report["steerable"]
    assert report["problems"] == []


def test_a_replaced_block_of_experts_is_a_problem():
    model = tiny_model("mixtral")

    class MegaBlocks(nn.Module):
        num_experts = 4

        def forward(self, hidden_states, top_k_index, top_k_weights):
            return hidden_states

    for layer in model.model.layers:
        layer.mlp.experts = MegaBlocks()
    report = diagnose(model)
    assert not report["steerable"]
    assert any("MegaBlocks" in problem for problem in report["problems"])


def test_a_broken_model_is_a_problem_not_a_crash():
    model = tiny_model("llama")

    def broken(self, x):
        raise ValueError("kaputt")

    mlp = model.model.layers[1].mlp
    mlp.forward = types.MethodType(broken, mlp)
    report = diagnose(model)
    assert not report["steerable"]
    assert "kaputt" in report["problems"][0]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("model_type", ALL_FAMILIES)
def test_every_family_is_healthy_and_the_report_is_json(model_type):
    report = diagnose(tiny_model(model_type))
    assert json.loads(json.dumps(report)) == report
    assert report["steerable"]
    assert report["source"] == "table"
    assert report["problems"] == []
    assert set(report["sites"]) == set(inspect(tiny_model(model_type)).sites())
