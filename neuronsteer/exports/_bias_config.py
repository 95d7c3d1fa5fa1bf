"""Where a checkpoint can keep the constants of `set` and `add`: biases, and who has room for them.

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
from ._edits import Recipe

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
class Housing:
    """What has to change around the tensors.

    Attributes:
        fields: Config fields of the language model to set.
        config: A whole new config, when the model is re-housed.
        added: Name → shape of parameters that the model did not have; zero unless written.
        note: What to tell the user, or empty.
    """

    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    config: Any = None
    added: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    note: str = ""


def find_housing(recipe: Recipe) -> Housing:
    """Return how a checkpoint can hold what the recipe adds.

    Raises:
        ParameterError: If it cannot; the message says why and what can.
    """
    needed = _needed(recipe)
    now = recipe.source.parameters()
    if needed <= set(now):
        return Housing()
    bias = recipe.anatomy.layout.bias
    family = recipe.model_type
    if recipe.in_experts is not None:
        raise ParameterError(
            f"{recipe.in_experts.where}: the experts of model_type {family!r} have no bias, so a "
            "checkpoint cannot hold a constant for 'set' or 'add'. 'zero' and 'scale' bake into "
            "experts; the rest is steered with hooks."
        )
    if bias.when == "config":
        config = copy.deepcopy(recipe.source.config)
        setattr(text_config(config), str(bias.field), bias.value)
        added = _new_parameters(recipe.anatomy, config)
        if added is not None and needed <= set(now) | set(added):
            note = f"config: {bias.field} is now {bias.value}; the other biases it creates are zero"
            return Housing({str(bias.field): bias.value}, None, added, note)
        raise ParameterError(
            f"Config field {bias.field!r} of model_type {family!r} does not give the MLP the "
            f"biases needed here ({sorted(needed - set(now))[0]}, …). {_instead(recipe)}"
        )
    return _rehoused(recipe, needed)


def _instead(recipe: Recipe) -> str:
    text = (
        "'zero' and 'scale' bake into every family; for the rest export to='lora' (a LoRA with "
        "bias, which PEFT loads)"
    )
    constant = recipe.anatomy.layout.residual_factor(recipe.anatomy.config) is not None
    if constant and not recipe.gains:
        text += (
            ", or for llama.cpp bake part='scale' and put part='constant' into a control vector "
            "(to='gguf')"
        )
    return text + "."


def _needed(recipe: Recipe) -> set[str]:
    needed: set[str] = set()
    for change in recipe.changes:
        if bool(change.shift.any()):
            suffix = ".bias" if change.expert is None else ".down_proj_bias"
            needed.add(change.name + suffix)
        if bool(change.gain.any()):
            recipe.hold(change)
            needed.add(recipe.gate(change)[0] + ".bias")
    return needed


def _new_parameters(anatomy: Anatomy, config: Any) -> dict[str, tuple[int, ...]] | None:
    """Return what a model of `config` has beyond this one; `None` if it is not an extension."""
    before = {name: tuple(p.shape) for name, p in anatomy.root.named_parameters()}
    model = without_memory(config)
    after = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if any(after.get(name) != shape for name, shape in before.items()):
        return None
    return {name: shape for name, shape in after.items() if name not in before}


def _rehoused(recipe: Recipe, needed: set[str]) -> Housing:
    family = recipe.model_type
    config = recipe.source.config
    start = f"A {family!r} checkpoint has no MLP bias to hold what 'set' or 'add' adds"
    if family not in _LIKE_LLAMA or config is not recipe.anatomy.config:
        raise ParameterError(f"{start}. {_instead(recipe)}")
    obstacle = _obstacle(config)
    if obstacle:
        raise ParameterError(
            f"{start}, and it cannot become a llama checkpoint, which has one, because {obstacle}. "
            f"{_instead(recipe)}"
        )
    new = LlamaConfig(**_like_llama(config), attention_bias=_LIKE_LLAMA[family], mlp_bias=True)
    added = _new_parameters(recipe.anatomy, new)
    if added is None or not needed <= set(recipe.source.parameters()) | set(added):
        raise ParameterError(
            f"{start}, and its tensors do not fit a llama checkpoint. {_instead(recipe)}"
        )
    note = f"written as a llama checkpoint, which computes the same as {family} and has MLP biases"
    return Housing({}, new, added, note)


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
