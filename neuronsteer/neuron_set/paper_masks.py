"""Import of the masks that papers publish: neuron indices per language and layer, saved by torch.

Such files name neither languages nor model, so both are given by the caller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ArtifactError, LabelError, ParameterError, shown
from ..hub import fetch, public_name
from .neuron_set import NeuronSet
from .torch_files import read_torch_file
from .validation import MOST

# Names that model configurations use for the width of the MLP.
_WIDTH_FIELDS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff")
# Families whose configuration leaves the width out when it is four times the hidden size.
_FOURFOLD = ("bloom", "codegen", "gpt2", "gpt_bigcode", "gpt_neo", "gptj")


def load_mask(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    *,
    num_layers: int | None = None,
    width: int | None = None,
    model_type: str | None = None,
    base_model: str | None = None,
) -> NeuronSet:
    """Return the neuron set in a mask file of LAPE and the works that copied its format.

    Understood are, for each label, one entry per layer: a list of integer tensors (neuron indices)
    or of boolean tensors (one entry per neuron); the same for one label only; a boolean tensor
    `[labels, layers, width]` or `[layers, width]`; and a dictionary from label to any of these.

    Args:
        path: The `.pth` or `.pt` file.
        labels: Names in the order of the file. For a dictionary: the keys to take, in this order.
        num_layers: Number of layers, checked against the file.
        width: Number of neurons per layer. Boolean masks show it; for indices it must come from
            here or from the configuration of `base_model`.
        model_type: Model family, e.g. `llama`; default: that of `base_model`.
        base_model: Hub id or path of the model the mask is for.

    Raises:
        ArtifactError: If the file is not such a mask; the message says what was found.
        LabelError: If the number of labels differs from the number of masks in the file.
    """
    name = Path(path).name
    if isinstance(labels, str):
        raise ParameterError(f"labels={labels!r}: expected a list of names, e.g. ['en', 'zh'].")
    content = read_torch_file(path, "a mask file (.pth or .pt)", ArtifactError)
    per_label = _split(content, list(labels), name)
    masks = [_layers(mask, f"{name}: label {label!r}") for label, mask in per_label.items()]
    depths = {len(layers) for layers in masks}
    if len(depths) > 1 or (num_layers is not None and depths != {num_layers}):
        raise ArtifactError(
            f"{name}: the masks have {', '.join(map(str, sorted(depths)))} layers; expected "
            f"{'the same number for every label' if num_layers is None else num_layers}."
        )
    if max(depths) > MOST["num_layers"]:
        raise ArtifactError(
            f"{name}: the masks have {max(depths):,} layers; expected at most "
            f"{MOST['num_layers']:,}."
        )
    widths = {len(t) for layers in masks for t in layers if t.dtype == torch.bool}
    if len(widths) > 1:
        raise ArtifactError(f"{name}: boolean masks of different widths {sorted(widths)}.")
    if base_model is not None and (model_type is None or (width is None and not widths)):
        found_type, found_width = _configuration(base_model)
        model_type = model_type or found_type
        width = width or (None if widths else found_width)
    if widths:
        found = widths.pop()
        if width not in (None, found):
            raise ArtifactError(
                f"{name}: boolean masks of width {found}, but width={width} was expected. Masks of "
                "the hidden size do not select FFN neurons."
            )
        width = found
    if width is None:
        raise ParameterError(
            f"{name} holds neuron indices, which do not say how wide a layer is. Give it "
            "with width=, or base_model= to read it off that model's configuration."
        )
    label, layer, index = _no_rows(), _no_rows(), _no_rows()
    for position, layers in enumerate(masks):
        for depth, mask in enumerate(layers):
            neurons = mask.nonzero().flatten() if mask.dtype == torch.bool else mask.long()
            label.append(torch.full_like(neurons, position))
            layer.append(torch.full_like(neurons, depth))
            index.append(neurons)
    try:
        return NeuronSet.from_rows(
            list(per_label),
            torch.cat(label),
            torch.cat(layer),
            torch.cat(index),
            site="mlp.act",
            num_layers=depths.pop(),
            width=width,
            model_type=model_type,
            base_model=public_name(base_model),
            method={"name": "imported", "parameters": {"file": name}},
        )
    except ArtifactError as error:
        raise type(error)(f"{name}: {error}") from error


def _no_rows() -> list[torch.Tensor]:
    return [torch.empty(0, dtype=torch.int64)]


def _split(content: Any, labels: list[str], name: str) -> dict[str, Any]:
    """Return one mask per label."""
    if isinstance(content, Mapping):
        found = {str(key): mask for key, mask in content.items()}
        unknown = [label for label in labels if label not in found]
        if unknown:
            raise LabelError(
                f"{name} names its masks {', '.join(found)[:200]}, and none is {unknown[0]!r}."
            )
        return {label: found[label] for label in labels}
    if not isinstance(content, Sequence | torch.Tensor) or isinstance(content, str):
        raise ArtifactError(
            f"{name} holds a {type(content).__name__}; expected a list of labels, each a list of "
            "layers, each a tensor of neuron indices."
        )
    # One label was saved without the outer list: its entries are layers already.
    single = content.ndim == 2 if isinstance(content, torch.Tensor) else _is_layers(content)
    masks: list[Any] = [content] if single else list(content)
    if len(masks) != len(labels):
        raise LabelError(
            f"{name} holds masks of {len(masks)} label{'s' if len(masks) != 1 else ''}, but "
            f"{len(labels)} {'were' if len(labels) != 1 else 'was'} named ({', '.join(labels)}). "
            "Names are matched by position, so give exactly one per mask. (Files of some papers "
            "drop trailing languages that have no neurons.)"
        )
    return dict(zip(labels, masks, strict=True))


def _is_layers(content: Sequence[Any]) -> bool:
    return bool(content) and all(
        isinstance(item, torch.Tensor) and item.ndim == 1 for item in content
    )


def _layers(mask: Any, where: str) -> list[torch.Tensor]:
    """Return one 1-D tensor per layer, boolean or integer."""
    if isinstance(mask, Mapping):
        mask = _by_layer(mask, where)
    if isinstance(mask, torch.Tensor) and mask.ndim != 2:
        raise ArtifactError(f"{where}: shape {list(mask.shape)}; expected [layers, width].")
    if not isinstance(mask, Sequence | torch.Tensor) or isinstance(mask, str) or not len(mask):
        raise ArtifactError(f"{where}: found {type(mask).__name__}; expected a list of layers.")
    if isinstance(mask, torch.Tensor) and mask.dtype != torch.bool:
        raise ArtifactError(
            f"{where}: a {mask.dtype} tensor [layers, width] may hold indices or flags; expected "
            "a boolean one."
        )
    layers: list[torch.Tensor] = []
    for depth, item in enumerate(mask):
        entry: Any = item
        if isinstance(entry, list) and all(type(i) is int for i in entry):
            entry = torch.tensor(entry, dtype=torch.int64)
        tensor: Any = entry
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 1:
            kind = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(entry).__name__
            raise ArtifactError(f"{where}, layer {depth}: found {kind}; expected a 1-D tensor.")
        if tensor.is_floating_point() and len(tensor):
            raise ArtifactError(
                f"{where}, layer {depth}: dtype {tensor.dtype}; expected integers (neuron "
                "indices) or booleans."
            )
        layers.append(tensor.long() if tensor.is_floating_point() else tensor)
    return layers


def _by_layer(mask: Mapping[Any, Any], where: str) -> list[Any]:
    """Return `{layer: indices}` as a list."""
    if not mask or not all(str(key).isdecimal() for key in mask):
        raise ArtifactError(f"{where}: a dictionary whose keys are not layer numbers.")
    by_layer = {int(key): item for key, item in mask.items()}
    if set(by_layer) != set(range(len(by_layer))):
        raise ArtifactError(
            f"{where}: layers {shown(sorted(by_layer))} only; expected every layer from 0 on (an "
            "empty tensor where a layer has no neurons)."
        )
    return [by_layer[depth] for depth in range(len(by_layer))]


def _configuration(base_model: str) -> tuple[str | None, int | None]:
    """Return model type and MLP width from the configuration of a model."""
    from transformers import AutoConfig

    try:
        folder = fetch(base_model, filenames=["config.json"], ownerless=True)
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(
            f"The configuration of {base_model!r} cannot be read ({reason}). Give "
            "width= and model_type= instead."
        ) from error
    sizes = [getattr(config, field, None) for field in _WIDTH_FIELDS]
    width = next((size for size in sizes if isinstance(size, int)), None)
    if width is None and config.model_type in _FOURFOLD:
        width = 4 * int(config.hidden_size)
    return config.model_type, width
