"""Attribution: how far a unit of a neuron pushes the logits of a text's own tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LayoutError, ParameterError
from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from ..weight_norms import images
from . import DOCUMENT_MEASURES, DocumentMeasure


@DOCUMENT_MEASURES.register("attribution")
class Attribution(DocumentMeasure):
    """The neuron's column of the down projection times the unembedding rows of a text's tokens.

    The direct path only: what the final norm's gain and the unembedding make of the column, summed
    over the counted tokens of the text. What later layers do with it is left out, and so is the
    norm's division, which scales all neurons alike. A sum, so that divided by the tokens it is the
    mean over the label's token frequencies.
    """

    name = "attribution"

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        if site != "mlp.neuron":
            raise ParameterError(
                f"'attribution' is about a neuron's column of the MLP's output projection; it is "
                f"there at 'mlp.neuron', not at {site!r}."
            )
        super().__init__(anatomy, site)
        head: Any = anatomy.root.get_output_embeddings()
        weight = getattr(head, "weight", None)
        if not isinstance(weight, Tensor) or weight.shape[-1] != anatomy.hidden_size:
            raise LayoutError(
                f"The output embeddings of a {type(anatomy.root).__name__} are not rows of the "
                f"residual stream's {anatomy.hidden_size} coordinates, so a neuron's direct effect "
                "on logits is not known. Use attribution='norm'."
            )
        self._rows: Tensor = weight
        self._gain = _gain(anatomy)
        self._columns: dict[int, Tensor] = {}
        self._batch: tuple[Tensor, Tensor] | None = None

    def callbacks(self) -> list[tuple[HookPoint, Callback]]:
        """Return the neurons' hook points: where a layer computes, its columns are available."""
        return [(point, self._measure(point)) for point in self.points]

    def _measure(self, point: HookPoint) -> Callback:
        def measure(_values: Tensor) -> None:
            module: Any = point.module
            towards = self._towards()
            weight = module.weight if type(module) is nn.Linear else None
            if weight is None or not weight.is_floating_point() or weight.is_meta:
                if point.layer not in self._columns:
                    self._columns[point.layer] = images(
                        point, point.width, self.anatomy.root.dtype
                    ).T
                weight = self._columns[point.layer]
            self.emit(point.layer, towards.to(weight) @ weight.detach())

        return measure

    def _towards(self) -> Tensor:
        """Return, per text, the sum of its tokens' unembedding rows, `[texts, hidden]`."""
        batch = self.batch()
        if self._batch is None or self._batch[0] is not batch.ids:
            weight = batch.weight[: batch.texts]
            ids = batch.ids[: batch.texts].to(self._rows.device)
            found = torch.zeros(len(ids), self._rows.shape[1], device=self._rows.device)
            for row, (tokens, counts) in enumerate(zip(ids, weight, strict=True)):
                kept = tokens[counts.to(tokens.device) > 0]
                found[row] = self._rows.detach()[kept].float().sum(0)
            self._batch = (batch.ids, found * self._gain.to(found))
        return self._batch[1]

    def discard(self) -> None:
        """Forget the running batch."""
        self._batch = None


def _gain(anatomy: Anatomy) -> Tensor:
    """Return what the norm in front of the unembedding multiplies each coordinate with."""
    inside = {id(module) for layer in anatomy.layers for module in layer.modules()}
    norms = [
        module
        for module in anatomy.decoder().modules()
        if id(module) not in inside and "norm" in type(module).__name__.casefold()
    ]
    size = anatomy.hidden_size
    if not norms:
        return torch.ones(size)
    last: Any = norms[-1]
    weight = next(iter(last.parameters()), None)
    # Of mean 0 and length 1 per coordinate, so that nothing but the gain is left, however the
    # family writes it (Gemma adds 1).
    probe = torch.ones(size)
    probe[1::2] = -1
    if weight is not None:
        probe = probe.to(device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        answer = (last.forward(probe[None]) - last.forward(-probe[None])) / 2
    return (answer[0] * probe).float()
