"""Relevance: how much of the model's predictions a unit carries, by its gradient."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from . import METERS, Meter, documents


@METERS.register("relevance")
class Relevance(Meter):
    """Value times gradient, summed over a document's counted tokens.

    The gradient is that of the mean logit of the document's own next tokens. For a linear layer
    this is what layer-wise relevance propagation with the epsilon rule assigns. One backward pass
    serves all units of all layers and all documents of a batch; no gradient of a weight is
    computed.
    """

    name = "relevance"
    gradient = True

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        super().__init__(anatomy, site)
        self._held: dict[int, Tensor] = {}

    def entries(self) -> list[tuple[HookPoint, Callback]]:
        """Return taps on whole tensors: a gradient flows through those, not through views."""
        return [(_whole(tap), self._keep(tap.layer)) for tap in self.taps]

    def _keep(self, layer: int) -> Callback:
        def keep(values: Tensor) -> None:
            self._held[layer] = values

        return keep

    @contextmanager
    def prepared(self) -> Generator[None, None, None]:
        """Let gradients begin at the embeddings, and at no other weight."""
        root = self.anatomy.root
        embeddings = list(root.get_input_embeddings().parameters())
        wanted = [(p, p.requires_grad) for p in root.parameters()]
        try:
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            for parameter in embeddings:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                yield
        finally:
            for parameter, before in wanted:
                parameter.requires_grad_(before)
            self.drop()

    def finish(self, hidden: Tensor) -> None:
        """Run the backward pass and hand the numbers out."""
        held, self._held = self._held, {}
        layers = list(held)
        total = self._logits(hidden).sum()
        # The graph may serve another meter; it goes with the decoder's output.
        gradients: Any = torch.autograd.grad(
            total, [held[layer] for layer in layers], retain_graph=True, allow_unused=True
        )
        taps = {tap.layer: tap for tap in self.taps}
        for layer, gradient in zip(layers, gradients, strict=True):
            values, tap = held[layer].detach(), taps[layer]
            slope = torch.zeros_like(values) if gradient is None else gradient
            self.emit(layer, self.scores(layer, tap.read(values), tap.read(slope)))

    def scores(self, layer: int, values: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG002
        """Return value times gradient, summed over the counted tokens, `[texts, width]`."""
        shaped, weight = documents(values, self.current())
        slopes, _ = documents(slope, self.current())
        return (shaped * slopes * weight[..., None]).sum(1)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return each document's mean logit of its counted tokens, `[texts]`.

        Constant factors of the logits, and soft caps, are left out: they change no document's
        ranking of its units.
        """
        current = self.current()
        weight = current.weight_on(hidden.device)[: current.real, 1:]
        targets = current.ids[: current.real, 1:].to(hidden.device)
        states = hidden[: current.real, :-1]
        head: Any = self.anatomy.root.get_output_embeddings()
        if type(head) is nn.Linear and head.weight.dtype == states.dtype:
            weights, bias = head.weight, getattr(head, "bias", None)
            # Only the rows that are asked for: all logits of all tokens would not fit.
            rows = weights[targets]
            logits = (states.float() * rows.float()).sum(-1)
            if bias is not None:
                logits = logits + bias[targets].float()
        else:
            logits = head(states).float().gather(-1, targets[..., None])[..., 0]
        return (logits * weight).sum(1) / weight.sum(1).clamp(min=1)

    def drop(self) -> None:
        """Forget the running batch."""
        self._held.clear()


def _whole(tap: HookPoint) -> HookPoint:
    return replace(tap, columns=None, width=tap.tensor_width)
