"""Where the neurons of one concrete model are: its family's layout, resolved into hook points.

The layout is the family's row in the table, or else what the shape rule derives from the model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from ..errors import LayoutError, ParameterError, did_you_mean
from .hook_point import EXPERTS, INPUT, OUTPUT, SITES, Experts, HookPoint
from .layout import LAYOUTS, ExpertLayout, Layout, Part, text_config
from .modules import find, in_size, innermost, is_compiled, out_size, unwrap
from .shapes import derive


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
            f"{self.num_layers} layers of {self.width} neurons)"
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
        return tuple(point.width for point in self.hook_points("mlp.neuron"))

    @property
    def width(self) -> int:
        """The largest of `widths`."""
        return max(self.widths)

    @property
    def gated(self) -> bool:
        """Whether a neuron is a product g * u."""
        return self.layout.gated

    @functools.cached_property
    def is_moe(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(point.side == EXPERTS for point in self.hook_points("mlp.neuron"))

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

    def hook_points(self, site: str) -> list[HookPoint]:
        """Return the hook points of a site, one per layer that has it, in layer order.

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
        return list(self._points[site])

    def up_hook_points(self) -> list[HookPoint]:
        """Return hook points on u, the other factor of a gated MLP; none for plain families.

        Their `site` is `mlp.act`, whose operations need them: g := g*s + t is steered as
        a*s + t*u at the down projection's input.
        """
        return list(self._points["up"]) if self.gated else []

    def activation(self, gate: Tensor, layer: int = 0) -> Tensor:
        """Return g for what was read at the `mlp.act` hook point of `layer`."""
        layout = self.layout
        point = self.hook_points("mlp.act")[layer]
        if point.experts is not None:
            return point.experts.act(gate)
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
    def _points(self) -> dict[str, list[HookPoint]]:
        points: dict[str, list[HookPoint]] = {site: [] for site in (*SITES, "up")}
        for index in range(self.num_layers):
            self._mlp(index, points)
            self._mlp_out(index, points)
            self._attention(index, points)
            points["resid"].append(self._point("resid", index, "", OUTPUT, self.hidden_size))
        return points

    def _point(
        self, site: str, layer: int, path: str, side: str, width: int, **more: Any
    ) -> HookPoint:
        module = self._module(layer, path)
        name = ".".join(part for part in (self.prefix, str(layer), path) if part)
        more.setdefault("tensor_width", width)
        return HookPoint(site, layer, name, module, side, width, **more)

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

    def _mlp(self, index: int, points: dict[str, list[HookPoint]]) -> None:
        layout = self.layout
        sparse = layout.experts
        if sparse is not None and find(self.layers[index], sparse.path) is not None:
            self._experts(index, sparse, points)
            return
        flat = layout.flattened
        width = self._width(index, layout.down)
        down = self._point("mlp.neuron", index, layout.down, INPUT, width, flattened=flat)
        points["mlp.neuron"].append(down)
        if layout.gate is not None:
            if layout.signed or layout.gated:
                points["mlp.act"].append(self._part("mlp.act", index, layout.gate, width, flat))
            else:
                # The sign before the activation says nothing: read g itself.
                points["mlp.act"].append(replace(down, site="mlp.act"))
        if layout.up is not None:
            points["up"].append(self._part("mlp.act", index, layout.up, width, flat))

    def _mlp_out(self, index: int, points: dict[str, list[HookPoint]]) -> None:
        sparse, path, flat = self.layout.experts, self.layout.down, self.layout.flattened
        if sparse is not None and find(self.layers[index], sparse.path) is not None:
            # The block around the experts adds the shared expert; some families have no block.
            path, flat = sparse.path.rpartition(".")[0], False
            if not path:
                return
        # In dense layers not the output of the MLP module: OPT has no such module, and those of
        # BLOOM and MPT add the residual stream. In all others nothing follows the projection.
        points["mlp.out"].append(
            self._point("mlp.out", index, path, OUTPUT, self.hidden_size, flattened=flat)
        )

    def _experts(
        self, index: int, sparse: ExpertLayout, points: dict[str, list[HookPoint]]
    ) -> None:
        module = innermost(self._module(index, sparse.path))
        count = getattr(module, "num_experts", None) or self._number(
            ("num_local_experts", "num_experts")
        )
        width = self._number(sparse.width)
        shared: dict[str, list[HookPoint]] = {"mlp.neuron": [], "mlp.act": [], "up": []}
        if sparse.shared is not None and find(self.layers[index], sparse.shared) is not None:
            # The block passes its shared expert [tokens, hidden] without batch dimension.
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
            point = self._point(
                "mlp.act" if site == "up" else site,
                index,
                sparse.path,
                EXPERTS,
                experts.width,
                tensor_width=width,
                flattened=True,
                experts=experts,
            )
            points[site].append(replace(point, module=module))

    def _attention(self, index: int, points: dict[str, list[HookPoint]]) -> None:
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
                points[site].append(self._point(site, index, path, OUTPUT, width))
                continue
            columns = fused[name]
            width = len(range(total)[columns]) if isinstance(columns, slice) else len(columns)
            points[site].append(
                self._point(
                    site, index, attention.q, OUTPUT, width, tensor_width=total, columns=columns
                )
            )

    def _part(self, site: str, index: int, part: Part, width: int, flat: bool) -> HookPoint:
        total = part.tensor_width(width)
        found = out_size(self._module(index, part.path))
        if found not in (None, total):
            raise LayoutError(
                f"{part.path!r} in layer {index} of model_type {self.model_type!r} has {found} "
                f"outputs, expected {total} for an MLP of width {width}. Register a Layout that "
                f"matches this implementation."
            )
        columns = part.columns(width)
        return self._point(
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
                f"{path!r} in layer {index} of model_type {self.model_type!r} has no "
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
            f"modules nor the config fields {', '.join(fields)} give it."
        )


def inspect(model: Any) -> Anatomy:
    """Return where the neurons of a model are.

    Args:
        model: A causal language model of transformers, bare or wrapped by PEFT or `torch.compile`.
            A multimodal model is inspected through its language model.

    Raises:
        LayoutError: If the neurons cannot be located; the message says why.
    """
    root, wrapped = unwrap(model)
    config = getattr(root, "config", None)
    if not isinstance(root, nn.Module) or config is None or not hasattr(root, "get_decoder"):
        raise LayoutError(
            f"Cannot inspect {type(model).__name__}: it is not a transformers model. "
            f"Pass what AutoModelForCausalLM.from_pretrained returns."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise LayoutError(
            f"{type(root).__name__} (model_type {config.model_type!r}) is an encoder-decoder "
            f"model; neuronsteer works on decoder-only language models."
        )
    config = text_config(config)
    model_type = str(config.model_type)
    row = LAYOUTS.get(model_type) if model_type in LAYOUTS else None
    if row is None:
        return _resolve(root, derive(root, config), "shape rule", config, wrapped)
    try:
        return _resolve(root, row, "table", config, wrapped)
    except LayoutError as error:
        # Custom code may reuse a model_type with other module names.
        try:
            return _resolve(root, derive(root, config), "shape rule", config, wrapped)
        except LayoutError:
            raise error from None


def _resolve(
    root: Any, layout: Layout, source: str, config: Any, wrapped: tuple[str, ...]
) -> Anatomy:
    layers, prefix = _layers(root, layout)
    anatomy = Anatomy(root, layout, source, config, tuple(layers), prefix, wrapped)
    # Every path is looked up now, so that a wrong layout is an error here and not at first use.
    anatomy.hook_points("mlp.neuron")
    return anatomy


def _layers(root: Any, layout: Layout) -> tuple[nn.ModuleList, str]:
    decoder = root.get_decoder()
    nested = decoder.get_decoder() if hasattr(decoder, "get_decoder") else decoder
    for candidate in (decoder, nested, root.base_model):
        layers = find(candidate, layout.layers)
        if isinstance(layers, nn.ModuleList) and len(layers):
            break
    else:
        raise LayoutError(
            f"{type(root).__name__} has no list of decoder layers at {layout.layers!r} of "
            f"{type(decoder).__name__}. Register a Layout that says where they are."
        )
    prefix = next(name for name, module in root.named_modules() if module is layers)
    return layers, prefix


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
