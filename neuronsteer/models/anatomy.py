"""The anatomy of one concrete model: a layout resolved into taps, one per layer."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from ..errors import LayoutError, ParameterError, did_you_mean
from .hook_point import EXPERTS, INPUT, OUTPUT, SITES, Experts, Tap
from .layout import ExpertLayout, Layout, Part
from .modules import find, in_size, innermost, is_compiled, out_size


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where the neurons of one model are.

    Attributes:
        root: The model to call: unwrapped from PEFT and from `torch.compile`.
        layout: The family's row, or what the shape rule derived.
        source: `"table"` or `"shape rule"`.
        config: Config of the language model (the text part of a multimodal one).
        layers: The decoder layers.
        prefix: Dotted path of the list of layers from `root`.
        wrapped: What was around the root, e.g. `("peft", "torch.compile")`.
    """

    root: PreTrainedModel
    layout: Layout
    source: str
    config: Any
    layers: tuple[nn.Module, ...]
    prefix: str
    wrapped: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Anatomy({type(self.root).__name__}, {self.model_type!r} from the {self.source}, "
            f"{self.num_layers} layers of {self.d_ff} neurons)"
        )

    @property
    def model_type(self) -> str:
        """The language model's `config.model_type`."""
        return str(self.config.model_type)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """Size of the residual stream."""
        return int(self.config.hidden_size)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Number of `mlp.neuron` neurons of each layer."""
        return tuple(tap.width for tap in self.taps("mlp.neuron"))

    @property
    def d_ff(self) -> int:
        """The largest of `widths`."""
        return max(self.widths)

    @property
    def gated(self) -> bool:
        """Whether a neuron is a product g * u."""
        return self.layout.gated

    @functools.cached_property
    def is_moe(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(tap.side == EXPERTS for tap in self.taps("mlp.neuron"))

    @property
    def head_bypass(self) -> bool:
        """Whether the LM head calls the decoder directly, past hooks on `root.base_model`."""
        return self.layout.head_bypass

    @property
    def compiled(self) -> bool:
        """Whether the model, or a part of it, is wrapped by `torch.compile` already."""
        return "torch.compile" in self.wrapped or is_compiled(self.root)

    def decoder(self) -> nn.Module:
        """Return the model without its LM head."""
        return self.root.get_decoder()

    def sites(self) -> list[str]:
        """Return the sites this model has, in the order of `SITES`."""
        always = {"mlp.neuron": True, "mlp.out": True, "resid": True}
        has = {"mlp.act": self.layout.gate is not None, **always}
        attention = self.layout.attention is not None
        return [site for site in SITES if has.get(site, attention)]

    def taps(self, site: str) -> list[Tap]:
        """Return the taps of a site, one per layer that has it, in layer order.

        A reading of `mlp.act` is the gate's *pre-activation*, which has the sign of g;
        `activation` turns it into g.

        Raises:
            ParameterError: If there is no such site.
            LayoutError: If the family does not have it, or the model does not look as it should.
        """
        if site not in SITES:
            raise ParameterError(
                f"Unknown site {site!r}.{did_you_mean(site, SITES)} Sites: {', '.join(SITES)}."
            )
        if site not in self.sites():
            raise LayoutError(
                f"Site {site!r} of model_type {self.model_type!r} is not known: the layout "
                f"({self.source}) has {', '.join(self.sites())}. Register a Layout for the family."
            )
        return list(self._taps[site])

    def gate_taps(self) -> list[Tap]:
        """Return the taps of `mlp.act`: gate pre-activations with the sign of g."""
        return self.taps("mlp.act")

    def up_taps(self) -> list[Tap]:
        """Return taps on u, the other factor of a gated MLP; none for plain families.

        Their `site` is `mlp.act`, whose operations need them: g := g*s + t is steered as
        a*s + t*u at the down projection's input.
        """
        return list(self._taps["up"]) if self.gated else []

    def activation(self, gate: Tensor, layer: int = 0) -> Tensor:
        """Return g for what a tap of `gate_taps()` read in `layer`."""
        layout = self.layout
        tap = self.gate_taps()[layer]
        if tap.experts is not None:
            return tap.experts.act(gate)
        if not layout.signed:
            return gate
        if layout.act is None:
            raise LayoutError(
                f"The activation function of model_type {self.model_type!r} is not known. "
                f"Register a Layout for the family that names it."
            )
        module = find(self.layers[layer], layout.act)
        return (module if module is not None else _function(layout.act))(gate)

    @functools.cached_property
    def _taps(self) -> dict[str, list[Tap]]:
        taps: dict[str, list[Tap]] = {site: [] for site in (*SITES, "up")}
        for index in range(self.num_layers):
            self._mlp(index, taps)
            self._mlp_out(index, taps)
            self._attention(index, taps)
            taps["resid"].append(self._tap("resid", index, "", OUTPUT, self.hidden_size))
        return taps

    def _tap(self, site: str, layer: int, path: str, side: str, width: int, **more: Any) -> Tap:
        module = self._module(layer, path)
        name = ".".join(part for part in (self.prefix, str(layer), path) if part)
        more.setdefault("tensor_width", width)
        return Tap(site, layer, name, module, side, width, **more)

    def _module(self, layer: int, path: str) -> nn.Module:
        module = find(self.layers[layer], path)
        if module is None:
            children = ", ".join(name for name, _ in self.layers[layer].named_children())
            raise LayoutError(
                f"Layer {layer} of model_type {self.model_type!r} has no module {path!r}, which "
                f"its layout ({self.source}) expects; the layer has: {children or 'nothing'}. "
                f"Register a Layout that matches this implementation."
            )
        return module

    def _mlp(self, index: int, taps: dict[str, list[Tap]]) -> None:
        layout = self.layout
        sparse = layout.experts
        if sparse is not None and find(self.layers[index], sparse.path) is not None:
            self._experts(index, sparse, taps)
            return
        flat = layout.flattened
        width = self._width(index, layout.down)
        down = self._tap("mlp.neuron", index, layout.down, INPUT, width, flattened=flat)
        taps["mlp.neuron"].append(down)
        if layout.gate is not None:
            if layout.signed or layout.gated:
                taps["mlp.act"].append(self._part("mlp.act", index, layout.gate, width, flat))
            else:
                # The sign before the activation says nothing: read g itself.
                taps["mlp.act"].append(replace(down, site="mlp.act"))
        if layout.up is not None:
            taps["up"].append(self._part("mlp.act", index, layout.up, width, flat))

    def _mlp_out(self, index: int, taps: dict[str, list[Tap]]) -> None:
        sparse, path, flat = self.layout.experts, self.layout.down, self.layout.flattened
        if sparse is not None and find(self.layers[index], sparse.path) is not None:
            # The block around the experts adds the shared expert; some families have no block.
            path, flat = sparse.path.rpartition(".")[0], False
            if not path:
                return
        # In dense layers not the output of the MLP module: OPT has no such module, and those of
        # BLOOM and MPT add the residual stream. In all others nothing follows the projection.
        taps["mlp.out"].append(
            self._tap("mlp.out", index, path, OUTPUT, self.hidden_size, flattened=flat)
        )

    def _experts(self, index: int, sparse: ExpertLayout, taps: dict[str, list[Tap]]) -> None:
        module = innermost(self._module(index, sparse.path))
        count = getattr(module, "num_experts", None) or self._number(
            ("num_local_experts", "num_experts")
        )
        width = self._number(sparse.width)
        shared: dict[str, list[Tap]] = {"mlp.neuron": [], "mlp.act": [], "up": []}
        if sparse.shared is not None and find(self.layers[index], sparse.shared) is not None:
            # The block hands its shared expert [tokens, hidden] without batch dimension.
            inner = _moved(self.layout, sparse.shared)
            replace(self, layout=inner)._mlp(index, shared)
        for site, found in shared.items():
            experts = Experts(
                module=module,
                num_experts=count,
                expert_width=width,
                shared=found[0] if found else None,
                gate=functools.partial(sparse.gate, module),
                act=functools.partial(sparse.act, module),
                up=functools.partial(sparse.up, module),
            )
            tap = self._tap(
                "mlp.act" if site == "up" else site,
                index,
                sparse.path,
                EXPERTS,
                experts.width,
                tensor_width=width,
                flattened=True,
                experts=experts,
            )
            taps[site].append(replace(tap, module=module))

    def _attention(self, index: int, taps: dict[str, list[Tap]]) -> None:
        attention = self.layout.attention
        # Hybrid families have layers without attention (convolution, state space).
        if attention is None or find(self.layers[index], attention.o) is None:
            return
        paths = {"q": attention.q, "k": attention.k, "v": attention.v, "o": attention.o}
        fused: dict[str, Any] = {}
        total = 0
        if attention.split is not None:
            total = self._out(index, attention.q)
            fused = attention.split(self.config, total)
        for name, path in paths.items():
            site = f"attn.{name}"
            if name not in fused:
                width = self._out(index, path)
                taps[site].append(self._tap(site, index, path, OUTPUT, width))
                continue
            columns = fused[name]
            width = len(range(total)[columns]) if isinstance(columns, slice) else len(columns)
            taps[site].append(
                self._tap(
                    site, index, attention.q, OUTPUT, width, tensor_width=total, columns=columns
                )
            )

    def _part(self, site: str, index: int, part: Part, width: int, flat: bool) -> Tap:
        total = part.tensor_width(width)
        found = out_size(self._module(index, part.path))
        if found not in (None, total):
            raise LayoutError(
                f"{part.path!r} in layer {index} of model_type {self.model_type!r} has {found} "
                f"outputs, expected {total} for an MLP of width {width}. Register a Layout that "
                f"matches this implementation."
            )
        columns = part.columns(width)
        return self._tap(
            site,
            index,
            part.path,
            OUTPUT,
            width,
            tensor_width=total,
            columns=columns,
            flattened=flat,
        )

    def _width(self, index: int, path: str) -> int:
        return in_size(self._module(index, path)) or self._number(self.layout.width)

    def _out(self, index: int, path: str) -> int:
        size = out_size(self._module(index, path))
        if size is None:
            raise LayoutError(
                f"{path!r} in layer {index} of model_type {self.model_type!r} does not tell its "
                f"size (out_features); this kind of linear layer is not supported there."
            )
        return size

    def _number(self, fields: tuple[str, ...]) -> int:
        for field in fields:
            value = getattr(self.config, field, None)
            if isinstance(value, int):
                return value
        raise LayoutError(
            f"The width of the MLP of model_type {self.model_type!r} is unknown: neither the "
            f"modules nor the config fields {', '.join(fields)} tell it."
        )


def _moved(layout: Layout, mlp: str) -> Layout:
    """Return the layout of a shared expert: the dense MLP's names under another path."""

    def move(path: str) -> str:
        return f"{mlp}.{path.rsplit('.', 1)[-1]}"

    return replace(
        layout,
        down=move(layout.down),
        gate=layout.gate and replace(layout.gate, path=move(layout.gate.path)),
        up=layout.up and replace(layout.up, path=move(layout.up.path)),
        experts=None,
        flattened=True,
    )


def _function(name: str) -> Any:
    try:
        return ACT2FN[name]
    except KeyError:
        raise LayoutError(
            f"The activation {name!r} is neither a module of the layer nor a name that "
            f"transformers knows (ACT2FN). Correct the family's Layout."
        ) from None
