"""Relevance: how much of the model's predictions a unit carries, by its gradient.

Beside it, what the CRANE paper's code takes for it: the summed gradient of a weight row.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LayoutError
from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from . import DOCUMENT_MEASURES, DocumentMeasure, documents


@DOCUMENT_MEASURES.register("relevance")
class Relevance(DocumentMeasure):
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
        self._values: dict[int, Tensor] = {}

    def callbacks(self) -> list[tuple[HookPoint, Callback]]:
        """Return hook points on whole tensors: gradients flow through those, not through views."""
        return [(_whole(point), self._keep(point.layer)) for point in self.points]

    def _keep(self, layer: int) -> Callback:
        def keep(values: Tensor) -> None:
            self._values[layer] = values

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
            self.discard()

    def finish(self, hidden: Tensor) -> None:
        """Run the backward pass and emit the numbers."""
        kept, self._values = self._values, {}
        layers = list(kept)
        total = self._logits(hidden).sum()
        # The graph may serve another measure; it goes with the decoder's output.
        gradients: Any = torch.autograd.grad(
            total, [kept[layer] for layer in layers], retain_graph=True, allow_unused=True
        )
        points = {point.layer: point for point in self.points}
        for layer, gradient in zip(layers, gradients, strict=True):
            values, point = kept[layer].detach(), points[layer]
            slope = torch.zeros_like(values) if gradient is None else gradient
            self.emit(layer, self.scores(layer, point.read(values), point.read(slope)))

    def scores(self, layer: int, values: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG002
        """Return value times gradient, summed over the counted tokens, `[texts, width]`."""
        shaped, weight = documents(values, self.batch())
        slopes, _ = documents(slope, self.batch())
        return (shaped * slopes * weight[..., None]).sum(1)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return each document's mean logit of its counted tokens, `[texts]`.

        Constant factors of the logits, and soft caps, are left out: they change no document's
        ranking of its units.
        """
        batch = self.batch()
        weight = batch.weight_on(hidden.device)[: batch.texts, 1:]
        targets = batch.ids[: batch.texts, 1:].to(hidden.device)
        states = hidden[: batch.texts, :-1]
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

    def discard(self) -> None:
        """Forget the running batch."""
        self._values.clear()


@DOCUMENT_MEASURES.register("row_gradient")
class RowGradient(Relevance):
    """Sum over a weight row of its gradient; no activation is multiplied with it.

    At `mlp.neuron` the row is that of the up projection, at `mlp.act` of the gate. The gradient of
    a row is the sum over tokens of the output's gradient times the input, so its sum needs only
    the output's gradient and the sum of each token's input: no weight's gradient is stored.
    """

    name = "row_gradient"

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        super().__init__(anatomy, site)
        if site == "mlp.neuron":
            self.points = (
                anatomy.up_hook_points() if anatomy.gated else anatomy.hook_points("mlp.act")
            )
        if site not in ("mlp.neuron", "mlp.act") or self.points[0].side == "input":
            raise LayoutError(
                f"'row_gradient' is about rows of an MLP's first projection; it exists at "
                f"'mlp.neuron' and 'mlp.act', not at {site!r} of {anatomy.model_type!r}."
            )
        self._inputs: dict[int, Tensor] = {}

    def callbacks(self) -> list[tuple[HookPoint, Callback]]:
        """Return hook points on the projections' outputs and inputs."""
        found = super().callbacks()
        return found + [(_before(point), self._sum(point.layer)) for point in self.points]

    def _sum(self, layer: int) -> Callback:
        def read(values: Tensor) -> None:
            self._inputs[layer] = values.detach().float().sum(-1, keepdim=True)

        return read

    def scores(self, layer: int, values: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG002
        """Return the summed gradient of each row, `[texts, width]`."""
        slopes, _ = documents(slope, self.batch())
        inputs, _ = documents(self._inputs.pop(layer), self.batch())
        return (slopes * inputs).sum(1)

    def discard(self) -> None:
        """Forget the running batch."""
        super().discard()
        self._inputs.clear()


def _whole(point: HookPoint) -> HookPoint:
    return replace(point, columns=None, width=point.tensor_width)


def _before(point: HookPoint) -> HookPoint:
    return replace(point, side="input", columns=None)
