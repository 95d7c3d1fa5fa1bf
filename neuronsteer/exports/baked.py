"""A baked checkpoint: the change is in the weights, so whatever loads checkpoints steers."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ParameterError
from . import EXPORTS, Change, Export, Recipe
from ._bias_config import Housing, find_housing
from ._cards import CARD, python_block, render_card
from ._edits import HELD_AT
from ._safetensors_rewrite import Checkpoint, Edit

_SHARD = "5GB"
_USAGE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
"""


@EXPORTS.register("baked")
@dataclass(frozen=True)
class Baked(Export):
    """A checkpoint with the operation in its weights.

    Attributes:
        tokenizer: Saved along.
    """

    name: ClassVar[str] = "baked"
    summary: ClassVar[str] = "checkpoint: zero and scale always, set and add where it has biases"

    tokenizer: Any = None

    def check(self, recipe: Recipe) -> int:
        """Refuse what the checkpoint has no room for, and quantised weights."""
        source = recipe.source
        source.refuse_quantised()
        housing = find_housing(recipe)
        extra = sum(4 * _count(shape) for shape in housing.added.values())
        if source.folder is None:
            source.refuse_out_of_reach()
            tensors = [p.numel() * p.element_size() for p in source.root.parameters()]
            # One shard exists twice while it is rewritten.
            return sum(tensors) + min(sum(tensors), 5 * 10**9) + extra
        checkpoint = source.checkpoint
        for change in recipe.changes:
            checkpoint.check_dtype(_output_key(checkpoint, change))
        return sum(checkpoint.bytes_of(file) for file in checkpoint.files) + extra

    def write(self, recipe: Recipe, folder: Path) -> list[str]:
        """Write shards, config, tokenizer files and card."""
        source = recipe.source
        housing = find_housing(recipe)
        for path, name in source.carried():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
        if source.folder is None:
            source.root.save_pretrained(folder, max_shard_size=_SHARD)
            checkpoint = Checkpoint.of(folder)
            raw = folder / "config.json"
        else:
            checkpoint = source.checkpoint
            raw = source.folder / "config.json"
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        edits, added = _plan(recipe, housing, checkpoint)
        checkpoint.rewrite(folder, edits, added)
        config = _config(json.loads(raw.read_text(encoding="utf-8")), housing)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        notes = [housing.note] if housing.note else []
        card = render_card(
            recipe,
            relation="finetune",
            library="transformers",
            usage=python_block(_USAGE),
            notes=notes,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        return notes


def _plan(
    recipe: Recipe, housing: Housing, checkpoint: Checkpoint
) -> tuple[dict[str, list[Edit]], dict[str, dict[str, Tensor]]]:
    """Return the edits per tensor and the new tensors per file."""
    edits: dict[str, list[Edit]] = defaultdict(list)
    new: dict[str, Tensor] = {}
    for name, shape in housing.added.items():
        new[name] = torch.zeros(shape)
    for change in recipe.changes:
        key = _output_key(checkpoint, change)
        factor = recipe.factor(change)
        axis = _input_axis(recipe, checkpoint, change, key)
        if bool((factor != 1).any()):
            edits[key].append(_scaling(change, factor, axis))
        if bool(change.shift.any()):
            _add_constant(checkpoint, change, key, axis, edits, new)
        if bool(change.gain.any()):
            _hold_gate(recipe, checkpoint, change, edits, new)
    added: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in new.items():
        # Beside its weight, in the weight's type and under the weight's spelling.
        weight = checkpoint.key(name.removesuffix(".bias") + ".weight")
        bias = weight.removesuffix(".weight") + ".bias"
        added[checkpoint.where[weight]][bias] = _rounded(tensor, checkpoint.check_dtype(weight))
    return edits, added


def _output_key(checkpoint: Checkpoint, change: Change) -> str:
    """Return the key of the tensor whose input neurons change."""
    if change.expert is None:
        return checkpoint.key(f"{change.name}.weight")
    fused = checkpoint.find(f"{change.name}.down_proj")
    if fused is not None:
        return fused
    # transformers fuses experts on loading; on disk they may be one by one, under older names.
    layer = re.escape(f".{change.tap.layer}.")
    pattern = re.compile(
        rf"(.*\.)?\w+{layer}(\w+\.)*experts\.{change.expert}\.(down_proj|w2)\.weight"
    )
    found = [key for key in checkpoint.where if pattern.fullmatch(key)]
    if len(found) != 1:
        raise ParameterError(
            f"{change.where}: the checkpoint stores its experts in a way that is not known here "
            f"({len(found)} tensors fit). Load the model and pass it instead of its path."
        )
    return found[0]


def _input_axis(recipe: Recipe, checkpoint: Checkpoint, change: Change, key: str) -> int:
    """Return the axis of the neurons, counted from the end."""
    if change.expert is None:
        return -2 if recipe.source.transposed(change.name) else -1
    module: Any = change.tap.module
    fused = len(checkpoint.entry(key).shape) == 3
    return -2 if fused and getattr(module, "is_transposed", False) else -1


def _part(change: Change, tensor: Tensor) -> Tensor:
    """Return the expert's slice of a fused tensor, or the tensor."""
    return tensor if change.expert is None or tensor.dim() < 3 else tensor[change.expert]


def _scaling(change: Change, factor: Tensor, axis: int) -> Edit:
    def edit(tensor: Tensor) -> None:
        columns = _part(change, tensor).movedim(axis, -1)
        scaled = columns[..., change.columns].float() * factor
        columns[..., change.columns] = _rounded(scaled, tensor.dtype)

    return edit


def _add_constant(
    checkpoint: Checkpoint,
    change: Change,
    key: str,
    axis: int,
    edits: dict[str, list[Edit]],
    new: dict[str, Tensor],
) -> None:
    # From the weights as they were: the neuron's own value is gone, the constant goes through them.
    fused = change.expert is not None and len(checkpoint.entry(key).shape) == 3
    weight = checkpoint.read(key, change.expert if fused else None).movedim(axis, -1)
    constant = weight[:, change.columns].float() @ change.shift
    if change.expert is not None:
        bias = checkpoint.key(f"{change.name}.down_proj_bias")
        expert = change.expert

        edits[bias].append(lambda tensor: _increase(tensor[expert], constant))
        return
    name = f"{change.name}.bias"
    if name in new:
        new[name] = new[name] + constant
    else:
        edits[checkpoint.key(name)].append(lambda tensor: _increase(tensor, constant))


def _increase(tensor: Tensor, constant: Tensor) -> None:
    tensor.copy_(_rounded(tensor.float() + constant, tensor.dtype))


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `values` in the checkpoint's type, which float16 may be too small for."""
    found = values.to(dtype)
    if not bool(torch.isfinite(found).all()):
        largest = float(values.abs().max())
        raise ParameterError(
            f"A weight or bias would become {largest:.3g}, which {dtype} cannot hold. Use less "
            "strength or a smaller value, or start from the checkpoint in bfloat16 or float32."
        )
    return found


def _hold_gate(
    recipe: Recipe,
    checkpoint: Checkpoint,
    change: Change,
    edits: dict[str, list[Edit]],
    new: dict[str, Tensor],
) -> None:
    name, rows = recipe.gate(change)
    transposed = recipe.source.transposed(name)

    axis = 1 if transposed else 0
    edits[checkpoint.key(f"{name}.weight")].append(lambda tensor: tensor.index_fill_(axis, rows, 0))
    if f"{name}.bias" in new:
        new[f"{name}.bias"] = new[f"{name}.bias"].index_fill(0, rows, HELD_AT)
    else:
        edits[checkpoint.key(f"{name}.bias")].append(
            lambda tensor: tensor.index_fill_(0, rows, HELD_AT)
        )


def _config(raw: dict[str, Any], housing: Housing) -> dict[str, Any]:
    if housing.config is not None:
        found = json.loads(housing.config.to_json_string(use_diff=True))
        found["architectures"] = ["LlamaForCausalLM"]
        for name in ("dtype", "torch_dtype"):
            if name in raw:
                found[name] = raw[name]
        return found
    if housing.fields:
        inner = raw.get("text_config")
        (raw if inner is None else inner).update(housing.fields)
    return raw


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
