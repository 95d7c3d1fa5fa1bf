"""A hook point: where in a concrete model the neurons of one layer can be read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

#: All sites. `mlp.out` is what the MLP as a whole returns, mixtures of experts included: before
#: the family norms or scales it, and without the residual stream.
SITES = ("mlp.act", "mlp.neuron", "mlp.out", "attn.q", "attn.k", "attn.v", "attn.o", "resid")

INPUT, OUTPUT, EXPERTS = "input", "output", "experts"


def first_tensor(value: Any) -> Tensor:
    """Return the tensor in a hook's arguments or result, which may be wrapped in a tuple."""
    while isinstance(value, tuple | list):
        value = value[0]
    return value


@dataclass(frozen=True, eq=False)
class Experts:
    """One mixture-of-experts block.

    The neurons of a block share one flat index space: neuron `i` of expert `e` has index
    `e * expert_width + i`, and neuron `i` of the shared expert, if the block has one, follows at
    `num_experts * expert_width + i`.

    Attributes:
        module: The module that transformers dispatches to an experts implementation. It is the
            innermost one: a PEFT wrapper around it is not what gets dispatched.
        num_experts: Number of routed experts.
        expert_width: Neurons per routed expert.
        shared: HookPoint on the shared expert, at the same site as the point that owns this object.
        gate: Takes the fused first projection's output `[..., 2 * expert_width]` and returns the
            gate's pre-activation, whose sign is the sign of g.
        act: Takes what `gate` returns and returns g.
        up: Takes the fused output and returns the factor u, so that `act(gate(h)) * up(h)` is the
            neurons' value. `None` when the experts are not gated.
    """

    module: nn.Module
    num_experts: int
    expert_width: int
    shared: HookPoint | None
    gate: Callable[[Tensor], Tensor]
    act: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor] | None

    @property
    def width(self) -> int:
        """Number of neurons of the block: routed experts first, then the shared expert."""
        return self.num_experts * self.expert_width + (self.shared.width if self.shared else 0)

    def flat(self, expert: int, index: int) -> int:
        """Return the flat index of neuron `index` of `expert` (`num_experts` is the shared one)."""
        return expert * self.expert_width + index

    def locate(self, flat: int) -> tuple[int, int]:
        """Return `(expert, index)` of a flat index; expert `num_experts` is the shared one."""
        routed = self.num_experts * self.expert_width
        if flat >= routed:
            return self.num_experts, flat - routed
        return divmod(flat, self.expert_width)

    def split(self, table: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return views `[..., num_experts, expert_width]` and `[..., shared width]` of a table.

        Args:
            table: `[..., width]`, indexed by flat neuron index.
        """
        routed = self.num_experts * self.expert_width
        experts = table[..., :routed].unflatten(-1, (self.num_experts, self.expert_width))
        return experts, table[..., routed:] if self.shared else None


@dataclass(frozen=True, eq=False)
class HookPoint:
    """One layer's neurons of one site in one concrete model.

    Attributes:
        site: One of `SITES`.
        layer: Decoder layer, from 0.
        name: Dotted path of `module` from the causal-LM root.
        module: The module to hook. For a LoRA-wrapped projection it is the wrapper, so that the
            adapter sees the steered input too.
        side: `"input"` (forward pre-hook, first argument), `"output"` (forward hook) or
            `"experts"` (a mixture-of-experts block, see `experts`).
        width: Number of neurons: the size of this layer's index space.
        tensor_width: Last dimension of the tensor that the hook sees.
        columns: Neuron index → column of that tensor; `None` means identity.
        flattened: The tensor is `[batch * sequence, tensor_width]`.
        experts: The block, when `side` is `"experts"`.
    """

    site: str
    layer: int
    name: str
    module: nn.Module = field(repr=False)
    side: str
    width: int
    tensor_width: int
    columns: slice | Tensor | None = field(default=None, repr=False)
    flattened: bool = False
    experts: Experts | None = field(default=None, repr=False)
    _on_device: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def read(self, tensor: Any) -> Tensor:
        """Return the neurons `[..., width]` of a hook's argument or result.

        A view where the columns allow it. Tuples (a decoder layer's output) are unwrapped.
        """
        value = first_tensor(tensor)
        if self.columns is None:
            return value
        if isinstance(self.columns, slice):
            return value[..., self.columns]
        return value.index_select(-1, self._columns_on(value.device))

    def widen(self, table: Tensor, fill: float) -> Tensor:
        """Return `[..., tensor_width]`: `table` `[..., width]` in its columns, `fill` elsewhere.

        What a hook multiplies or adds must be as wide as the tensor it meets, also where several
        sites share one fused projection.
        """
        if self.columns is None:
            return table
        wide = table.new_full((*table.shape[:-1], self.tensor_width), fill)
        if isinstance(self.columns, slice):
            wide[..., self.columns] = table
        else:
            wide[..., self._columns_on(table.device)] = table
        return wide

    def _columns_on(self, device: torch.device) -> Tensor:
        columns = self.columns
        if not isinstance(columns, Tensor):
            raise TypeError(f"{self.name} has no index columns.")
        if columns.device == device:
            return columns
        if device not in self._on_device:
            # Copied once: an index on the wrong device would cost a transfer in every forward.
            self._on_device[device] = columns.to(device)
        return self._on_device[device]
