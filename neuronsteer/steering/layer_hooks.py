"""Forward hooks that steer. No other file registers hooks that change activations.

Each steered layer has one `Cell`: its tables and the function torch calls. Which row of the tables
applies is decided once per forward pass by the clock and left in a `Plan`; the hook only looks it
up. The common case, one row for everything, is a single `addcmul`.

Compiled graphs cannot look at Python state, so there the hook indexes the dense tables with a
tensor that the clock keeps up to date: switching languages changes data, never the graph.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import HookError
from ..models import HookPoint
from .tables import Dense, Tables

MIXED = -1

is_compiling = torch.compiler.is_compiling


@dataclass(eq=False, slots=True)
class Plan:
    """What happens to the positions of one forward pass.

    Attributes:
        row: The table row for every position, or `MIXED`.
        batch: Rows of the batch.
        length: Positions per row.
        runs: With `MIXED`: `(first, end, row)` runs of positions, the same for the whole batch.
        index: Table rows `[batch, length]`, if they are chosen per row of the batch.
        steered: How many positions a non-identity row covers.
        hits: How many layers were changed so far.
        copies: The index per device.
    """

    row: int
    batch: int = 1
    length: int = 1
    runs: list[tuple[int, int, int]] | None = None
    index: Tensor | None = None
    steered: int = 0
    hits: int = 0
    copies: dict[torch.device, Tensor] = field(default_factory=dict)

    def index_on(self, device: torch.device) -> Tensor:
        """Return table rows `[batch, length]` on `device`."""
        index = self.copies.get(device)
        if index is None:
            source = self.full_index() if self.index is None else self.index
            index = self.copies[device] = source.to(device)
        return index

    def full_index(self) -> Tensor:
        """Return table rows `[batch, length]` (CPU unless `index` is elsewhere)."""
        if self.index is not None:
            return self.index
        index = torch.full((self.batch, self.length), max(self.row, 0), dtype=torch.int64)
        for first, end, row in self.runs or ():
            index[:, first:end] = row
        return index


class _Local(threading.local):
    # Generations in two threads must not see each other's plan; None: no clock is looking.
    plan: Plan | None = None


class Signal:
    """What the hooks of one steerer read: the plan of this thread, or a default row.

    Attributes:
        default: Row for forward passes that no clock looks at (the decoder called directly), or
            `None` when only the clock could know.
        index: Table rows for compiled graphs, `[1, 1]` or `[batch, length]`.
        traced: Whether a compiled graph contains these hooks.
    """

    def __init__(self) -> None:
        self.local = _Local()
        self.default: int | None = 0
        self.index = torch.zeros(1, 1, dtype=torch.int64)
        self.traced = False
        self._scalar = self.index
        self._shown = 0

    def to_device(self, device: torch.device) -> None:
        """Keep the index of compiled graphs on `device`."""
        self._scalar = self.index = self._scalar.to(device)

    def show(self, plan: Plan) -> None:
        """Make compiled graphs use `plan`; costs nothing while the rows stay the same."""
        if plan.row == MIXED or plan.index is not None:
            self._shown = MIXED
            self.index = plan.index_on(self._scalar.device)
        elif plan.row != self._shown:
            self.show_row(plan.row)

    def show_row(self, row: int) -> None:
        """Make compiled graphs use `row` everywhere."""
        self._shown = row
        with torch.inference_mode(False):
            self._scalar.fill_(row)
        self.index = self._scalar


class Cell:
    """One steered layer: its tap, its tables, and counters of what was done.

    Args:
        tap: Where the neurons are.
        tables: The affine rows of this layer.
        signal: Where to look up which row applies.
    """

    def __init__(self, tap: HookPoint, tables: Tables, signal: Signal) -> None:
        self.tap = tap
        self.tables = tables
        self.calls = 0
        self.positions = 0
        self.probed = False
        self._signal = signal
        self.local = signal.local
        self._flattened = tap.flattened
        self._up: dict[int, Tensor] = {}
        #: What compiled graphs index: looked up once, because they cannot look in a dictionary.
        self._dense: Dense | None = None

    @property
    def device(self) -> torch.device | None:
        """Where the activations of this layer were met first."""
        return None if self._dense is None else self._dense.scale.device

    def change(self, x: Tensor) -> Tensor | None:
        """Return the steered activations, or `None` to leave `x` alone."""
        if is_compiling():
            return self._compiled(x)
        plan = self.local.plan
        row = self._without_clock(x) if plan is None else plan.row
        if row == 0:
            return None
        dense = self._dense
        if dense is None or dense.dtype is not x.dtype or dense.device != x.device:
            dense = self.tables.on(x)
        if row == MIXED:
            assert plan is not None  # a default row is never MIXED
            found = self._mixed(x, dense, plan)
        else:
            view = dense.rows[row]
            if view is None:
                return None
            scale, shift, gain = view
            found = torch.addcmul(shift, x, scale)
            if gain is not None:
                found = torch.addcmul(found, self._u(x), gain)
        if self._up:
            self._up.pop(threading.get_ident(), None)
        self.calls += 1
        if plan is not None:
            plan.hits += 1
            self.positions += plan.steered
        return found

    def keep_up(self, up: Tensor) -> None:
        """Remember the up projection's output until this layer's `change`."""
        plan = self.local.plan
        if plan is not None and plan.row == 0:
            return
        self._up[0 if is_compiling() else threading.get_ident()] = up

    def _u(self, x: Tensor) -> Tensor:
        key = 0 if is_compiling() else threading.get_ident()
        try:
            return self._up.pop(key).view_as(x)
        except KeyError:
            raise HookError(
                f"Steering at 'mlp.act' needs the up projection of layer {self.tap.layer}, which "
                "did not run as a module (a fused kernel?). Steer at 'mlp.neuron' instead."
            ) from None

    def _without_clock(self, x: Tensor) -> int:
        if not self.probed:
            self.probed = True
            self._dense = self.tables.on(x)
        default = self._signal.default
        if default is None:
            raise HookError(
                "A schedule counts generated tokens, but the decoder was called directly, where "
                "nobody can count. Call the causal LM itself or model.generate(), or use one label."
            )
        return default

    def _mixed(self, x: Tensor, dense: Dense, plan: Plan) -> Tensor:
        shape = x.shape
        if self._flattened:
            x = x.view(-1, plan.length, shape[-1])
        up = self._u(x) if dense.gain is not None else None
        if plan.runs is not None:
            parts: list[Tensor] = []
            for first, end, row in plan.runs:
                part = x[:, first:end]
                view = dense.rows[row]
                if view is not None:
                    scale, shift, gain = view
                    part = torch.addcmul(shift, part, scale)
                    if gain is not None and up is not None:
                        part = torch.addcmul(part, up[:, first:end], gain)
                parts.append(part)
            return torch.cat(parts, dim=1).view(shape)
        index = plan.index_on(x.device)
        if x.shape[0] != index.shape[0] or x.shape[1] != index.shape[1]:
            raise HookError(
                f"Layer {self.tap.layer} got activations {tuple(x.shape[:2])} where the clock saw "
                f"{tuple(index.shape)} (batch, tokens). This model rearranges its batch in a way "
                "that per-row labels cannot follow; use one label for the whole batch."
            )
        found = torch.addcmul(dense.shift[index], x, dense.scale[index])
        if up is not None and dense.gain is not None:
            found = torch.addcmul(found, up, dense.gain[index])
        return found.view(shape)

    def _compiled(self, x: Tensor) -> Tensor:
        self._signal.traced = True
        dense = self._dense
        if dense is None:
            raise HookError("Compiled before the probe at attach ran; attach with probe=True.")
        index = self._signal.index
        if index.device != x.device:
            index = index.to(x.device)
        if self._flattened:
            index = index.reshape(-1)
        found = torch.addcmul(dense.shift[index], x, dense.scale[index])
        if dense.gain is not None:
            found = torch.addcmul(found, self._u(x), dense.gain[index])
        return found


def install(
    cells: Iterable[Cell], up_taps: dict[int, HookPoint] | None = None
) -> list[Callable[[], None]]:
    """Register the hooks of all `cells` and return what removes them; all or none.

    Args:
        cells: The layers to steer; experts are not handled here (see `experts.py`).
        up_taps: Per layer, where the up projection's output is. With these, only the hooks that
            read it are registered (for steering at `mlp.act`).
    """
    removers: list[Callable[[], None]] = []
    try:
        for cell in cells:
            tap = cell.tap
            if up_taps is not None:
                up = up_taps[tap.layer]
                removers.append(up.module.register_forward_hook(_reader(cell, up)).remove)
            elif tap.side == "input":
                removers.append(tap.module.register_forward_pre_hook(_input_hook(cell)).remove)
            else:
                removers.append(tap.module.register_forward_hook(_output_hook(cell)).remove)
    except BaseException:
        for remove in removers:
            remove()
        raise
    return removers


def _input_hook(cell: Cell) -> Callable[..., Any]:
    change, local = cell.change, cell.local

    def steer_input(_module: Any, args: tuple[Any, ...]) -> Any:
        if not is_compiling():
            # Most hooks of most models run while nothing is steered: no further call for those.
            plan = local.plan
            if plan is not None and plan.row == 0:
                return None
        found = change(args[0])
        return None if found is None else (found, *args[1:])

    return steer_input


def _output_hook(cell: Cell) -> Callable[..., Any]:
    change = cell.change

    def steer_output(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            found = change(output[0])
            return None if found is None else (found, *output[1:])
        return change(output)

    return steer_output


def _reader(cell: Cell, up: HookPoint) -> Callable[..., Any]:
    def read_up(_module: Any, _args: Any, output: Any) -> None:
        cell.keep_up(up.read(output))

    return read_up


def watch_root(
    root: torch.nn.Module, before: Callable[..., None], after: Callable[..., None]
) -> Callable[[], None]:
    """Call `before(args, kwargs)` and `after()` around every forward of the causal LM."""

    def pre(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_compiling():
            before(args, kwargs)

    def post(_module: Any, _args: Any, _output: Any) -> None:
        if not is_compiling():
            after()

    first = root.register_forward_pre_hook(pre, with_kwargs=True)
    second = root.register_forward_hook(post)

    def remove() -> None:
        first.remove()
        second.remove()

    return remove
