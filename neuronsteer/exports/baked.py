"""A baked checkpoint: the projection is in the weights, so whatever loads checkpoints steers."""

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

from ..errors import HubError, ParameterError
from ..hub import read_json
from . import EXPORTS, Export, ModelEdit, ProjectionEdit
from ._bias_config import BiasConfig, find_bias_config
from ._edits import PINNED_GATE_INPUT
from ._output_folder import CARD, python_block, render_card
from ._safetensors_rewrite import Checkpoint, TensorEdit

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

    def check(self, edit: ModelEdit) -> int:
        """Refuse what the checkpoint cannot store, and quantised weights."""
        base = edit.base
        base.refuse_quantised()
        bias_config = find_bias_config(edit)
        extra = sum(4 * _count(shape) for shape in bias_config.added.values())
        if base.folder is None:
            base.refuse_out_of_reach()
            tensors = [p.numel() * p.element_size() for p in base.root.parameters()]
            # One shard exists twice while it is rewritten.
            return sum(tensors) + min(sum(tensors), 5 * 10**9) + extra
        checkpoint = base.checkpoint
        for projection in edit.projections:
            checkpoint.check_dtype(_output_key(checkpoint, projection))
        return sum(checkpoint.bytes_of(file) for file in checkpoint.files) + extra

    def write(self, edit: ModelEdit, folder: Path) -> list[str]:
        """Write shards, config, tokenizer files and card."""
        base = edit.base
        bias_config = find_bias_config(edit)
        for path, name in base.companion_files():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
        if base.folder is None:
            base.root.save_pretrained(folder, max_shard_size=_SHARD)
            checkpoint = Checkpoint.of(folder)
            raw = folder / "config.json"
        else:
            checkpoint = base.checkpoint
            raw = base.folder / "config.json"
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        edits, added = _plan(edit, bias_config, checkpoint)
        checkpoint.rewrite(folder, edits, added)
        config = _config(read_json(raw, HubError), bias_config)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        notes = [bias_config.note] if bias_config.note else []
        card = render_card(
            edit,
            relation="finetune",
            library="transformers",
            usage=python_block(_USAGE),
            notes=notes,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        return notes


def _plan(
    edit: ModelEdit, bias_config: BiasConfig, checkpoint: Checkpoint
) -> tuple[dict[str, list[TensorEdit]], dict[str, dict[str, Tensor]]]:
    """Return the edits per tensor and the new tensors per file."""
    edits: dict[str, list[TensorEdit]] = defaultdict(list)
    new: dict[str, Tensor] = {}
    for name, shape in bias_config.added.items():
        new[name] = torch.zeros(shape)
    for projection in edit.projections:
        key = _output_key(checkpoint, projection)
        factor = edit.output_factor(projection)
        axis = _input_axis(edit, checkpoint, projection, key)
        if bool((factor != 1).any()):
            edits[key].append(_scaling(projection, factor, axis))
        if bool(projection.shift.any()):
            _add_constant(checkpoint, projection, key, axis, edits, new)
        if bool(projection.gain.any()):
            _pin_gate(edit, checkpoint, projection, edits, new)
    added: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in new.items():
        # Beside its weight, in the weight's type and under the weight's spelling.
        weight = checkpoint.key(name.removesuffix(".bias") + ".weight")
        bias = weight.removesuffix(".weight") + ".bias"
        added[checkpoint.where[weight]][bias] = _rounded(tensor, checkpoint.check_dtype(weight))
    return edits, added


def _output_key(checkpoint: Checkpoint, projection: ProjectionEdit) -> str:
    """Return the key of the tensor whose input neurons projection."""
    if projection.expert is None:
        return checkpoint.key(f"{projection.name}.weight")
    fused = checkpoint.find(f"{projection.name}.down_proj")
    if fused is not None:
        return fused
    # transformers fuses experts on loading; on disk they may be one by one, under older names.
    layer = re.escape(f".{projection.point.layer}.")
    pattern = re.compile(
        rf"(.*\.)?\w+{layer}(\w+\.)*experts\.{projection.expert}\.(down_proj|w2)\.weight"
    )
    found = [key for key in checkpoint.where if pattern.fullmatch(key)]
    if len(found) != 1:
        raise ParameterError(
            f"{projection.where}: the checkpoint stores its experts in an unknown way "
            f"({len(found)} tensors fit). Load the model and pass it instead of its path."
        )
    return found[0]


def _input_axis(
    edit: ModelEdit, checkpoint: Checkpoint, projection: ProjectionEdit, key: str
) -> int:
    """Return the axis of the neurons, counted from the end."""
    if projection.expert is None:
        return -2 if edit.base.transposed(projection.name) else -1
    module: Any = projection.point.module
    fused = len(checkpoint.entry(key).shape) == 3
    return -2 if fused and getattr(module, "is_transposed", False) else -1


def _part(projection: ProjectionEdit, tensor: Tensor) -> Tensor:
    """Return the expert's slice of a fused tensor, or the tensor."""
    return tensor if projection.expert is None or tensor.dim() < 3 else tensor[projection.expert]


def _scaling(projection: ProjectionEdit, factor: Tensor, axis: int) -> TensorEdit:
    def edit(tensor: Tensor) -> None:
        columns = _part(projection, tensor).movedim(axis, -1)
        scaled = columns[..., projection.columns].float() * factor
        columns[..., projection.columns] = _rounded(scaled, tensor.dtype)

    return edit


def _add_constant(
    checkpoint: Checkpoint,
    projection: ProjectionEdit,
    key: str,
    axis: int,
    edits: dict[str, list[TensorEdit]],
    new: dict[str, Tensor],
) -> None:
    # From the weights as they were: the neuron's own value is gone, the constant goes through them.
    fused = projection.expert is not None and len(checkpoint.entry(key).shape) == 3
    weight = checkpoint.read(key, projection.expert if fused else None).movedim(axis, -1)
    constant = weight[:, projection.columns].float() @ projection.shift
    if projection.expert is not None:
        bias = checkpoint.key(f"{projection.name}.down_proj_bias")
        expert = projection.expert

        edits[bias].append(lambda tensor: _increase(tensor[expert], constant))
        return
    name = f"{projection.name}.bias"
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


def _pin_gate(
    edit: ModelEdit,
    checkpoint: Checkpoint,
    projection: ProjectionEdit,
    edits: dict[str, list[TensorEdit]],
    new: dict[str, Tensor],
) -> None:
    name, rows = edit.gate_rows(projection)
    transposed = edit.base.transposed(name)

    axis = 1 if transposed else 0
    edits[checkpoint.key(f"{name}.weight")].append(lambda tensor: tensor.index_fill_(axis, rows, 0))
    if f"{name}.bias" in new:
        new[f"{name}.bias"] = new[f"{name}.bias"].index_fill(0, rows, PINNED_GATE_INPUT)
    else:
        edits[checkpoint.key(f"{name}.bias")].append(
            lambda tensor: tensor.index_fill_(0, rows, PINNED_GATE_INPUT)
        )


def _config(raw: dict[str, Any], bias_config: BiasConfig) -> dict[str, Any]:
    if bias_config.config is not None:
        found = json.loads(bias_config.config.to_json_string(use_diff=True))
        found["architectures"] = ["LlamaForCausalLM"]
        for name in ("dtype", "torch_dtype"):
            if name in raw:
                found[name] = raw[name]
        return found
    if bias_config.fields:
        inner = raw.get("text_config")
        (raw if inner is None else inner).update(bias_config.fields)
    return raw


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
