"""Forward hooks that steer. No other file registers hooks that change activations.

What applies in a forward pass is decided by `generation.py`, once per pass, and left in the
`CurrentPlan` of every steerer: nothing, one row, or rows per position. A hook only looks it up. The
common case, one row for everything, is a single `addcmul`.

Compiled graphs cannot look at Python state. There the hooks index a table with a tensor that holds
the same decision: switching languages changes data, never the graph.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import HookError
from ..models import HookPoint
from ..models.plain_copies import changing_modules, keep_copies_plain, ours, release
from .tables import Row, RowNumbers, SparseRow, Table, View, check_range, view_of

is_compiling = torch.compiler.is_compiling
# Missing in the oldest torch that is supported; there an export is taken for a compilation.
is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)

#: Stands for the row where positions have different ones.
MIXED: Final = Row(None, 0, ())

#: `(first position, end position, row or None, factor)`.
Span = tuple[int, int, "Row | None", float]


@dataclass(eq=False, slots=True)
class Plan:
    """What one steerer does to the positions of one forward pass.

    Attributes:
        row: The row for every position, `None` to leave all alone, or `MIXED`.
        factor: How far to go from untouched to the row, for all positions; beyond 1 it is
            gone further, where a switch begins more strongly.
        batch: Rows of the batch.
        length: Positions per row.
        spans: With `MIXED`: which positions get which row, the same for the whole batch.
        index: Numbers of rows `[batch, length]`, if they are chosen per row of the batch.
        factors: How far to go `[batch, length, 1]`, if that differs between positions.
        held: Whatever must stay alive, so that its numbers in `index` keep their meaning.
        reading: With `MIXED`: takes in the activations of every layer before they are changed;
            without an index they stay as they are.
        steered: How many positions are changed.
        hits: How many layers have been changed so far.
        copies: Index and factors per device.
    """

    row: Row | None
    factor: float = 1.0
    batch: int = 1
    length: int = 1
    spans: list[Span] | None = None
    index: Tensor | None = None
    factors: Tensor | None = None
    held: object = None
    reading: Callable[[int, Tensor], None] | None = None
    steered: int = 0
    hits: int = 0
    copies: dict[torch.device, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def positions_on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return numbers of rows and factors, both per position, on `device`."""
        found = self.copies.get(device)
        if found is None:
            index, factors = self.index, self.factors
            if index is None:
                index, factors = self._spread()
            # Not as inference tensors, which a later backward() could not use.
            with torch.inference_mode(False):
                moved = None if factors is None else factors.to(device)
                found = self.copies[device] = (index.to(device), moved)
        return found

    def _spread(self) -> tuple[Tensor, Tensor | None]:
        number = 0 if self.row is None else self.row.number
        with torch.inference_mode(False):
            index = torch.full((self.batch, self.length), number, dtype=torch.int64)
            factors = torch.ones(self.batch, self.length, 1)
        for first, end, row, factor in self.spans or ():
            index[:, first:end] = 0 if row is None else row.number
            factors[:, first:end] = factor
        return index, None if bool((factors == 1).all()) else factors


class _Local(threading.local):
    # Generations in two threads must not see each other's plan.
    def __init__(self) -> None:
        self.plan: Plan | None = None
        #: Outputs of up projections in this pass, by hook number.
        self.up: dict[int, Tensor] = {}


class CurrentPlan:
    """What the hooks of one steerer read. Only `generation.py` writes it.

    Attributes:
        local: The plan of this thread's forward pass; `None` outside of one.
        outside: Returns the plan for layers that are called outside of any forward pass, or raises.
        index: Numbers of rows for compiled graphs, `[1, 1]` or `[batch, length]`.
        factors: How far to go, for compiled graphs.
        traced: Whether a compiled graph contains these hooks.
        refused: Whether compiled graphs must not run now: nobody could place their positions.
    """

    def __init__(self) -> None:
        self.local = _Local()
        self.outside: Callable[[], Plan] = _nothing
        self.traced = False
        self.refused = False
        with torch.inference_mode(False):
            self._number = torch.zeros(1, 1, dtype=torch.int64)
            self._factor = torch.ones(1, 1, 1)
        self.index, self.factors = self._number, self._factor
        self._shown: tuple[int, float] | None = (0, 1.0)

    def to_device(self, device: torch.device) -> None:
        """Keep what compiled graphs read on `device`."""
        with torch.inference_mode(False):
            self.index = self._number = self._number.to(device)
            self.factors = self._factor = self._factor.to(device)

    def show(self, plan: Plan | None) -> None:
        """Make compiled graphs follow `plan`; `None` makes them refuse to run."""
        self.refused = plan is None
        if plan is None:
            return
        if plan.spans is None and plan.index is None:
            shown = (0 if plan.row is None else plan.row.number, plan.factor)
            if shown != self._shown:
                self._number.fill_(shown[0])
                if self._shown is None or shown[1] != self._shown[1]:
                    self._factor.fill_(shown[1])
                self._shown, self.index, self.factors = shown, self._number, self._factor
            return
        self._shown = None
        self.index, factors = plan.positions_on(self._number.device)
        with torch.inference_mode(False), torch.no_grad():
            self._factor.fill_(1)
        self.factors = self._factor if factors is None else factors


def _nothing() -> Plan:
    return Plan(None)


class LayerHook:
    """One steered layer: where its neurons are, the tables, and counters of what was done.

    Args:
        number: Position among the hooks of the steerer.
        point: Where the neurons are.
        width: How wide the tables are.
        capacity: Rows that fit in them without moving them.
        current: Where to look up which row applies.
        rows: All rows of the steerer.
        lock: Held while tables are built and written.
    """

    def __init__(
        self,
        number: int,
        point: HookPoint,
        width: int,
        capacity: int,
        current: CurrentPlan,
        rows: RowNumbers,
        lock: threading.RLock,
    ) -> None:
        self.number = number
        self.point = point
        self.width = width
        self.calls = 0
        self.positions = 0
        self.fired = False
        self.current = current
        self.local = current.local
        self._flattened = point.flattened
        self._capacity = capacity
        self._rows = rows
        self._lock = lock
        self._tables: dict[tuple[torch.device, torch.dtype], Table] = {}
        #: What compiled graphs index: looked up once, because they cannot look in a dictionary.
        self._traced_table: Table | None = None
        self._traced_up: Tensor | None = None

    @property
    def device(self) -> torch.device | None:
        """Where the activations of this layer were met first."""
        return None if self._traced_table is None else self._traced_table.scale.device

    def change(self, x: Tensor) -> Tensor | None:
        """Return the steered activations, or `None` to leave `x` alone."""
        if is_compiling():
            return self._compiled(x)
        plan = self.local.plan
        if plan is None:
            plan = self.plan_outside(x)
        row = plan.row
        if row is None:
            return None
        if row is MIXED:
            if plan.reading is not None:
                plan.reading(self.number, x)
                if plan.index is None:
                    return None
            found = self._mixed(x, plan)
            self.local.up.pop(self.number, None)
        else:
            view = row.views[self.number]
            if view is None:
                return None
            if not view or view[3] is not x.dtype or view[4] != x.device:
                view = self.view(row, x)
            found = torch.addcmul(view[1], x, view[0])
            if view[2] is not None:
                found = torch.addcmul(found, self._up(x), view[2])
            if plan.factor != 1:
                found = torch.lerp(x, found, plan.factor)
        self.calls += 1
        self.positions += plan.steered
        plan.hits += 1
        return found

    def keep_up(self, up: Tensor) -> None:
        """Remember the up projection's output until this layer's `change`."""
        if is_compiling():
            self._traced_up = up
            return
        plan = self.local.plan
        row = MIXED if plan is None else plan.row
        sparse = None if row is None or row is MIXED else row.layers[self.number]
        if row is MIXED or (sparse is not None and sparse.gain is not None):
            self.local.up[self.number] = up

    def view(self, row: Row, x: Tensor) -> View:
        """Return a row as tensors that fit `x`; made once per dtype and device."""
        sparse = row.layers[self.number]
        if sparse is None:
            raise IndexError(f"Row {row.number} changes nothing here.")
        made = view_of(self._checked(sparse, row.label, x.dtype), self.width, x)
        row.views[self.number] = made
        return made

    def define(self, row: Row) -> None:
        """Write a new row into all tables of this layer; the caller holds the lock."""
        sparse = row.layers[self.number]
        if row.number >= self._capacity:
            self._capacity = max(row.number + 1, 2 * self._capacity)
        for key, table in list(self._tables.items()):
            if sparse is not None:
                self._checked(sparse, row.label, table.scale.dtype)
            gain = sparse is not None and sparse.gain is not None
            if table.capacity < self._capacity or (gain and table.gain is None):
                # Published when it is whole. Compiled graphs notice, and are traced once more.
                larger = table.enlarged(self._capacity, gain)
                larger.write(row.number, sparse)
                self._tables[key] = larger
                if self._traced_table is table:
                    self._traced_table = larger
            else:
                table.write(row.number, sparse)

    def table(self, x: Tensor) -> Table:
        """Return the table that fits `x`; built when a device or dtype is met first."""
        found = self._tables.get((x.device, x.dtype))
        return found if found is not None else self._build(x)

    def prepare(self, x: Tensor) -> None:
        """Note that the layer runs, and build what compiled graphs will need."""
        if not self.fired:
            self._traced_table = self.table(x)
            self.fired = True

    def plan_outside(self, x: Tensor) -> Plan:
        """Return what applies where no forward pass is known: a part of the model alone."""
        self.prepare(x)
        return self.current.outside()

    def _build(self, x: Tensor) -> Table:
        if x.shape[-1] != self.point.tensor_width:
            raise HookError(
                f"The steering tables are {self.point.tensor_width} wide but the activations are "
                f"{x.shape[-1]} wide. A model sharded by tensor parallelism, or a layer replaced "
                "after attach, cannot be steered this way; attach to the unsharded model."
            )
        with self._lock:
            found = self._tables.get((x.device, x.dtype))
            if found is None:
                live = [(row, row.layers[self.number]) for row in self._rows.live()]
                gain = any(sparse is not None and sparse.gain is not None for _, sparse in live)
                found = Table(self._capacity, self.width, x, gain)
                for row, sparse in live:
                    if sparse is not None:
                        self._checked(sparse, row.label, x.dtype)
                        found.write(row.number, sparse)
                self._tables[(x.device, x.dtype)] = found
            return found

    def _checked(self, sparse: SparseRow, label: str | None, dtype: torch.dtype) -> SparseRow:
        check_range(sparse, dtype, label, self.point.layer)
        return sparse

    def _up(self, x: Tensor) -> Tensor:
        if is_compiling():
            found, self._traced_up = self._traced_up, None
        else:
            found = self.local.up.pop(self.number, None)
        if found is None:
            raise HookError(
                f"Steering at 'mlp.act' needs the up projection of layer {self.point.layer}, which "
                "did not run as a module (a fused kernel?). Steer at 'mlp.neuron' instead."
            )
        return found.view_as(x)

    def _mixed(self, x: Tensor, plan: Plan) -> Tensor:
        shape = x.shape
        if self._flattened:
            x = x.view(-1, plan.length, shape[-1])
        if plan.spans is not None:
            return self._spans(x, plan.spans).view(shape)
        index, factors = plan.positions_on(x.device)
        if x.shape[0] != index.shape[0] or x.shape[1] != index.shape[1]:
            raise HookError(
                f"Layer {self.point.layer} got activations {tuple(x.shape[:2])} (batch, tokens) in "
                f"a forward pass of {tuple(index.shape)}. This model rearranges its batch in a way "
                "that per-row labels cannot follow; use one label for the whole batch."
            )
        table = self.table(x)
        found = torch.addcmul(table.shift[index], x, table.scale[index])
        if table.gain is not None:
            found = torch.addcmul(found, self._up(x), table.gain[index])
        if factors is not None:
            found = torch.lerp(x, found, factors.to(x.dtype))
        return found.view(shape)

    def _spans(self, x: Tensor, spans: list[Span]) -> Tensor:
        up: Tensor | None = None
        parts: list[Tensor] = []
        for first, end, row, factor in spans:
            part = before = x[:, first:end]
            view = None if row is None else row.views[self.number]
            if row is not None and view is not None:
                if not view or view[3] is not x.dtype or view[4] != x.device:
                    view = self.view(row, x)
                part = torch.addcmul(view[1], part, view[0])
                if view[2] is not None:
                    up = self._up(x) if up is None else up
                    part = torch.addcmul(part, up[:, first:end], view[2])
                if factor != 1:
                    part = torch.lerp(before, part, factor)
            parts.append(part)
        return torch.cat(parts, dim=1)

    def _compiled(self, x: Tensor) -> Tensor:
        current, table = self.current, self._ready_to_trace()
        index, factors = current.index, current.factors
        if index.device != x.device:
            index, factors = index.to(x.device), factors.to(x.device)
        if self._flattened:
            index, factors = index.reshape(-1), factors.reshape(-1, 1)
        found = torch.addcmul(table.shift[index], x, table.scale[index])
        if table.gain is not None:
            found = torch.addcmul(found, self._up(x), table.gain[index])
        # The tables may be of another dtype, under autocast or after model.to().
        return torch.lerp(x, found.to(x.dtype), factors.to(x.dtype))

    def _ready_to_trace(self) -> Table:
        if is_exporting():
            raise HookError(
                "A model that is attached to a steerer cannot be exported: the program would be "
                "steered by whatever the steerer is set to later. Call steer.detach() first, or "
                "bake() the label into the weights and export the result."
            )
        current, table = self.current, self._traced_table
        current.traced = True
        if current.refused:
            raise HookError(uncounted("a compiled model"))
        if table is None:
            raise HookError("Compiled before the probe at attach ran; attach with probe=True.")
        return table


def uncounted(what: str) -> str:
    """Return why a schedule cannot be followed where `what` was called directly."""
    return (
        "A schedule counts generated tokens, and a label whose source is not given leaves what the "
        f"prompt is written in; but {what} was called directly, where neither is known. Call the "
        "causal LM itself or model.generate(), or use one label with source=…."
    )


def install(
    hooks: Iterable[LayerHook], up_points: dict[int, HookPoint] | None = None
) -> list[Callable[[], None]]:
    """Register all `hooks` and return what removes them; all or none.

    Args:
        hooks: The layers to steer; experts are not handled here (see `expert_hooks.py`).
        up_points: Per layer, where the up projection's output is. With these, only the hooks that
            read it are registered (for steering at `mlp.act`).
    """
    removers: list[Callable[[], None]] = []
    try:
        for hook in hooks:
            point = hook.point
            if up_points is not None:
                up = up_points[point.layer]
                removers.append(_register(up.module, "", _reader(hook, up)))
            elif point.side == "input":
                removers.append(_register(point.module, "pre_", _input_hook(hook)))
            else:
                removers.append(_register(point.module, "", _output_hook(hook)))
    except BaseException:
        for remove in removers:
            remove()
        raise
    return removers


def _register(
    module: torch.nn.Module, kind: str, hook: Callable[..., Any], **options: bool
) -> Callable[[], None]:
    with changing_modules:
        keep_copies_plain(module)
        handle = getattr(module, f"register_forward_{kind}hook")(ours(hook), **options)

    def remove() -> None:
        with changing_modules:
            handle.remove()
            release(module)

    return remove


def _input_hook(hook: LayerHook) -> Callable[..., Any]:
    change, local, number, addcmul = hook.change, hook.local, hook.number, torch.addcmul

    def steer_input(_module: Any, args: tuple[Any, ...]) -> Any:
        # What happens in nearly every layer of nearly every token is written out here, because the
        # calls would cost as much as the work. `change` does the same, and everything else.
        if not is_compiling():
            plan = local.plan
            if plan is not None:
                row = plan.row
                if row is None:
                    return None
                view = row.views[number] if row is not MIXED and plan.factor == 1 else ()
                if view and view[3] is args[0].dtype and view[4] == args[0].device:
                    scale, shift, gain = view[:3]
                    if gain is None:
                        hook.calls += 1
                        hook.positions += plan.steered
                        plan.hits += 1
                        return (addcmul(shift, args[0], scale), *args[1:])
        found = change(args[0])
        return None if found is None else (found, *args[1:])

    return steer_input


def _output_hook(hook: LayerHook) -> Callable[..., Any]:
    change = hook.change

    def steer_output(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            found = change(output[0])
            return None if found is None else (found, *output[1:])
        return change(output)

    return steer_output


def _reader(hook: LayerHook, up: HookPoint) -> Callable[..., Any]:
    def read_up(_module: Any, _args: Any, output: Any) -> None:
        hook.keep_up(up.read(output))

    return read_up


def watch_root(
    root: torch.nn.Module, before: Callable[..., None], after: Callable[..., None]
) -> Callable[[], None]:
    """Call `before` and `after` around every call of the causal LM, with its arguments.

    `after` gets the output, too. It is also called when the forward pass ends in an exception.
    """

    def pre(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_compiling():
            before(args, kwargs)

    def post(_module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not is_compiling():
            after(args, kwargs, output)

    removers = [_register(root, "pre_", pre, with_kwargs=True)]
    try:
        removers.append(_register(root, "", post, with_kwargs=True, always_call=True))
    except BaseException:
        removers[0]()
        raise

    def remove() -> None:
        for each in removers:
            each()

    return remove
