"""The attachment of one steerer to one model: cells on every steered layer, all or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import HookError
from ..models import Anatomy, HookPoint
from ..models.probe import run_tokens
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import FEATURE_SITES
from .compile import Compiled
from .expert_hooks import ExpertCell, attach_cells
from .layer_hooks import Cell, Signal, install
from .tables import SparseRow, Tables


class Anchor:
    """The cells of one steerer, and what takes them away again.

    Args:
        anatomy: The model.
        sets: The neuron sets; layers that none of them touches get no hook.
        capacity: Rows that fit in the tables without moving them.
    """

    def __init__(self, anatomy: Anatomy, sets: Sequence[NeuronSet], capacity: int) -> None:
        self.signal = Signal()
        self._anatomy = anatomy
        self._stack = ExitStack()
        self._up_installed: set[int] = set()
        self.cells: list[Cell] = []
        self.widths: dict[tuple[str, int], int] = {}
        self._by_key: dict[tuple[str, int], list[Cell]] = {}
        for site in dict.fromkeys(steered_site(each.site) for each in sets):
            layers = {
                int(layer)
                for each in sets
                if steered_site(each.site) == site
                for layer in each.layer.unique().tolist()
            }
            for tap in anatomy.hook_points(site):
                if tap.layer in layers:
                    self._add(tap, capacity)

    def _add(self, tap: HookPoint, capacity: int) -> None:
        key = (tap.site, tap.layer)
        self.widths[key] = tap.width
        if tap.experts is None:
            made = [Cell(tap, Tables(tap.tensor_width, capacity), self.signal)]
        else:
            routed = tap.experts.num_experts * tap.experts.expert_width
            made: list[Cell] = [ExpertCell(tap, Tables(routed, capacity), self.signal)]
            if tap.experts.shared is not None:
                # It lives in another module, whose own layer number is the block's.
                shared = replace(tap.experts.shared, layer=tap.layer)
                made.append(Cell(shared, Tables(shared.tensor_width, capacity), self.signal))
        self._by_key[key] = made
        self.cells.extend(made)

    def install(self) -> None:
        """Register every hook, or none."""
        plain = [cell for cell in self.cells if not isinstance(cell, ExpertCell)]
        experts = [cell for cell in self.cells if isinstance(cell, ExpertCell)]
        with ExitStack() as stack:
            for remove in install(plain):
                stack.callback(remove)
            if experts:
                stack.callback(attach_cells(self._anatomy.root, experts))
            self._stack = stack.pop_all()

    def remove(self) -> None:
        """Take every hook away."""
        self._stack.close()

    def probe(self) -> None:
        """Run one token and raise if a hook does not fire: a dead hook would be silent."""
        run_tokens(self._anatomy.root, 1)
        dead = [cell.tap for cell in self.cells if not cell.probed]
        if dead:
            raise HookError(
                f"{len(dead)} of {len(self.cells)} hooks do not fire, the first on "
                f"{dead[0].name!r}: the model computes this layer without calling the module (a "
                "fused kernel such as a whole-MLP replacement). Load the model without kernel "
                "replacement (use_kernels=False, no Liger MLP), then attach."
            )
        self.signal.to_device(self._first_device())

    def define(self, row: int, compiled: Compiled) -> None:
        """Write one steering state into the tables of every layer."""
        for key, cells in self._by_key.items():
            sparse = compiled.get(key)
            for cell in cells:
                part = None if sparse is None else self._localise(cell, sparse)
                if part is not None and part.gain is not None and cell.tap.experts is None:
                    self._listen_up(cell)
                cell.tables.define(row, part)

    def _localise(self, cell: Cell, sparse: SparseRow) -> SparseRow | None:
        tap = cell.tap
        block = self._by_key[(tap.site, tap.layer)][0].tap.experts
        if block is None:
            return replace(sparse, columns=_tensor_columns(tap, sparse.columns))
        routed = block.num_experts * block.expert_width
        mine = sparse.columns < routed if tap.experts is not None else sparse.columns >= routed
        if not bool(mine.any()):
            return None
        columns = sparse.columns[mine]
        if tap.experts is None:
            columns = _tensor_columns(tap, columns - routed)
        gain = None if sparse.gain is None else sparse.gain[mine]
        return SparseRow(columns, sparse.scale[mine], sparse.shift[mine], gain)

    def _listen_up(self, cell: Cell) -> None:
        # Only steering at 'mlp.act' needs the other factor, so nobody else pays for the hook.
        if id(cell) in self._up_installed:
            return
        if self.signal.traced:
            raise HookError(
                "Steering at 'mlp.act' was asked for after the model was compiled. Call "
                "steer.to(…) with that operation once before compiling."
            )
        ups = {tap.layer: tap for tap in self._anatomy.up_hook_points()}
        up = ups.get(cell.tap.layer)
        if up is not None and up.experts is not None:
            up = up.experts.shared
        if up is None:
            raise HookError(f"Layer {cell.tap.layer} has no up projection to steer 'mlp.act' with.")
        for remove in install([cell], {cell.tap.layer: up}):
            self._stack.callback(remove)
        self._up_installed.add(id(cell))

    def _first_device(self) -> torch.device:
        for cell in self.cells:
            device = cell.device
            if device is not None:
                return device
        return torch.device("cpu")


def steered_site(site: str) -> str:
    """Return where neurons of `site` are hooked: `mlp.act` and `mlp.neuron` share theirs.

    Features are added to the residual stream, which is where an MLP's output ends up, too.
    """
    if site in FEATURE_SITES:
        return "resid"
    return "mlp.neuron" if site == "mlp.act" else site


def _tensor_columns(tap: HookPoint, neurons: Tensor) -> Tensor:
    if tap.columns is None:
        return neurons
    if isinstance(tap.columns, slice):
        return (tap.columns.start or 0) + neurons * (tap.columns.step or 1)
    return tap.columns.to(neurons.device)[neurons]
