"""In a process that cannot import neuronsteer, every export gives what the hooks give."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from neuronsteer.errors import ParameterError
from neuronsteer.exports import bake
from neuronsteer.neuron_set import NeuronSet
from tests.exports.export_checks import OPERATIONS, ExportChecks
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


def check(checks: ExportChecks) -> None:
    """Fail with everything that differs, and with anything that made the comparison void."""
    outcomes = checks.run()
    assert checks.report["neuronsteer"] is False, "neuronsteer could be imported"
    assert checks.report["modules"] == []
    wrong = {
        name: outcome
        for name, outcome in outcomes.items()
        if isinstance(outcome, str) or outcome.delta > TOLERANCE or not outcome.same_tokens
    }
    assert not wrong
    idle = [name for name, outcome in outcomes.items() if outcome.effect < 0.05]
    assert not idle, "nothing was changed, so equality shows nothing"


def test_every_family_equals_the_hooks(tmp_path):
    checks, refused = ExportChecks(tmp_path), set()
    for family in ALL_FAMILIES:
        base = checks.base(tiny_model(family), family)
        checks.add(base, "baked", f"{family}-zero-baked", operation="zero")
        if family not in MOE:
            checks.add(base, "ia3", f"{family}-scale-ia3", operation=OPERATIONS["scale"])
            checks.add(base, "lora", f"{family}-set-lora", operation=OPERATIONS["set"])
        try:
            checks.add(base, "baked", f"{family}-set-baked", operation=OPERATIONS["set"])
        except ParameterError:
            refused.add(family)
    assert refused == NO_BIAS
    check(checks)


def test_every_route_equals_the_hooks(tmp_path):
    # One process for all of them: starting it costs more than most of what it does.
    checks = ExportChecks(tmp_path)
    add_operations(checks)
    add_checkpoints(checks)
    add_models_in_memory(checks)
    add_control_vectors(checks)
    check(checks)


def add_operations(checks: ExportChecks) -> None:
    for family in ("llama", "gpt2"):
        base = checks.base(tiny_model(family), family)
        for name, operation in OPERATIONS.items():
            if "add at" in name or (family == "gpt2" and "act" in name):
                continue
            checks.add(base, "lora", f"{family}-{name}-lora", operation=operation)
            checks.add(base, "baked", f"{family}-{name}-baked", operation=operation)
        for operation in ("zero", "scale"):
            checks.add(base, "lora-nobias", f"{family}-{operation}-plain", operation=operation)
            checks.add(
                base,
                "ia3",
                f"{family}-{operation}-merged",
                operation=operation,
                job={"merge": True},
            )
    # GPT-2 has the bias that a merged LoRA needs.
    checks.add(base, "lora", "gpt2-merged", operation="set", job={"merge": True})
    # SiLU never goes below -0.28, yet a gate can be pinned at -5: output weights make up for it.
    base = checks.base(tiny_model("llama"), "pinned")
    pinned = {"name": "set", "value": -5.0, "site": "mlp.act"}
    checks.add(base, "baked", "pinned", operation=pinned)
    with pytest.raises(ParameterError, match="full strength"):
        checks.add(base, "baked", "half pinned", operation=pinned, strength=0.5)
    for family in GATED[3:6]:
        base = checks.base(tiny_model(family), family)
        checks.add(base, "lora", f"{family}-act", operation=OPERATIONS["set at mlp.act"])
    for family in ("gpt_oss", "qwen2_moe"):
        base = checks.base(tiny_model(family), family)
        checks.add(base, "baked", f"{family}-scale", operation=OPERATIONS["scale"])
        if family == "gpt_oss":
            checks.add(base, "baked", "gpt_oss-add", operation=OPERATIONS["add"])
    model = tiny_model("qwen2_moe")
    base = checks.base(model, "shared", shared_expert_only(model))
    checks.add(base, "ia3", "shared-ia3", operation="zero")
    checks.add(base, "lora", "shared-lora", operation="set")


def add_checkpoints(checks: ExportChecks) -> None:
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
        base = checks.base(tiny_model(family, **config), f"{family}-flag")
        path = checks.add(base, "baked", f"{family}-set", operation="set")
        if family in ("llama", "mistral", "qwen2"):
            for format in ("baked", "lora"):
                checks.add(
                    base, format, f"{family}-act-{format}", operation=OPERATIONS["set at mlp.act"]
                )
        if family in ("mistral", "qwen2"):
            found = json.loads((path / "config.json").read_text())
            assert (found["model_type"], found["mlp_bias"]) == ("llama", True)
            assert found["architectures"] == ["LlamaForCausalLM"]
    model = tiny_model("llama", tie_word_embeddings=True)
    base = checks.base(model, "tied")
    checks.add(base, "baked", "tied-set", operation="set")
    checks.add(base, "lora", "tied-lora", operation="set")
    base = checks.base(tiny_model("llama", layers=3), "sharded", max_shard_size="20KB")
    path = checks.add(base, "baked", "sharded", operation="set")
    assert len(list(path.glob("model-*.safetensors"))) > 3
    checks.add(base, "lora", "sharded-lora", operation="set")
    # As gpt2 itself is published: without the prefix 'transformer.'.
    model = tiny_model("gpt2", tie_word_embeddings=True)
    base = checks.base(model, "prefix")
    model.transformer.save_pretrained(base.folder)
    checks.add(base, "baked", "prefix-baked", operation="set")
    checks.add(base, "lora", "prefix-lora", operation="set")
    tiny_model("llama", dtype=torch.bfloat16).save_pretrained(checks.root / "half")
    # Loaded, because .to(bfloat16) also rounds the rotary frequencies, which loading does not.
    model = AutoModelForCausalLM.from_pretrained(checks.root / "half").eval()
    base = checks.base(model, "bf16")
    checks.add(base, "ia3", "bf16-ia3", operation="zero")
    checks.add(base, "baked", "bf16-baked", operation="zero")


def add_models_in_memory(checks: ExportChecks) -> None:
    base = checks.base(tiny_model("llama"), "memory")
    for format in ("lora", "baked"):
        checks.add(base, format, f"memory-{format}", operation="set", model=base.model)
        checks.add(
            base, format, f"weak-{format}", operation="set", strength=0.5, away_from=["en", "ja"]
        )
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    offloaded = AutoModelForCausalLM.from_pretrained(
        base.folder, device_map=places, offload_folder=checks.root / "offload"
    )
    for format in ("lora", "baked", "ia3"):
        operation = "zero" if format == "ia3" else "set"
        checks.add(base, format, f"offloaded-{format}", operation=operation, model=offloaded)
    assert offloaded.model.layers[1].mlp.down_proj.weight.is_meta
    checks.add(base, "ia3", "only-away", operation=None, label=None, away_from="en")


def add_control_vectors(checks: ExportChecks) -> None:
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
        base = checks.base(model, f"vector-{family}", later)
        checks.add(base, "gguf", f"vector-{family}-add", operation="add")
        # The whole of 'set': its factors in a checkpoint, its constants in a control vector.
        baked = bake(base.folder, later, checks.root / f"{family}-half", "fr", "set", part="scale")
        checks.add(
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
