"""Where a vLLM model keeps its MLP neurons, and the hooks that steer them.

A neuron of `mlp.neuron` is an input of the MLP's output projection. vLLM's models name that module
as transformers does, and it is a row-parallel linear layer: with tensor parallelism every rank has
a slice of the neurons.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LayoutError, require
from .compiled_labels import LabelColumns

_DOWN = re.compile(
    r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\."
    r"(?:mlp\.(?:down_proj|c_proj|dense_4h_to_h)|fc2)$"
)


class TokenRows:
    """What the hooks of all layers of a worker read, per token of the batch.

    Attributes:
        rows: Per token, the row of the tables; row 0 leaves activations alone.
        strengths: Per token, with how much strength the row acts.
        steering: Whether anything is steered in this step. Only code run by Python may read it.
        weighted: Whether some strength in this step is not 1; likewise.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.rows = torch.zeros(size, dtype=torch.int64, device=device)
        self.strengths = torch.ones(size, device=device)
        self.steering = False
        self.weighted = False


class SteeredLayer:
    """The neurons of one layer on one worker: its module and its table.

    Args:
        layer: Number of the layer.
        name: Dotted name of the module.
        module: The output projection, or the LoRA wrapper around it, which is what gets called.
        capacity: How many rows the table holds.
        device: Where the activations are.
    """

    def __init__(
        self, layer: int, name: str, module: Any, capacity: int, device: torch.device
    ) -> None:
        linear = getattr(module, "base_layer", module)
        self.layer = layer
        self.name = name
        self.module: nn.Module = module
        self.width = int(linear.input_size)
        self._size = int(linear.input_size_per_partition)
        self._first = int(linear.tp_rank) * self._size if self._size < self.width else 0
        # Row 0 is the identity. Float32, so that a strength is applied before anything is rounded
        # to the activations' dtype, as `attach()` does it.
        self.table = torch.zeros(capacity + 1, 2, self._size, device=device)
        self.table[:, 0] = 1

    def write(self, row: int, label: LabelColumns | None) -> None:
        """Fill a row; `None` makes it leave this layer alone."""
        self.table[row, 0] = 1
        self.table[row, 1] = 0
        if label is not None:
            columns, scale, shift = label
            mine = (columns >= self._first) & (columns < self._first + self._size)
            local = (columns[mine] - self._first).to(self.table.device)
            self.table[row, 0, local] = scale[mine].to(self.table)
            self.table[row, 1, local] = shift[mine].to(self.table)

    def install(self, tokens: TokenRows, python: bool) -> None:
        """Register the hook.

        Args:
            tokens: Which row acts on which token.
            python: Whether Python runs in every step: no compiler, no CUDA graph. Then steps in
                which nothing is steered cost nothing.
        """
        # As buffers they are inputs of a compiled graph, not constants in it.
        self.module.register_buffer("neuronsteer_table", self.table, persistent=False)
        self.module.register_buffer("neuronsteer_rows", tokens.rows, persistent=False)
        self.module.register_buffer("neuronsteer_strengths", tokens.strengths, persistent=False)
        identity = torch.tensor([[1.0], [0.0]], device=self.table.device)
        self.module.register_buffer("neuronsteer_identity", identity, persistent=False)
        self.module.register_forward_pre_hook(_in_python(tokens) if python else _in_graph)


def _in_graph(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    # Tensor operations over fixed addresses and nothing else: no branch, no synchronisation.
    x: Tensor = args[0]
    count = x.shape[-2]
    pair = module.neuronsteer_table.index_select(0, module.neuronsteer_rows[:count])
    strengths = module.neuronsteer_strengths[:count, None, None]
    pair = torch.lerp(module.neuronsteer_identity, pair, strengths).to(x.dtype)
    return (torch.addcmul(pair[:, 1], x, pair[:, 0]), *args[1:])


def _in_python(tokens: TokenRows) -> Callable[..., Any]:
    def steer(module: Any, args: tuple[Any, ...]) -> Any:
        if not tokens.steering:
            return None
        if tokens.weighted:
            return _in_graph(module, args)
        x: Tensor = args[0]
        pair = module.neuronsteer_table.index_select(0, tokens.rows[: x.shape[-2]]).to(x.dtype)
        return (torch.addcmul(pair[:, 1], x, pair[:, 0]), *args[1:])

    return steer


def find_layers(
    model: nn.Module, num_layers: int, capacity: int, device: torch.device
) -> dict[int, SteeredLayer]:
    """Return what is steered of every layer.

    Args:
        model: The loaded model, LoRA wrappers included.
        num_layers: How many layers there must be.
        capacity: How many rows the tables hold.
        device: Where the activations are.

    Raises:
        LayoutError: If the model's neurons cannot be steered like this.
    """
    found: dict[int, tuple[str, Any]] = {}
    for name, module in model.named_modules():
        match = _DOWN.search(name)
        if match is None or not hasattr(getattr(module, "base_layer", module), "input_size"):
            continue
        layer = int(match[1])
        if layer in found:
            raise LayoutError(
                f"Layer {layer} of {type(model).__name__} has two MLPs, {found[layer][0]!r} and "
                f"{name!r}. A model with several towers cannot be served with neuron steering; "
                "steer it with transformers and attach()."
            )
        found[layer] = (name, module)
    missing = sorted(set(range(num_layers)) - set(found))
    if missing or len(found) != num_layers:
        shown = f"layer {missing[0]}" if missing else f"layers beyond {num_layers - 1}"
        raise LayoutError(
            f"{type(model).__name__} cannot be served with neuron steering: of {num_layers} layers "
            f"{len(found)} have an MLP output projection under a known name, {shown} is the first "
            "that differs. Mixtures of experts run in a fused kernel without such a module; steer "
            "these with transformers and attach(), or serve a baked checkpoint (neuronsteer bake)."
        )
    for name, module in found.values():
        _refuse_quantised_inputs(name, getattr(module, "base_layer", module))
    return {
        layer: SteeredLayer(layer, name, module, capacity, device)
        for layer, (name, module) in sorted(found.items())
    }


def _refuse_quantised_inputs(name: str, linear: Any) -> None:
    quantised = require("vllm.model_executor.layers.fusion.quant_activation", "vllm", "Serving")
    kind = quantised.get_input_quant_key(linear)
    if kind is not None:
        raise LayoutError(
            f"{name!r} gets its activations quantised already ({kind}), so there is nothing left "
            "to steer. Quantise weights only, or serve a baked checkpoint (neuronsteer bake)."
        )
