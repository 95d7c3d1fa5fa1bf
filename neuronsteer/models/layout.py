"""A layout: what one model family calls its modules. The registry of families lives here.

A family is one `Layout` row, registered under its `model_type`. Adding one is a new file in this
folder (or an entry point of the group `neuronsteer.layouts`):

    LAYOUTS.register("myllama")(Layout("myllama", bias=Bias("config", "mlp_bias", True)))

The defaults of `Layout` are the llama convention, so most rows are short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..registry import Registry

Columns = slice | Tensor | None


@dataclass(frozen=True)
class Part:
    """Some columns of one projection's output.

    Attributes:
        path: Module path relative to the decoder layer.
        take: `"all"`, `"first"` or `"second"` half, `"even"` or `"odd"` columns.
    """

    path: str
    take: str = "all"

    def columns(self, width: int) -> slice | None:
        """Return the columns that hold the `width` neurons."""
        return {
            "all": None,
            "first": slice(0, width),
            "second": slice(width, 2 * width),
            "even": slice(0, None, 2),
            "odd": slice(1, None, 2),
        }[self.take]

    def tensor_width(self, width: int) -> int:
        """Return the size of the projection's output."""
        return width if self.take == "all" else 2 * width


# (config, output width) -> columns of q, k and v in a fused projection.
QkvSplit = Callable[[Any, int], dict[str, Columns]]


@dataclass(frozen=True)
class Attention:
    """Attention projections, relative to the decoder layer.

    Attributes:
        q: Path of the query projection, or of the fused one.
        k: Path of the key projection; ignored when fused.
        v: Path of the value projection; ignored when fused.
        o: Path of the output projection.
        split: Where q, k and v are in the fused projection's output; `None` if separate.
        note: What the split is called in the table of families.
    """

    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    split: QkvSplit | None = None
    note: str = "separate"


@dataclass(frozen=True)
class Bias:
    """Whether the down projection can carry a bias, which baking `set` and `add` needs.

    Attributes:
        when: `"always"`, `"never"`, or `"config"`: only if the config says so.
        field: Config field that decides.
        value: Value of that field with which the bias exists.
    """

    when: str = "never"
    field: str | None = None
    value: Any = None

    def present(self, config: Any) -> bool:
        """Return whether a model of this config has the bias now."""
        if self.when == "config":
            return getattr(config, str(self.field), None) == self.value
        return self.when == "always"

    def possible(self) -> bool:
        """Return whether some config of the family has it."""
        return self.when != "never"

    def __str__(self) -> str:
        return f"{self.field}={self.value}" if self.when == "config" else self.when


@dataclass(frozen=True)
class ExpertLayout:
    """A mixture-of-experts block, relative to the decoder layer.

    Attributes:
        path: The module whose forward gets `(hidden_states, top_k_index, top_k_weights)`.
        width: Config fields that may hold the neurons per expert, in order of preference.
        shared: Path of the shared expert (an ordinary gated MLP), if the family has one.
        gate: `(experts module, fused output)` → gate pre-activation.
        act: `(experts module, gate pre-activation)` → g.
        up: `(experts module, fused output)` → the factor u.
    """

    path: str = "mlp.experts"
    width: tuple[str, ...] = ("moe_intermediate_size", "intermediate_size")
    shared: str | None = None
    gate: Callable[[Any, Tensor], Tensor] = lambda _, h: h.chunk(2, -1)[0]
    act: Callable[[Any, Tensor], Tensor] = lambda module, gate: module.act_fn(gate)
    up: Callable[[Any, Tensor], Tensor] = lambda _, h: h.chunk(2, -1)[1]


@dataclass(frozen=True)
class Layout:
    """What one model family calls its modules. Paths are relative to the decoder layer.

    Attributes:
        model_type: `config.model_type` of the (text) model.
        layers: Path of the list of layers, relative to `get_decoder()`.
        down: The MLP output projection; its input is `mlp.neuron`.
        gate: What feeds the activation: its sign is the sign of g. `None` if unknown.
        up: The factor that g is multiplied with; `None` in a plain (non-gated) MLP.
        act: The activation: a module path, a name in transformers' `ACT2FN` when the family
            calls a function, or `None` if unknown.
        signed: The activation keeps the sign. If not, g is read at the down projection's input.
        attention: Projections, or `None` if unknown.
        width: Config fields that may hold the MLP width, for modules without size attributes.
        flattened: The MLP sees `[batch * sequence, hidden]`.
        bias: Whether the down projection can carry a bias.
        residual: Whether a constant added by the down projection equals one added after the
            layer: `"yes"`, `"no"`, or the config field of a factor it has to be multiplied with.
        experts: The mixture-of-experts block of sparse layers.
        head_bypass: The LM head calls the decoder directly, past hooks on `base_model`.
        note: Shown in the table of families.
    """

    model_type: str
    layers: str = "layers"
    down: str = "mlp.down_proj"
    gate: Part | None = Part("mlp.gate_proj")
    up: Part | None = Part("mlp.up_proj")
    act: str | None = "mlp.act_fn"
    signed: bool = True
    attention: Attention | None = Attention()
    width: tuple[str, ...] = ("intermediate_size",)
    flattened: bool = False
    bias: Bias = Bias()
    residual: str = "yes"
    experts: ExpertLayout | None = None
    head_bypass: bool = False
    note: str = ""

    @property
    def gated(self) -> bool:
        """Whether neurons are a product g * u."""
        return self.up is not None

    def residual_factor(self, config: Any) -> float | None:
        """Return what a down-projection constant is multiplied with on its way to the residual.

        `None` when no constant after the layer is equivalent (a norm follows the MLP).
        """
        if self.residual == "no":
            return None
        return 1.0 if self.residual == "yes" else float(getattr(config, self.residual))


LAYOUTS: Registry[Layout] = Registry("layout", "neuronsteer.models")


def text_config(config: Any) -> Any:
    """Return the config of the language model: the text part of a multimodal one."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def head_dim(config: Any) -> int:
    """Return the size of one attention head."""
    explicit = getattr(config, "head_dim", None)
    return int(explicit or config.hidden_size // config.num_attention_heads)


def thirds(_config: Any, width: int) -> dict[str, Columns]:
    """Return q, k, v as equal thirds: `[q; k; v]`."""
    third = width // 3
    return {name: slice(i * third, (i + 1) * third) for i, name in enumerate("qkv")}


def concatenated(config: Any, width: int) -> dict[str, Columns]:
    """Return q, k, v one after another, with fewer key/value than query heads."""
    kv = config.num_key_value_heads * head_dim(config)
    q = width - 2 * kv
    return {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, width)}


def per_head(config: Any, width: int) -> dict[str, Columns]:
    """Return q, k, v interleaved per head: `[q0, k0, v0, q1, k1, v1, …]`."""
    heads = torch.arange(width).view(config.num_attention_heads, 3, -1)
    return {name: heads[:, i].flatten() for i, name in enumerate("qkv")}


def per_group(config: Any, width: int, groups: int) -> dict[str, Columns]:
    """Return q, k, v interleaved per key/value group: `[q…, k, v, q…, k, v, …]`."""
    table = torch.arange(width).view(groups, -1, head_dim(config))
    return {
        "q": table[:, :-2].flatten(),
        "k": table[:, -2].flatten(),
        "v": table[:, -1].flatten(),
    }
