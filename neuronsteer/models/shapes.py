"""The shape rule: locate the neurons of a dense family that the table does not know.

The MLP output projection is the one linear layer of a block that maps something wider to the hidden
size and does not belong to attention. Which layer feeds the activation is then decided by effect: a
few tokens are run through the model and the candidate that reproduces the neurons is the gate. What
cannot be decided is not guessed: no gate, or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..errors import LayoutError
from .hook_point import INPUT, OUTPUT
from .layout import Bias, Layout, Part
from .modules import in_size, out_size
from .probe import record

_WIDTH_FIELDS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "d_inner")
_LAYER_FIELDS = ("num_hidden_layers", "n_layer", "num_layers")
_ACT_FIELDS = ("hidden_act", "hidden_activation", "activation_function", "activation")
_HOMES = ("transformers.activations", "torch.nn.modules.activation")
_FUSED = (("first", "second"), ("second", "first"), ("even", "odd"), ("odd", "even"))


@dataclass(frozen=True)
class _Block:
    """The MLP of one decoder layer as the rule sees it: paths are relative to the layer."""

    mlp: str
    down: str
    width: int
    hidden: int


def derive(root: Any, config: Any) -> Layout:
    """Return a layout for a dense decoder of an unknown family; runs a short forward pass.

    Raises:
        LayoutError: If the MLP output projection is not unique, with what was found.
    """
    layers, path = _layer_list(root, config)
    layer = layers[0]
    block = _down(layer, config)
    parts, act, flattened = _gate(root, layer, block, config)
    down = layer.get_submodule(block.down)
    return Layout(
        str(config.model_type),
        layers=path,
        down=block.down,
        gate=parts[0] if parts else None,
        up=parts[1] if parts else None,
        act=act,
        attention=None,
        flattened=flattened,
        bias=Bias("always" if getattr(down, "bias", None) is not None else "never"),
        # A norm behind the MLP cannot be seen in shapes: assume there is one.
        residual="no",
        note="found by the shape rule",
    )


def _layer_list(root: Any, config: Any) -> tuple[nn.ModuleList, str]:
    count = next((v for f in _LAYER_FIELDS if isinstance(v := getattr(config, f, None), int)), None)
    for name, module in root.get_decoder().named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module, name
    raise LayoutError(
        f"model_type {config.model_type!r} is not in the table of families, and its decoder has no "
        f"list of {count} layers to look at. Register a Layout for the family."
    )


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Module, int, int]]:
    seen: set[int] = set()
    for name, child in module.named_modules():
        inputs, outputs = in_size(child), out_size(child)
        if inputs and outputs and not any(name.startswith(f"{n}.") for n in _wrappers(module)):
            if id(child) not in seen:
                yield name, child, inputs, outputs
            seen.add(id(child))


def _wrappers(module: nn.Module) -> list[str]:
    """Return the paths of adapter layers, whose inner linears are not the model's."""
    return [name for name, child in module.named_modules() if hasattr(child, "base_layer")]


def _down(layer: nn.Module, config: Any) -> _Block:
    hidden = int(config.hidden_size)
    expected = [v for f in _WIDTH_FIELDS if isinstance(v := getattr(config, f, None), int)]
    linears = list(_linears(layer))
    wide = [(name, inputs) for name, _, inputs, outputs in linears if outputs == hidden != inputs]
    found = [(name, inputs) for name, inputs in wide if inputs in expected]
    if not found:
        # Some families compute their width. An attention output may have the same shape then.
        found = [(name, inputs) for name, inputs in wide if "att" not in name.lower()]
    reason = None
    if any("expert" in name for name, _ in layer.named_modules()):
        reason = "it is a mixture of experts, whose neurons are not inputs of a linear layer"
    elif not found:
        reason = "no linear layer maps an MLP width to the hidden size"
    elif len(found) > 1:
        names = ", ".join(name for name, _ in found)
        reason = f"several linear layers could be the MLP output ({names})"
    if reason is None:
        name, width = found[0]
        mlp = name.rpartition(".")[0]
        parent = layer.get_submodule(mlp)
        own = [n for n, _ in parent.named_parameters(recurse=False)] if mlp else []
        odd = [n for n, m in parent.named_children() if mlp and _is_convolution(m)]
        if not own and not odd:
            return _Block(mlp, name, width, hidden)
        # A state-space or convolution mixer also ends in such a projection.
        reason = f"{mlp!r} is not a plain MLP (it owns {', '.join([*own, *odd])})"
    shapes = ", ".join(f"{name} {inputs}→{outputs}" for name, _, inputs, outputs in linears)
    raise LayoutError(
        f"model_type {config.model_type!r} is not in the table of families, and its neurons cannot "
        f"be located by shape: {reason}. Linear layers of one block: {shapes or 'none'}; hidden "
        f"size {hidden}, MLP width {expected or 'unknown'}. Register a Layout for the family."
    )


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d)


def _gate(
    root: Any, layer: nn.Module, block: _Block, config: Any
) -> tuple[tuple[Part, Part | None] | None, str | None, bool]:
    """Return `(gate, up)` or `None`, the activation's path or name, and whether it is flattened."""
    parent = layer.get_submodule(block.mlp)
    prefix = f"{block.mlp}." if block.mlp else ""
    feeding = {
        prefix + name: outputs
        for name, _, inputs, outputs in _linears(parent)
        if inputs == block.hidden and outputs in (block.width, 2 * block.width)
    }
    probes = [(name, layer.get_submodule(name), OUTPUT) for name in feeding]
    try:
        seen = record(root, [(block.down, layer.get_submodule(block.down), INPUT), *probes])
    except Exception as error:
        raise LayoutError(
            f"model_type {config.model_type!r} is not in the table of families, and the short "
            f"forward pass that finds its gate failed with {type(error).__name__}: {error}"
        ) from error
    neurons = seen.get(block.down)
    if neurons is None:
        return None, None, False
    fitting = [
        (parts, act)
        for act, function in _activations(parent, prefix, config)
        for parts in _candidates(feeding, block.width)
        if _fits(parts, seen, neurons, block.width, function)
    ]
    parts, act = fitting[0] if len({parts for parts, _ in fitting}) == 1 else (None, None)
    return parts, act, neurons.dim() == 2


def _activations(
    parent: nn.Module, prefix: str, config: Any
) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield what may be the activation: modules without weights, then what the config names."""
    for name, module in parent.named_children():
        empty = not any(True for _ in module.parameters()) and in_size(module) is None
        if type(module).__module__ in _HOMES or (empty and not isinstance(module, nn.Dropout)):
            yield prefix + name, module
    for field in _ACT_FIELDS:
        name = getattr(config, field, None)
        if isinstance(name, str) and name in ACT2FN:
            yield name, ACT2FN[name]


def _candidates(feeding: dict[str, int], width: int) -> Iterator[tuple[Part, Part | None]]:
    single = [name for name, outputs in feeding.items() if outputs == width]
    for name in single:
        yield Part(name), None
        for other in single:
            if other != name:
                yield Part(name), Part(other)
    for name in feeding.keys() - set(single):
        for gate, up in _FUSED:
            yield Part(name, gate), Part(name, up)


def _fits(
    parts: tuple[Part, Part | None],
    seen: dict[str, Tensor],
    neurons: Tensor,
    width: int,
    function: Callable[[Tensor], Tensor],
) -> bool:
    def read(part: Part) -> Tensor | None:
        value = seen.get(part.path)
        if value is None:
            return None
        columns = part.columns(width)
        return value if columns is None else value[..., columns]

    gate = read(parts[0])
    up = read(parts[1]) if parts[1] else None
    if gate is None or (parts[1] and up is None):
        return False
    try:
        want = function(gate) if up is None else function(gate) * up
    except (TypeError, ValueError, RuntimeError):
        return False  # not an activation, whatever it is
    if want.shape != neurons.shape:
        return False
    # Half-precision rounding stays far below this; a wrong pairing is off by about 1.
    error = (want - neurons).float().norm() / neurons.float().norm().clamp_min(1e-12)
    return bool(error < 0.05)
