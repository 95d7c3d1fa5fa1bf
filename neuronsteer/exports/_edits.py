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
from ._base_model import Source

PARTS = ("all", "scale", "constant")

#: The gate pre-activation that holds a neuron: all activations are far from 0 there, so that the
#: output weights can be divided by theirs.
HELD_AT = 2.0


@dataclass(frozen=True, eq=False)
class Change:
    """Neurons of one output projection: each `a` becomes `a * scale + shift + u * gain`.

    Attributes:
        tap: The projection, or the block of experts.
        expert: The expert of the block; `None` for an ordinary projection.
        columns: Neurons, int64, within the projection.
        scale: One factor per column.
        shift: One constant per column.
        gain: One factor per column of u, the other factor of a gated neuron: set and add at
            `mlp.act`.
    """

    tap: HookPoint
    expert: int | None
    columns: Tensor
    scale: Tensor
    shift: Tensor
    gain: Tensor

    @property
    def name(self) -> str:
        """Path of the projection's module."""
        return self.tap.name

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.name if self.expert is None else f"{self.name}, expert {self.expert}"

    def dense(self, values: Tensor, fill: float) -> Tensor:
        """Return `[width]` with `values` in the columns and `fill` elsewhere."""
        width = self.tap.width if self.expert is None else self.tap.tensor_width
        return torch.full((width,), fill).index_copy_(0, self.columns, values)


@dataclass(frozen=True, eq=False)
class Recipe:
    """Everything an export writes down.

    Attributes:
        source: The model.
        sets: The neuron sets.
        state: Label, operation and the rest, as steering has them.
        part: What of it is wanted: `"all"`, or only the `"scale"` or the `"constant"` part.
        changes: In layer order.
    """

    source: Source
    sets: tuple[NeuronSet, ...]
    state: State
    part: str
    changes: tuple[Change, ...]

    @property
    def anatomy(self) -> Anatomy:
        """Where the model's neurons are."""
        return self.source.anatomy

    @property
    def model_type(self) -> str:
        """The model family."""
        return self.anatomy.model_type

    @property
    def scales(self) -> bool:
        """Whether any neuron is multiplied."""
        return any(bool((change.scale != 1).any()) for change in self.changes)

    @property
    def shifts(self) -> bool:
        """Whether any neuron gets a constant."""
        return any(bool(change.shift.any()) for change in self.changes)

    @property
    def gains(self) -> bool:
        """Whether any gate activation gets a constant."""
        return any(bool(change.gain.any()) for change in self.changes)

    @property
    def in_experts(self) -> Change | None:
        """The first change inside a routed expert, if there is one."""
        return next((change for change in self.changes if change.expert is not None), None)

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

    def hold(self, change: Change) -> float:
        """Return the gate activation of neurons that `gain` holds, where only scale 0 is exact.

        A neuron whose gate is held at g contributes `g * u`: the same as a gate held anywhere else
        with output weights multiplied accordingly. So every g is possible, also those that the
        activation never takes.
        """
        mixed = change.columns[(change.gain != 0) & (change.scale != 0)]
        if len(mixed):
            raise ParameterError(
                f"{change.where}, neuron {int(mixed[0])}: a constant is added to the gate "
                "activation (site 'mlp.act') on top of its own value, which no edit of weights "
                "expresses. Export 'set' at full strength, or 'add' at 'mlp.neuron'; hooks do all."
            )
        pre = torch.tensor([HELD_AT])
        return float(self.anatomy.activation(pre, change.tap.layer))

    def factor(self, change: Change) -> Tensor:
        """Return what each column of the output weights is multiplied with."""
        if not bool(change.gain.any()):
            return change.scale
        return torch.where(change.gain != 0, change.gain / self.hold(change), change.scale)

    def gate(self, change: Change) -> tuple[str, Tensor]:
        """Return the module that feeds the gate of `change`, and its rows for held neurons."""
        tap = {tap.layer: tap for tap in self.anatomy.hook_points("mlp.act")}[change.tap.layer]
        if tap.experts is not None:
            if change.expert is not None or tap.experts.shared is None:
                raise ParameterError(
                    f"{change.where}: 'set' at 'mlp.act' inside experts cannot be exported. Use "
                    "'set' at 'mlp.neuron' where the export allows it, or hooks."
                )
            tap = tap.experts.shared
        rows = change.columns[change.gain != 0]
        if isinstance(tap.columns, slice):
            rows = (tap.columns.start or 0) + rows * (tap.columns.step or 1)
        return tap.name, rows


def compile_recipe(
    source: Source, sets: Sequence[NeuronSet], state: State, part: str = "all"
) -> Recipe:
    """Return what `state` does to the model of `source`.

    Raises:
        ParameterError: If it does nothing, or neurons are not in the MLP.
        MismatchError: If a set was made for another model.
    """
    anatomy = source.anatomy
    taps = {tap.layer: tap for tap in anatomy.hook_points("mlp.neuron")}
    for each in sets:
        if steered_site(each.site) != "mlp.neuron":
            raise ParameterError(
                f"Exports change MLP neurons, and this set's neurons live at {each.site!r}. "
                "Attention and residual sites are steered with hooks only."
            )
        each.check_model(anatomy.model_type, anatomy.num_layers, anatomy.widths)
    if part not in PARTS:
        raise ParameterError(f"part={part!r}: expected one of {', '.join(PARTS)}.")
    compiler = Compiler(
        sets, anatomy.gated, {("mlp.neuron", layer): tap.width for layer, tap in taps.items()}
    )
    compiled = compiler.compile(state)
    changes: list[Change] = []
    for (_, layer), row in sorted(compiled.items()):
        changes += _split(taps[layer], row)
    changes = [each for change in changes if (each := _only(change, part)) is not None]
    if not changes:
        raise ParameterError(
            "There is nothing to export: the operation leaves every neuron as it is"
            + (f" in its {part} part." if part != "all" else " (strength 0, factor 1?).")
        )
    return Recipe(source, tuple(sets), state, part, tuple(changes))


def _split(tap: HookPoint, row: SparseRow) -> list[Change]:
    """Return one change per projection: a block of experts has one per expert."""
    gain = torch.zeros_like(row.shift) if row.gain is None else row.gain
    columns = row.columns.to(torch.int64)
    if tap.experts is None:
        return [Change(tap, None, columns, row.scale, row.shift, gain)]
    routed = tap.experts.num_experts * tap.experts.expert_width
    owner = torch.where(
        columns < routed, columns // tap.experts.expert_width, tap.experts.num_experts
    )
    found: list[Change] = []
    for expert in owner.unique().tolist():
        here = owner == expert
        local = columns[here] - expert * tap.experts.expert_width
        parts = (local, row.scale[here], row.shift[here], gain[here])
        if expert == tap.experts.num_experts:
            shared = tap.experts.shared
            assert shared is not None  # the flat index ended there otherwise
            found.append(Change(replace(shared, layer=tap.layer), None, *parts))
        else:
            found.append(Change(tap, int(expert), *parts))
    return found


def _only(change: Change, part: str) -> Change | None:
    if part != "all" and bool(change.gain.any()):
        raise ParameterError(
            "An operation at 'mlp.act' cannot be split into a scale and a constant part; "
            "use site 'mlp.neuron', or part='all'."
        )
    scale = change.scale if part != "constant" else torch.ones_like(change.scale)
    shift = change.shift if part != "scale" else torch.zeros_like(change.shift)
    keep = (scale != 1) | (shift != 0) | (change.gain != 0)
    if not bool(keep.any()):
        return None
    return Change(
        change.tap, change.expert, change.columns[keep], scale[keep], shift[keep], change.gain[keep]
    )
