"""From a hidden state of any layer to logits: what the model itself does after its last layer.

Families name their last norm differently, and some scale or cap their logits. Nothing is guessed:
what is built here is compared with the model's own logits, and refused if they differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayoutError
from ..models import Anatomy

Unembed = Callable[[Tensor], Tensor]


def unembedding(anatomy: Anatomy, hidden: Tensor, logits: Tensor) -> Unembed:
    """Return the function from the residual stream to logits.

    Args:
        anatomy: The model.
        hidden: Output of the last layer, `[positions, hidden]`.
        logits: What the model made of it, float32 `[positions, vocabulary]`.

    Raises:
        LayoutError: If no combination of the modules behind the layers gives these logits.
    """
    head = anatomy.root.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise LayoutError(
            f"A {type(anatomy.root).__name__} has no output embeddings to read hidden states with."
        )
    for norm, project in itertools.product(_norms(anatomy), _projections(anatomy)):

        def unembed(
            state: Tensor, norm: nn.Module | None = norm, project: nn.Module | None = project
        ) -> Tensor:
            for step in (norm, project, head):
                state = step(state) if step is not None else state
            return _adjusted(anatomy.config, state)

        try:
            found = unembed(hidden).float()
        except (RuntimeError, TypeError, ValueError):  # a norm of another width, or of other inputs
            continue
        if found.shape == logits.shape and _same(found, logits):
            return unembed
    raise LayoutError(
        f"The step from the last layer of model_type {anatomy.model_type!r} to its logits is not "
        "known: no norm among its modules, followed by the head, gives the logits of the model. A "
        "logit lens would not show what the model itself computes."
    )


def _norms(anatomy: Anatomy) -> list[nn.Module | None]:
    """Return the norms outside the layers, the last one first; `None` stands for no norm."""
    inside = {id(module) for layer in anatomy.layers for module in layer.modules()}
    found = [
        module
        for module in anatomy.decoder().modules()
        if id(module) not in inside and "norm" in type(module).__name__.casefold()
    ]
    return [*reversed(found), None]


def _projections(anatomy: Anatomy) -> list[nn.Module | None]:
    # Some OPT models are narrower outside their layers.
    found = [
        module
        for name, module in anatomy.decoder().named_modules()
        if name.rpartition(".")[2] == "project_out"
    ]
    return [*found, None]


def _adjusted(config: Any, logits: Tensor) -> Tensor:
    scaling = getattr(config, "logits_scaling", None)  # granite
    if scaling:
        logits = logits / scaling
    scale = getattr(config, "logit_scale", None)  # cohere
    if isinstance(scale, int | float):
        logits = logits * scale
    multiplier = getattr(config, "lm_head_multiplier", None)  # falcon-h1
    if multiplier:
        logits = logits * multiplier
    cap = getattr(config, "final_logit_softcapping", None)  # gemma
    return torch.tanh(logits / cap) * cap if cap else logits


def _same(found: Tensor, logits: Tensor) -> bool:
    # Half precision rounds a head's sums by the shape of the batch.
    spread = float(logits.std()) or 1.0
    precise = float((found - logits).abs().max()) <= 0.05 * spread
    return bool(torch.isfinite(found).all()) and precise
