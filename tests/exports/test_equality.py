"""In a process that cannot import neuronsteer, every export gives what the hooks give."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from neuronsteer.errors import ParameterError
from neuronsteer.exports import bake
from neuronsteer.neuron_set import NeuronSet
from tests.exports.workshop import OPERATIONS, Workshop
from tests.steering.sets import toy_set
from tests.tiny_models import ALL_FAMILIES, GATED, MOE, tiny_model

# Logits of the tiny models are about 1 to 10, and what the operations change is about 1 to 4.
TOLERANCE = 1e-4

# Families whose checkpoints have no place for the constant of `set` and `add`.
NO_BIAS = {
    "mistral",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "glm4",
    "olmo",
    "olmo2",
    "olmo3",
    "cohere",
    "cohere2",
    "exaone4",
    "stablelm",
    "hunyuan_v1_dense",
    "lfm2",
    "apertus",
    "mpt",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
}


def judge(shop: Workshop) -> None:
    """Fail with everything that differs, and with anything that made the comparison void."""
    outcomes = shop.run()
    assert shop.report["neuronsteer"] is False, "neuronsteer could be imported"
    assert shop.report["modules"] == []
    wrong = {
        name: outcome
        for name, outcome in outcomes.items()
        if isinstance(outcome, str) or outcome.delta > TOLERANCE or not outcome.same_tokens
    }
    assert not wrong
    idle = [name for name, outcome in outcomes.items() if outcome.effect < 0.05]
    assert not idle, "nothing was changed, so equality shows nothing"


def test_every_family_equals_the_hooks(tmp_path):
    shop, refused = Workshop(tmp_path), set()
    for family in ALL_FAMILIES:
        base = shop.base(tiny_model(family), family)
        shop.add(base, "baked", f"{family}-zero-baked", operation="zero")
        if family not in MOE:
            shop.add(base, "ia3", f"{family}-scale-ia3", operation=OPERATIONS["scale"])
            shop.add(base, "lora", f"{family}-set-lora", operation=OPERATIONS["set"])
        try:
            shop.add(base, "baked", f"{family}-set-baked", operation=OPERATIONS["set"])
        except ParameterError:
            refused.add(family)
    assert refused == NO_BIAS
    judge(shop)


def test_every_route_equals_the_hooks(tmp_path):
    # One process for all of them: starting it costs more than most of what it does.
    shop = Workshop(tmp_path)
    add_operations(shop)
    add_checkpoints(shop)
    add_models_in_memory(shop)
    add_control_vectors(shop)
    judge(shop)


def add_operations(shop: Workshop) -> None:
    for family in ("llama", "gpt2"):
        base = shop.base(tiny_model(family), family)
        for name, operation in OPERATIONS.items():
            if "add at" in name or (family == "gpt2" and "act" in name):
                continue
            shop.add(base, "lora", f"{family}-{name}-lora", operation=operation)
            shop.add(base, "baked", f"{family}-{name}-baked", operation=operation)
        for operation in ("zero", "scale"):
            shop.add(base, "lora-nobias", f"{family}-{operation}-plain", operation=operation)
            shop.add(
                base,
                "ia3",
                f"{family}-{operation}-merged",
                operation=operation,
                job={"merge": True},
            )
    # GPT-2 has the bias that a merged LoRA needs.
    shop.add(base, "lora", "gpt2-merged", operation="set", job={"merge": True})
    # SiLU never goes below -0.28, yet a gate can be held at -5: the output weights make up for it.
    base = shop.base(tiny_model("llama"), "held")
    held = {"name": "set", "value": -5.0, "site": "mlp.act"}
    shop.add(base, "baked", "held", operation=held)
    with pytest.raises(ParameterError, match="full strength"):
        shop.add(base, "baked", "half held", operation=held, strength=0.5)
    for family in GATED[3:6]:
        base = shop.base(tiny_model(family), family)
        shop.add(base, "lora", f"{family}-act", operation=OPERATIONS["set at mlp.act"])
    for family in ("gpt_oss", "qwen2_moe"):
        base = shop.base(tiny_model(family), family)
        shop.add(base, "baked", f"{family}-scale", operation=OPERATIONS["scale"])
        if family == "gpt_oss":
            shop.add(base, "baked", "gpt_oss-add", operation=OPERATIONS["add"])
    model = tiny_model("qwen2_moe")
    base = shop.base(model, "shared", shared_expert_only(model))
    shop.add(base, "ia3", "shared-ia3", operation="zero")
    shop.add(base, "lora", "shared-lora", operation="set")


def add_checkpoints(shop: Workshop) -> None:
    flags = {
        "llama": {"mlp_bias": True},
        "starcoder2": {"use_bias": False},
        "opt": {"enable_bias": False},
        "falcon": {"bias": True},
        "mistral": {"sliding_window": None},
        "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "helium": {"tie_word_embeddings": True},
    }
    for family, config in flags.items():
        base = shop.base(tiny_model(family, **config), f"{family}-flag")
        path = shop.add(base, "baked", f"{family}-set", operation="set")
        if family in ("llama", "mistral", "qwen2"):
            for to in ("baked", "lora"):
                shop.add(base, to, f"{family}-act-{to}", operation=OPERATIONS["set at mlp.act"])
        if family in ("mistral", "qwen2"):
            found = json.loads((path / "config.json").read_text())
            assert (found["model_type"], found["mlp_bias"]) == ("llama", True)
            assert found["architectures"] == ["LlamaForCausalLM"]
    model = tiny_model("llama", tie_word_embeddings=True)
    base = shop.base(model, "tied")
    shop.add(base, "baked", "tied-set", operation="set")
    shop.add(base, "lora", "tied-lora", operation="set")
    base = shop.base(tiny_model("llama", layers=3), "sharded", max_shard_size="20KB")
    path = shop.add(base, "baked", "sharded", operation="set")
    assert len(list(path.glob("model-*.safetensors"))) > 3
    shop.add(base, "lora", "sharded-lora", operation="set")
    # As gpt2 itself is published: without the prefix 'transformer.'.
    model = tiny_model("gpt2", tie_word_embeddings=True)
    base = shop.base(model, "prefix")
    model.transformer.save_pretrained(base.folder)
    shop.add(base, "baked", "prefix-baked", operation="set")
    shop.add(base, "lora", "prefix-lora", operation="set")
    tiny_model("llama", dtype=torch.bfloat16).save_pretrained(shop.root / "half")
    # Loaded, because .to(bfloat16) also rounds the rotary frequencies, which loading does not.
    model = AutoModelForCausalLM.from_pretrained(shop.root / "half").eval()
    base = shop.base(model, "bf16")
    shop.add(base, "ia3", "bf16-ia3", operation="zero")
    shop.add(base, "baked", "bf16-baked", operation="zero")


def add_models_in_memory(shop: Workshop) -> None:
    base = shop.base(tiny_model("llama"), "memory")
    for to in ("lora", "baked"):
        shop.add(base, to, f"memory-{to}", operation="set", model=base.model)
        shop.add(base, to, f"weak-{to}", operation="set", strength=0.5, away_from=["en", "ja"])
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    offloaded = AutoModelForCausalLM.from_pretrained(
        base.folder, device_map=places, offload_folder=shop.root / "offload"
    )
    for to in ("lora", "baked", "ia3"):
        operation = "zero" if to == "ia3" else "set"
        shop.add(base, to, f"offloaded-{to}", operation=operation, model=offloaded)
    assert offloaded.model.layers[1].mlp.down_proj.weight.is_meta
    shop.add(base, "ia3", "only-away", operation=None, label=None, away_from="en")


def add_control_vectors(shop: Workshop) -> None:
    families = {
        "llama": {},
        "granite": {"residual_multiplier": 0.22},
        "phi": {},
        "qwen2": {},
        "cohere": {},
    }
    for family, config in families.items():
        model = tiny_model(family, layers=3, **config)
        neurons = toy_set(model)
        later = neurons.take(neurons.layer > 0, neurons.labels)
        base = shop.base(model, f"vector-{family}", later)
        shop.add(base, "gguf", f"vector-{family}-add", operation="add")
        # The whole of 'set': its factors in a checkpoint, its constants in a control vector.
        baked = bake(base.folder, later, shop.root / f"{family}-half", "fr", "set", part="scale")
        shop.add(
            base,
            "gguf",
            f"vector-{family}-set",
            operation="set",
            export_options={"part": "constant"},
            job={"base": str(baked.path)},
        )


def shared_expert_only(model) -> NeuronSet:
    """Return a set whose neurons are all in the shared expert, which is an ordinary MLP."""
    neurons = toy_set(model, per_layer=200)
    routed = model.config.num_experts * model.config.moe_intermediate_size
    found = neurons.take(neurons.index >= routed, neurons.labels)
    assert all(count > 3 for count in found.counts.values())
    return found
