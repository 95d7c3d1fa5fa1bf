"""What the PEFT adapters share: their two files and what neither of them can do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..errors import ParameterError
from ..neuron_set.card import hub_id
from ._edits import ModelEdit
from ._output_folder import CARD, python_block, render_card

_USAGE = """
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(model, "path/to/this/folder")
"""


def refuse_experts(edit: ModelEdit, name: str) -> None:
    """Raise if neurons are inside routed experts, which are not modules that PEFT could wrap."""
    projection = edit.in_experts
    if projection is not None:
        raise ParameterError(
            f"{projection.where}: {name} wraps linear modules, and the experts of model_type "
            f"{edit.model_type!r} are slices of one parameter. Bake a checkpoint instead "
            "('zero' and 'scale' in every family, 'set' and 'add' in gpt_oss)."
        )


def tensor_bytes(numbers: int) -> int:
    """Return the size of a float32 tensor in a file, with its entry in the header."""
    return 4 * numbers + 200


def write_adapter(
    edit: ModelEdit,
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    before: str = "",
    **card_options: str,
) -> list[str]:
    """Write config, tensors and card; returns the notes.

    Args:
        edit: What is exported.
        folder: Where to.
        config: The entries that depend on the kind of adapter.
        tensors: The weights.
        before: Code that has to run before the adapter is loaded.
        **card_options: See `render_card`.
    """
    base = hub_id(edit.base.hub_id or edit.sets[0].base_model)
    full: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": edit.base.revision if base else None,
        "inference_mode": True,
        "modules_to_save": None,
        **config,
    }
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    text = json.dumps(full, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    usage = python_block(before + _USAGE.format(base=base or "path/to/the/base/model"))
    options: dict[str, Any] = {"relation": "adapter", "library": "peft", **card_options}
    card = render_card(edit, usage=usage, notes=[], **options)
    (folder / CARD).write_text(card, encoding="utf-8")
    return []
