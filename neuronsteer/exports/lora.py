"""LoRA of rank k per layer, k being the number of changed neurons: an exact, not a learned update.

`W (a * s + t) = W a + W[:, J] (s_J - 1) a_J + W t`: A picks the neurons, B holds their weights, and
the constant is B's bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ParameterError
from . import EXPORTS, Export, ModelEdit, ProjectionEdit
from ._adapter import refuse_experts, tensor_bytes, write_adapter
from ._edits import PINNED_GATE_INPUT


@EXPORTS.register("lora")
@dataclass(frozen=True)
class Lora(Export):
    """A PEFT adapter of type LORA with `lora_bias`."""

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "PEFT LoRA with bias: every operation (peft 0.14 or newer)"
    bias: ClassVar[bool] = True

    def check(self, edit: ModelEdit) -> int:
        """Refuse experts, quantised weights, and what needs a bias when there is none."""
        refuse_experts(edit, "LoRA")
        if not self.bias and (edit.shifts or edit.gains):
            raise ParameterError(
                "Without a bias, LoRA can express 'zero' and 'scale' but not what 'set' and 'add' "
                "add. Engines that refuse lora_bias (vLLM, llama.cpp) need a baked checkpoint for "
                "those; PEFT loads format='lora'."
            )
        edit.base.refuse_quantised()
        hidden = edit.anatomy.hidden_size
        size = 0
        for projection in edit.projections:
            edit.output_factor(projection)
            rows = 2 * len(projection.columns) + 1
            size += tensor_bytes(rows * (projection.point.width + hidden))
        return size

    def write(self, edit: ModelEdit, folder: Path) -> list[str]:
        """Write A, B and, with a bias, the constants; one rank per module."""
        tensors: dict[str, Tensor] = {}
        ranks: dict[str, int] = {}
        for projection in edit.projections:
            self._output(edit, projection, tensors, ranks)
            if bool(projection.gain.any()):
                self._gate(edit, projection, tensors, ranks)
        highest = max(ranks.values())
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "target_modules": list(ranks),
            "r": highest,
            "lora_alpha": highest,
            # With alpha = r in every layer the update is multiplied with 1.
            "rank_pattern": ranks,
            "alpha_pattern": ranks,
            "lora_bias": self.bias,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": edit.base.transposed(edit.projections[0].name),
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": False,
        }
        notes = write_adapter(edit, folder, config, tensors)
        if not self.bias:
            notes.append(f"The rank is {highest}: vLLM needs --max-lora-rank of at least that.")
        return notes

    def _output(
        self,
        edit: ModelEdit,
        projection: ProjectionEdit,
        tensors: dict[str, Tensor],
        ranks: dict[str, int],
    ) -> None:
        weight = edit.base.weight(projection.name)
        factor = edit.output_factor(projection)
        here = factor != 1
        # A rank of 0 is not allowed; a layer that only adds gets one row that does nothing.
        columns = projection.columns[here] if bool(here.any()) else projection.columns[:1]
        delta = factor[here] - 1 if bool(here.any()) else torch.zeros(1)
        picked = weight[:, columns] * delta
        constant = weight[:, projection.columns] @ projection.shift
        self._put(
            projection.name, _rows(columns, weight.shape[1]), picked, constant, tensors, ranks
        )

    def _gate(
        self,
        edit: ModelEdit,
        projection: ProjectionEdit,
        tensors: dict[str, Tensor],
        ranks: dict[str, int],
    ) -> None:
        # The gate's own value is subtracted and a constant put in its place.
        name, rows = edit.gate_rows(projection)
        weight = edit.base.weight(name)
        back = _rows(rows, weight.shape[0]).T
        constant = torch.zeros(weight.shape[0]).index_fill_(0, rows, PINNED_GATE_INPUT)
        bias = edit.base.bias(name)
        if bias is not None:
            constant[rows] -= bias[rows]
        self._put(name, -weight[rows], back, constant, tensors, ranks)

    def _put(
        self,
        name: str,
        a: Tensor,
        b: Tensor,
        constant: Tensor,
        tensors: dict[str, Tensor],
        ranks: dict[str, int],
    ) -> None:
        key = f"base_model.model.{name}."
        tensors[f"{key}lora_A.weight"] = a
        tensors[f"{key}lora_B.weight"] = b
        if self.bias:
            tensors[f"{key}lora_B.bias"] = constant
        ranks[name] = a.shape[0]


@EXPORTS.register("lora-nobias")
@dataclass(frozen=True)
class LoraWithoutBias(Lora):
    """A plain LoRA, as vLLM and llama.cpp accept it."""

    name: ClassVar[str] = "lora-nobias"
    summary: ClassVar[str] = "plain LoRA: zero and scale, for engines that refuse a bias (vLLM)"
    bias: ClassVar[bool] = False


def _rows(columns: Tensor, width: int) -> Tensor:
    """Return the rows of the identity matrix that pick `columns`."""
    return torch.zeros(len(columns), width).scatter_(1, columns[:, None], 1.0)
