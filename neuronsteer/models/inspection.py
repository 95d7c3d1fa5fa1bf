"""From a model to its anatomy: the family's row, else the shape rule, else an error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..errors import LayoutError
from .anatomy import Anatomy
from .layout import LAYOUTS, Layout, text_config
from .modules import find, unwrap
from .probe import ProbeResult, probe_taps
from .shapes import derive


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


def probe(
    model: Any, anatomy: Anatomy | None = None, sites: Iterable[str] | None = None
) -> list[ProbeResult]:
    """Return, per site and layer, whether a hook fires in a one-token forward pass.

    Args:
        model: The model, as for `inspect`.
        anatomy: Its anatomy, if known already.
        sites: Sites to probe; all that the model has by default.
    """
    anatomy = anatomy or inspect(model)
    taps = [tap for site in sites or anatomy.sites() for tap in anatomy.taps(site)]
    return probe_taps(anatomy.root, taps)


def _resolve(
    root: Any, layout: Layout, source: str, config: Any, wrapped: tuple[str, ...]
) -> Anatomy:
    layers, prefix = _layers(root, layout)
    anatomy = Anatomy(root, layout, source, config, tuple(layers), prefix, wrapped)
    # Every path is looked up now, so that a wrong layout is an error here and not at first use.
    anatomy.taps("mlp.neuron")
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
