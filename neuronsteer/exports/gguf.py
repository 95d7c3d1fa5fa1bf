"""A GGUF control vector: the constant of set and add, for llama.cpp.

A control vector is added to the residual stream after a layer. Where the down projection's output
reaches that stream unchanged, a constant there is the same as a constant in the projection's bias.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ..errors import ParameterError
from . import EXPORTS, Export, ModelEdit
from ._output_folder import CARD, render_card

FILE = "control_vector.gguf"
_ALIGNMENT = 32
_INT32, _STRING = 5, 8
_F32 = 0
# What llama.cpp calls a family, where that differs; only a hint for people and tools.
_HINTS = {
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "cohere": "command-r",
    "seed_oss": "seed_oss",
    "ernie4_5": "ernie4_5",
    "hunyuan_v1_dense": "hunyuan-dense",
}


@EXPORTS.register("gguf")
@dataclass(frozen=True)
class Gguf(Export):
    """A control vector file.

    Attributes:
        skip_first: Leave out neurons of layer 0, which llama.cpp cannot change: the result
            steers less than the hooks do.
    """

    name: ClassVar[str] = "gguf"
    summary: ClassVar[str] = "llama.cpp control vector: the constant part of set and add"

    skip_first: bool = False

    def check(self, edit: ModelEdit) -> int:
        """Refuse whatever a constant after the layer is not equal to."""
        family = edit.model_type
        if edit.in_experts is not None or edit.anatomy.is_moe:
            raise ParameterError(
                f"A control vector adds the same to every token, and in model_type {family!r} it "
                "depends on the router what a constant in an expert adds. Bake a checkpoint "
                "instead ('set' and 'add' in gpt_oss, 'zero' and 'scale' everywhere)."
            )
        if edit.anatomy.layout.residual_factor(edit.anatomy.config) is None:
            raise ParameterError(
                f"In model_type {family!r} a norm follows the MLP, so a constant after the layer "
                "(a control vector) is not the constant that 'set' or 'add' gives. Export "
                "format='lora', which PEFT loads."
            )
        if edit.gains:
            raise ParameterError(
                "An operation at 'mlp.act' adds a multiple of the up projection, not a constant. "
                "Use site 'mlp.neuron' for a control vector."
            )
        if not edit.shifts:
            raise ParameterError(
                "A control vector only adds, and 'zero' and 'scale' only multiply. Bake a "
                "checkpoint (possible in every family) and convert that to GGUF."
            )
        if edit.scales:
            raise ParameterError(
                "A control vector only adds, and this operation also multiplies neurons ('add' "
                "alone does not). Split it: bake(…, part='scale') gives the checkpoint to convert "
                "to GGUF, export(…, format='gguf', part='constant') the control vector for it."
            )
        first = [projection for projection in edit.projections if projection.point.layer == 0]
        if first and len(first) == len(edit.projections):
            raise ParameterError(
                "All changed neurons are in layer 0, for which llama.cpp has no control vector."
            )
        if first and not self.skip_first:
            raise ParameterError(
                "llama.cpp has no control vector for the first layer (it rejects 'direction.0'), "
                f"and this operation changes {len(first[0].columns)} neurons there. Leave them "
                "out with skip_first=True, knowing that the result steers less; or "
                "bake a checkpoint where the family has biases."
            )
        edit.base.refuse_quantised()
        return len(edit.projections) * (4 * edit.anatomy.hidden_size + 200)

    def write(self, edit: ModelEdit, folder: Path) -> list[str]:
        """Write one direction per layer."""
        first = sum(
            len(projection.columns)
            for projection in edit.projections
            if projection.point.layer == 0
        )
        later = tuple(projection for projection in edit.projections if projection.point.layer > 0)
        edit = replace(edit, projections=later)
        factor = edit.anatomy.layout.residual_factor(edit.anatomy.config) or 1.0
        directions: dict[str, Tensor] = {}
        for projection in edit.projections:
            weight = edit.base.weight(projection.name)
            constant = weight[:, projection.columns] @ projection.shift
            directions[f"direction.{projection.point.layer}"] = factor * constant
        family = edit.model_type
        metadata: dict[str, str | int] = {
            "general.architecture": "controlvector",
            "general.name": edit.text,
            "controlvector.model_hint": _HINTS.get(family, family.replace("_text", "")),
            "controlvector.layer_count": len(directions),
        }
        (folder / FILE).write_bytes(pack(metadata, directions))
        last = edit.anatomy.num_layers - 1
        notes = [
            f"Use it with: llama-cli -m MODEL.gguf --control-vector {FILE} "
            f"--control-vector-layer-range 1 {last}",
        ]
        if first:
            notes.append(
                f"NOT the same as steering with hooks: {first} neurons of layer 0 are left out, "
                "because llama.cpp has no control vector for that layer."
            )
        if edit.part == "constant":
            notes.append(
                "This is only the constant part: MODEL.gguf has to be converted from the "
                "checkpoint that bake(…, part='scale') wrote."
            )
        usage = f"```sh\nllama-cli -m MODEL.gguf --control-vector {FILE}\n```"
        card = render_card(
            edit,
            relation="adapter",
            library="gguf",
            usage=usage,
            notes=notes[1:],
            exact=not first,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        return notes


def pack(metadata: Mapping[str, str | int], tensors: Mapping[str, Tensor]) -> bytes:
    """Return a GGUF file (version 3) with one-dimensional float32 tensors."""
    data = {
        name: tensor.float().contiguous().numpy().astype("<f4").tobytes()
        for name, tensor in tensors.items()
    }
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        if isinstance(value, str):
            header += _string(key) + struct.pack("<I", _STRING) + _string(value)
        else:
            header += _string(key) + struct.pack("<Ii", _INT32, value)
    offset = 0
    for name, blob in data.items():
        header += _string(name) + struct.pack("<IQIQ", 1, len(blob) // 4, _F32, offset)
        offset += len(blob) + -len(blob) % _ALIGNMENT
    return b"".join(_padded(part) for part in (header, *data.values()))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(blob: bytes) -> bytes:
    return blob + b"\0" * (-len(blob) % _ALIGNMENT)
