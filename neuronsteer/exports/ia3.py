"""IA3: one factor per neuron. Exact for zero and scale, tiny, needs no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import ParameterError
from . import EXPORTS, Export, ModelEdit
from ._adapter import refuse_experts, tensor_bytes, write_adapter


@EXPORTS.register("ia3")
@dataclass(frozen=True)
class IA3(Export):
    """A PEFT adapter of type IA3 on the down projections."""

    name: ClassVar[str] = "ia3"
    summary: ClassVar[str] = "PEFT IA3 adapter: zero and scale, no weights needed"

    def check(self, edit: ModelEdit) -> int:
        """Refuse constants, which IA3 cannot add, and experts."""
        refuse_experts(edit, "IA3")
        if edit.shifts or edit.gains:
            raise ParameterError(
                "IA3 multiplies and has no bias, so it can express 'zero' and 'scale' but not what "
                "'set' and 'add' add. Export format='lora' (LoRA with bias), or bake a checkpoint."
            )
        return sum(tensor_bytes(projection.point.width) for projection in edit.projections)

    def write(self, edit: ModelEdit, folder: Path) -> list[str]:
        """Write one vector per layer."""
        tensors = {
            f"base_model.model.{projection.name}.ia3_l": projection.dense(projection.scale, 1.0)[
                None
            ]
            for projection in edit.projections
        }
        # Full paths: PEFT matches feedforward_modules by their ending, without a dot before it.
        paths = [projection.name for projection in edit.projections]
        config = {
            "peft_type": "IA3",
            "target_modules": paths,
            "feedforward_modules": paths,
            "fan_in_fan_out": edit.base.transposed(paths[0]),
            "init_ia3_weights": True,
        }
        return write_adapter(edit, folder, config, tensors)
