"""What an export has to express: per output projection, which inputs change and how.

Compiled by the same code as steering with hooks, so both can only agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ParameterError
from ..models import Anatomy, HookPoint
from ..neuron_set import NeuronSet
from ..steering.attachment import steered_site
from ..steering.compile import Compiler, State
from ..steering.tables import SparseRow
from ._base_model import BaseModel

PARTS = ("all", "scale", "constant")

#: The gate pre-activation at which gates are pinned: all activation functions are far from 0 there,
#: so that the output weights can be divided by their value.
PINNED_GATE_INPUT = 2.0


@dataclass(frozen=True, eq=False)
class ProjectionEdit:
    """Neurons of one output projection: each `a` becomes `a * scale + shift + u * gain`.

    Attributes:
        point: The projection, or the block of experts.
        expert: The expert of the block; `None` for an ordinary projection.
        columns: Neurons, int64, within the projection.
        scale: One factor per column.
        shift: One constant per column.
        gain: One factor per column of u, the other factor of a gated neuron: set and add at
            `mlp.act`.
    """

    point: HookPoint
    expert: int | None
    columns: Tensor
    scale: Tensor
    shift: Tensor
    gain: Tensor

    @property
    def name(self) -> str:
        """Path of the projection's module."""
        return self.point.name

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.name if self.expert is None else f"{self.name}, expert {self.expert}"

    def dense(self, values: Tensor, fill: float) -> Tensor:
        """Return `[width]` with `values` in the columns and `fill` elsewhere."""
        width = self.point.width if self.expert is None else self.point.tensor_width
        return torch.full((width,), fill).index_copy_(0, self.columns, values)


@dataclass(frozen=True, eq=False)
class ModelEdit:
    """Everything an export writes down.

    Attributes:
        base: The model.
        sets: The neuron sets.
        state: Label, operation and the rest, as steering has them.
        part: What of it is wanted: `"all"`, or only the `"scale"` or the `"constant"` part.
        projections: What changes in each, in layer order.
    """

    base: BaseModel
    sets: tuple[NeuronSet, ...]
    state: State
    part: str
    projections: tuple[ProjectionEdit, ...]

    @property
    def anatomy(self) -> Anatomy:
        """Where the model's neurons are."""
        return self.base.anatomy

    @property
    def model_type(self) -> str:
        """The model family."""
        return self.anatomy.model_type

    @property
    def scales(self) -> bool:
        """Whether any neuron is multiplied."""
        return any(bool((projection.scale != 1).any()) for projection in self.projections)

    @property
    def shifts(self) -> bool:
        """Whether any neuron gets a constant."""
        return any(bool(projection.shift.any()) for projection in self.projections)

    @property
    def gains(self) -> bool:
        """Whether any gate activation gets a constant."""
        return any(bool(projection.gain.any()) for projection in self.projections)

    @property
    def in_experts(self) -> ProjectionEdit | None:
        """The first edit inside a routed expert, if there is one."""
        return next(
            (projection for projection in self.projections if projection.expert is not None), None
        )

    @property
    def text(self) -> str:
        """What is done, in words."""
        state = self.state
        parts: list[str] = []
        if state.away_from:
            by = state.away.name if state.away else "zero"
            parts.append(f"{by} the neurons of {', '.join(state.away_from)}")
        if state.label is not None:
            default = self.sets[0].operation.get("name", "zero")
            name = state.operation.name if state.operation else default
            part = f"{name} the neurons of {state.label}"
            parts.append(part + (f" (strength {state.strength:g})" if state.strength != 1 else ""))
        only = "" if self.part == "all" else f" (only the {self.part} part)"
        return ", then ".join(parts) + only

    def pinned_gate(self, projection: ProjectionEdit) -> float:
        """Return the gate activation of neurons that `gain` pins, where only scale 0 is exact.

        A neuron whose gate is pinned at g adds `g * u`: the same as a gate pinned anywhere else
        with output weights multiplied accordingly. So every g is possible, also those that the
        activation never takes.
        """
        mixed = projection.columns[(projection.gain != 0) & (projection.scale != 0)]
        if len(mixed):
            raise ParameterError(
                f"{projection.where}, neuron {int(mixed[0])}: a constant is added to the gate "
                "activation (site 'mlp.act') on top of its own value, which no edit of weights "
                "expresses. Export 'set' at full strength, or 'add' at 'mlp.neuron', or steer with "
                "hooks."
            )
        pre = torch.tensor([PINNED_GATE_INPUT])
        return float(self.anatomy.activation(pre, projection.point.layer))

    def output_factor(self, projection: ProjectionEdit) -> Tensor:
        """Return what each column of the output weights is multiplied with."""
        if not bool(projection.gain.any()):
            return projection.scale
        return torch.where(
            projection.gain != 0, projection.gain / self.pinned_gate(projection), projection.scale
        )

    def gate_rows(self, projection: ProjectionEdit) -> tuple[str, Tensor]:
        """Return the module that feeds the gate, and its rows for pinned neurons."""
        point = {point.layer: point for point in self.anatomy.hook_points("mlp.act")}[
            projection.point.layer
        ]
        if point.experts is not None:
            if projection.expert is not None or point.experts.shared is None:
                raise ParameterError(
                    f"{projection.where}: 'set' at 'mlp.act' inside experts cannot be exported. "
                    "Use 'set' at 'mlp.neuron' where the export allows it, or hooks."
                )
            point = point.experts.shared
        rows = projection.columns[projection.gain != 0]
        if isinstance(point.columns, slice):
            rows = (point.columns.start or 0) + rows * (point.columns.step or 1)
        return point.name, rows


def compile_edit(
    base: BaseModel, sets: Sequence[NeuronSet], state: State, part: str = "all"
) -> ModelEdit:
    """Return what `state` does to the base model.

    Raises:
        ParameterError: If it does nothing, or neurons are not in the MLP.
        MismatchError: If a set was made for another model.
    """
    anatomy = base.anatomy
    points = {point.layer: point for point in anatomy.hook_points("mlp.neuron")}
    for each in sets:
        if steered_site(each.site) != "mlp.neuron":
            raise ParameterError(
                f"Exports change MLP neurons, and this set's neurons are at {each.site!r}. "
                "Attention and residual sites are steered with hooks only."
            )
        each.check_model(anatomy.model_type, anatomy.num_layers, anatomy.widths)
    if part not in PARTS:
        raise ParameterError(f"part={part!r}: expected one of {', '.join(PARTS)}.")
    compiler = Compiler(
        sets, anatomy.gated, {("mlp.neuron", layer): point.width for layer, point in points.items()}
    )
    compiled = compiler.compile(state)
    found: list[ProjectionEdit] = []
    for (_, layer), row in sorted(compiled.items()):
        found += _split(points[layer], row)
    edits = [each for projection in found if (each := _only(projection, part)) is not None]
    if not edits:
        raise ParameterError(
            "There is nothing to export: the operation leaves every neuron as it is"
            + (f" in its {part} part." if part != "all" else " (strength 0, factor 1?).")
        )
    return ModelEdit(base, tuple(sets), state, part, tuple(edits))


def _split(point: HookPoint, row: SparseRow) -> list[ProjectionEdit]:
    """Return one edit per projection: a block of experts has one per expert."""
    gain = torch.zeros_like(row.shift) if row.gain is None else row.gain
    columns = row.columns.to(torch.int64)
    if point.experts is None:
        return [ProjectionEdit(point, None, columns, row.scale, row.shift, gain)]
    routed = point.experts.num_experts * point.experts.expert_width
    owner = torch.where(
        columns < routed, columns // point.experts.expert_width, point.experts.num_experts
    )
    found: list[ProjectionEdit] = []
    for expert in owner.unique().tolist():
        here = owner == expert
        local = columns[here] - expert * point.experts.expert_width
        parts = (local, row.scale[here], row.shift[here], gain[here])
        if expert == point.experts.num_experts:
            shared = point.experts.shared
            assert shared is not None  # the flat index ended there otherwise
            found.append(ProjectionEdit(replace(shared, layer=point.layer), None, *parts))
        else:
            found.append(ProjectionEdit(point, int(expert), *parts))
    return found


def _only(projection: ProjectionEdit, part: str) -> ProjectionEdit | None:
    if part != "all" and bool(projection.gain.any()):
        raise ParameterError(
            "An operation at 'mlp.act' cannot be split into a scale and a constant part; "
            "use site 'mlp.neuron', or part='all'."
        )
    scale = projection.scale if part != "constant" else torch.ones_like(projection.scale)
    shift = projection.shift if part != "scale" else torch.zeros_like(projection.shift)
    keep = (scale != 1) | (shift != 0) | (projection.gain != 0)
    if not bool(keep.any()):
        return None
    return ProjectionEdit(
        projection.point,
        projection.expert,
        projection.columns[keep],
        scale[keep],
        shift[keep],
        projection.gain[keep],
    )
