"""Where a checkpoint can store the constants of `set` and `add`: biases, where the family has them.

A family without an MLP bias silently drops one on loading, so a constant goes into a checkpoint
only if its own config can declare the bias, or if another family computes the same and can.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from transformers import LlamaConfig

from ..errors import ParameterError
from ..models import Anatomy
from ..models.layout import text_config
from ._base_model import without_memory
from ._edits import ModelEdit

# Same computation as llama, apart from what `_obstacle` checks: family → has biases on q, k, v.
_LIKE_LLAMA = {"mistral": False, "qwen2": True}
_SAME_IN_LLAMA = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
)


@dataclass(frozen=True)
class BiasConfig:
    """What has to change around the tensors.

    Attributes:
        fields: Config fields of the language model to set.
        config: A whole new config, when the model is converted.
        added: Name → shape of parameters that the model did not have; zero unless written.
        note: What to tell the user, or empty.
    """

    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    config: Any = None
    added: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    note: str = ""


def find_bias_config(edit: ModelEdit) -> BiasConfig:
    """Return how a checkpoint can store what the edit adds.

    Raises:
        ParameterError: If it cannot; the message says why and what can.
    """
    needed = _needed(edit)
    now = edit.base.parameters()
    if needed <= set(now):
        return BiasConfig()
    bias = edit.anatomy.layout.bias
    family = edit.model_type
    if edit.in_experts is not None:
        raise ParameterError(
            f"{edit.in_experts.where}: the experts of model_type {family!r} have no bias, so a "
            "checkpoint cannot store a constant for 'set' or 'add'. 'zero' and 'scale' bake into "
            "experts; the rest is steered with hooks."
        )
    if bias.when == "config":
        config = copy.deepcopy(edit.base.config)
        setattr(text_config(config), str(bias.field), bias.value)
        added = _new_parameters(edit.anatomy, config)
        if added is not None and needed <= set(now) | set(added):
            note = f"config: {bias.field} is now {bias.value}; the other biases it creates are zero"
            return BiasConfig({str(bias.field): bias.value}, None, added, note)
        raise ParameterError(
            f"Config field {bias.field!r} of model_type {family!r} does not give the MLP the "
            f"biases needed here ({sorted(needed - set(now))[0]}, …). {_instead(edit)}"
        )
    return _converted(edit, needed)


def _instead(edit: ModelEdit) -> str:
    text = (
        "'zero' and 'scale' bake into every family; for the rest export format='lora' (a LoRA with "
        "bias, which PEFT loads)"
    )
    constant = edit.anatomy.layout.residual_factor(edit.anatomy.config) is not None
    if constant and not edit.gains:
        text += (
            ", or for llama.cpp bake part='scale' and put part='constant' into a control vector "
            "(format='gguf')"
        )
    return text + "."


def _needed(edit: ModelEdit) -> set[str]:
    needed: set[str] = set()
    for projection in edit.projections:
        if bool(projection.shift.any()):
            suffix = ".bias" if projection.expert is None else ".down_proj_bias"
            needed.add(projection.name + suffix)
        if bool(projection.gain.any()):
            edit.pinned_gate(projection)
            needed.add(edit.gate_rows(projection)[0] + ".bias")
    return needed


def _new_parameters(anatomy: Anatomy, config: Any) -> dict[str, tuple[int, ...]] | None:
    """Return what a model of `config` has beyond this one; `None` if it is not an extension."""
    before = {name: tuple(p.shape) for name, p in anatomy.root.named_parameters()}
    model = without_memory(config)
    after = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if any(after.get(name) != shape for name, shape in before.items()):
        return None
    return {name: shape for name, shape in after.items() if name not in before}


def _converted(edit: ModelEdit, needed: set[str]) -> BiasConfig:
    family = edit.model_type
    config = edit.base.config
    start = f"A {family!r} checkpoint has no MLP bias to store what 'set' or 'add' adds"
    if family not in _LIKE_LLAMA or config is not edit.anatomy.config:
        raise ParameterError(f"{start}. {_instead(edit)}")
    obstacle = _obstacle(config)
    if obstacle:
        raise ParameterError(
            f"{start}, and it cannot become a llama checkpoint, which has one, because {obstacle}. "
            f"{_instead(edit)}"
        )
    new = LlamaConfig(**_like_llama(config), attention_bias=_LIKE_LLAMA[family], mlp_bias=True)
    added = _new_parameters(edit.anatomy, new)
    if added is None or not needed <= set(edit.base.parameters()) | set(added):
        raise ParameterError(
            f"{start}, and its tensors do not fit a llama checkpoint. {_instead(edit)}"
        )
    note = f"written as a llama checkpoint, which computes the same as {family} and has MLP biases"
    return BiasConfig({}, new, added, note)


def _obstacle(config: Any) -> str | None:
    """Return why a mistral or qwen2 config does not compute what llama does, or `None`."""
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        return f"its attention has a sliding window of {window} tokens"
    odd = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    if odd:
        return f"some layers have {', '.join(sorted(odd))}"
    return None


def _like_llama(config: Any) -> dict[str, Any]:
    found = {name: getattr(config, name) for name in _SAME_IN_LLAMA}
    heads = config.hidden_size // config.num_attention_heads
    found["head_dim"] = getattr(config, "head_dim", None) or heads
    found["dtype"] = getattr(config, "dtype", None)
    return found
