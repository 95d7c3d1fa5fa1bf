"""An adapter of our own PEFT type: scale and shift of the changed neurons; needs neuronsteer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import ParameterError
from ..neuron_set.peft_files import INDEX, SCALE, SHIFT, SITE, index_text
from ..neuron_set.storage import PEFT_TYPE
from . import EXPORTS, Export, ModelEdit
from ._adapter import refuse_experts, tensor_bytes, write_adapter


@EXPORTS.register("peft")
@dataclass(frozen=True)
class NeuronSteerAdapter(Export):
    """A PEFT adapter of type NEURONSTEER: every operation, exact, and some kilobytes."""

    name: ClassVar[str] = "peft"
    summary: ClassVar[str] = "PEFT adapter of our own type: every operation, needs neuronsteer"

    def check(self, edit: ModelEdit) -> int:
        """Refuse experts, and what depends on more than the neuron."""
        refuse_experts(edit, "PEFT")
        points = {point.layer: point for point in edit.anatomy.hook_points(SITE)}
        for projection in edit.projections:
            if points[projection.point.layer].experts is not None:
                raise ParameterError(
                    f"{projection.where}: this adapter cannot tell a shared expert from the "
                    "others. Export format='lora', or steer with hooks."
                )
        if edit.gains:
            raise ParameterError(
                "'set' and 'add' at 'mlp.act' depend on the up projection, which an adapter of the "
                "down projection cannot see. Use them at 'mlp.neuron', bake a checkpoint, or "
                "steer with hooks."
            )
        return sum(4 * tensor_bytes(len(projection.columns)) for projection in edit.projections)

    def write(self, edit: ModelEdit, folder: Path) -> list[str]:
        """Write scale, shift and neurons per layer."""
        tensors = {
            f"base_model.model.{projection.name}.{key}": values
            for projection in edit.projections
            for key, values in (
                (SCALE, projection.scale),
                (SHIFT, projection.shift),
                (INDEX, projection.columns),
            )
        }
        state = edit.state
        config = {
            "peft_type": PEFT_TYPE,
            "target_modules": [projection.name for projection in edit.projections],
            "model_type": edit.model_type,
            "label": state.label,
            "operation": {"text": edit.text},
            "neurons": {
                str(each.point.layer): index_text(each.columns) for each in edit.projections
            },
        }
        return write_adapter(
            edit,
            folder,
            config,
            tensors,
            before="import neuronsteer  # tells PEFT about this kind of adapter\n",
            loading="It is loaded by PEFT and transformers once neuronsteer is imported:",
        )
