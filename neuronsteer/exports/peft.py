"""The native PEFT form: scale and shift of the changed neurons, for users who have neuronsteer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import ParameterError
from ..neuron_set.peft_files import SCALE, SHIFT, SITE, spell
from ..neuron_set.storage import PEFT_TYPE
from . import EXPORTS, Export, Recipe
from ._adapter import refuse_experts, tensor_bytes, write_adapter


@EXPORTS.register("peft")
@dataclass(frozen=True)
class Native(Export):
    """A PEFT adapter of type NEURONSTEER: every operation, exact, and some kilobytes."""

    name: ClassVar[str] = "peft"
    summary: ClassVar[str] = "PEFT adapter of our own type: every operation, needs neuronsteer"

    def check(self, recipe: Recipe) -> int:
        """Refuse experts, and what depends on more than the neuron."""
        refuse_experts(recipe, "PEFT")
        taps = {tap.layer: tap for tap in recipe.anatomy.hook_points(SITE)}
        for change in recipe.changes:
            if taps[change.tap.layer].experts is not None:
                raise ParameterError(
                    f"{change.where}: this adapter cannot tell a shared expert from the others. "
                    "Export to='lora', or steer with hooks."
                )
        if recipe.gains:
            raise ParameterError(
                "'set' and 'add' at 'mlp.act' depend on the up projection, which an adapter of the "
                "down projection cannot see. Use them at 'mlp.neuron', bake a checkpoint, or "
                "steer with hooks."
            )
        return sum(2 * tensor_bytes(len(change.columns)) for change in recipe.changes)

    def write(self, recipe: Recipe, folder: Path) -> list[str]:
        """Write two vectors per layer."""
        tensors = {
            f"base_model.model.{change.name}.{key}": values
            for change in recipe.changes
            for key, values in ((SCALE, change.scale), (SHIFT, change.shift))
        }
        state = recipe.state
        config = {
            "peft_type": PEFT_TYPE,
            "target_modules": [change.name for change in recipe.changes],
            "model_type": recipe.model_type,
            "label": state.label,
            "operation": {"text": recipe.text},
            "neurons": {str(each.tap.layer): spell(each.columns) for each in recipe.changes},
        }
        return write_adapter(
            recipe,
            folder,
            config,
            tensors,
            before="import neuronsteer  # tells PEFT about this kind of adapter\n",
            loading="It is loaded by PEFT and transformers once neuronsteer is imported:",
        )
