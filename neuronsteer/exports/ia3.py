"""IA3: one factor per neuron. Exact for zero and scale, tiny, needs no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import ParameterError
from . import EXPORTS, Export, Recipe
from ._adapter import refuse_experts, tensor_bytes, write_adapter


@EXPORTS.register("ia3")
@dataclass(frozen=True)
class IA3(Export):
    """A PEFT adapter of type IA3 on the down projections."""

    name: ClassVar[str] = "ia3"
    summary: ClassVar[str] = "PEFT IA3 adapter: zero and scale, no weights needed"

    def check(self, recipe: Recipe) -> int:
        """Refuse constants, for which IA3 has no place, and experts."""
        refuse_experts(recipe, "IA3")
        if recipe.shifts or recipe.gains:
            raise ParameterError(
                "IA3 multiplies and has no bias, so it can hold 'zero' and 'scale' but not what "
                "'set' and 'add' add. Export to='lora' (LoRA with bias), or bake a checkpoint."
            )
        return sum(tensor_bytes(change.tap.width) for change in recipe.changes)

    def write(self, recipe: Recipe, folder: Path) -> list[str]:
        """Write one vector per layer."""
        source = recipe.source
        tensors = {
            f"base_model.model.{change.name}.ia3_l": change.dense(change.scale, 1.0)[None]
            for change in recipe.changes
        }
        # Full paths: PEFT matches feedforward_modules by their ending, without a dot before it.
        paths = [change.name for change in recipe.changes]
        config = {
            "peft_type": "IA3",
            "target_modules": paths,
            "feedforward_modules": paths,
            "fan_in_fan_out": source.transposed(paths[0]),
            "init_ia3_weights": True,
        }
        return write_adapter(recipe, folder, config, tensors)
