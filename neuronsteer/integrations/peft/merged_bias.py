"""What becomes of the biases that merging gives a model: declared in its config, or not saved.

A shift before a projection without a bias merges into a new bias. A checkpoint stores it, but
`from_pretrained` builds the model from its config, and drops what the config does not mention.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ...errors import LayoutError
from ...models import inspect
from ...models.layout import text_config


def keep_biases(model: Any, names: Sequence[str]) -> None:
    """Make a saved copy of `model` keep the biases of the modules `names`, or refuse to save it."""
    # Other models are saved whole, or by code of their own.
    if names and isinstance(model, PreTrainedModel) and not _declare(model):
        cast(Any, model).save_pretrained = functools.partial(
            _refuse, type(model).__name__, tuple(names)
        )
        warnings.warn(
            f"Merging gave {len(names)} layers a bias that no config of {type(model).__name__} can "
            f"declare (first: {names[0]}). The model is right in memory, but cannot be saved.",
            stacklevel=4,
        )


def _declare(model: PreTrainedModel) -> bool:
    """Let the config say that there are biases, those that it creates besides being zero."""
    try:
        bias = inspect(model).layout.bias
    except LayoutError:
        return False
    if bias.when != "config":
        return False
    config = copy.deepcopy(model.config)
    setattr(text_config(config), str(bias.field), bias.value)
    with torch.device("meta"):
        after = {key: value.shape for key, value in type(model)(config).named_parameters()}
    before = {key: value.shape for key, value in model.named_parameters()}
    if any(after.get(key) != shape for key, shape in before.items()):
        return False
    for key in after.keys() - before.keys():
        module = cast(Any, model.get_submodule(key.rpartition(".")[0]))
        zeros = torch.zeros(after[key], dtype=module.weight.dtype, device=module.weight.device)
        module.bias = nn.Parameter(zeros, requires_grad=False)
    setattr(text_config(model.config), str(bias.field), bias.value)
    return True


def _refuse(kind: str, names: Sequence[str], *_args: Any, **_kwargs: Any) -> None:
    raise LayoutError(
        f"Merging gave {len(names)} layers of this {kind} a bias (first: {names[0]}), which a "
        "saved copy would lose on loading, without an error. Save the adapter before merging, or "
        "use `neuronsteer bake` or `neuronsteer export --format lora`, which find another form."
    )
