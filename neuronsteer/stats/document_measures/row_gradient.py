"""What the CRANE paper's code takes for a unit's relevance: the summed gradient of a weight row."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...errors import LayoutError
from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from . import METERS, documents
from .relevance import Relevance


@METERS.register("row_gradient")
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
            self.taps = (
                anatomy.up_hook_points() if anatomy.gated else anatomy.hook_points("mlp.act")
            )
        if site not in ("mlp.neuron", "mlp.act") or self.taps[0].side == "input":
            raise LayoutError(
                f"'row_gradient' is about rows of an MLP's first projection; it exists at "
                f"'mlp.neuron' and 'mlp.act', not at {site!r} of {anatomy.model_type!r}."
            )
        self._inputs: dict[int, Tensor] = {}

    def entries(self) -> list[tuple[HookPoint, Callback]]:
        """Return taps on the projections' outputs and inputs."""
        found = super().entries()
        return found + [(_before(tap), self._sum(tap.layer)) for tap in self.taps]

    def _sum(self, layer: int) -> Callback:
        def read(values: Tensor) -> None:
            self._inputs[layer] = values.detach().float().sum(-1, keepdim=True)

        return read

    def scores(self, layer: int, values: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG002
        """Return the summed gradient of each row, `[texts, width]`."""
        slopes, _ = documents(slope, self.current())
        inputs, _ = documents(self._inputs.pop(layer), self.current())
        return (slopes * inputs).sum(1)

    def drop(self) -> None:
        """Forget the running batch."""
        super().drop()
        self._inputs.clear()


def _before(tap: HookPoint) -> HookPoint:
    return replace(tap, side="input", columns=None)
