"""The attachment of one steerer to one model: a hook on every steered layer, all or none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import HookError
from ..models import Anatomy, HookPoint
from ..models.expert_blocks import change_experts
from ..models.probe import run_tokens
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import FEATURE_SITES
from .compile import Compiled, steered_site
from .expert_hooks import ExpertHook
from .layer_hooks import CurrentPlan, LayerHook, install
from .tables import Beginning, Row, RowNumbers, SparseRow


class Attachment:
    """The hooks of one steerer, and what takes them away again.

    Args:
        anatomy: The model.
        sets: The neuron sets; layers that none of them touches get no hook.
        capacity: Rows that fit in the tables without moving them.

    Attributes:
        current: What the hooks read.
        hooks: One per steered layer, two where a block has a shared expert.
        widths: Neurons per steered site and layer.
    """

    def __init__(self, anatomy: Anatomy, sets: Sequence[NeuronSet], capacity: int) -> None:
        self.current = CurrentPlan()
        self.hooks: list[LayerHook] = []
        self.widths: dict[tuple[str, int], int] = {}
        self._anatomy = anatomy
        self._stack = ExitStack()
        self._up_installed: set[int] = set()
        self._rows = RowNumbers()
        self._lock = threading.RLock()
        self._keys: list[tuple[str, int]] = []
        self._blocks: dict[tuple[str, int], Any] = {}
        self._left: list[dict[str, Any]] | None = None
        for site in dict.fromkeys(steered_site(each.site) for each in sets):
            layers = {
                int(layer)
                for each in sets
                if steered_site(each.site) == site
                for layer in each.layer.unique().tolist()
            }
            for point in anatomy.hook_points(site):
                if point.layer in layers:
                    self._add(point, capacity)

    def _add(self, point: HookPoint, capacity: int) -> None:
        key = (point.site, point.layer)
        self.widths[key] = point.width
        shared = (capacity, self.current, self._rows, self._lock)
        if point.experts is None:
            self._keys.append(key)
            self.hooks.append(LayerHook(len(self.hooks), point, point.tensor_width, *shared))
            return
        block = self._blocks[key] = point.experts
        routed = block.num_experts * block.expert_width
        self._keys.append(key)
        self.hooks.append(ExpertHook(len(self.hooks), point, routed, *shared))
        if block.shared is not None:
            # It lives in another module, whose own layer number is the block's.
            beside = replace(block.shared, layer=point.layer)
            self._keys.append(key)
            self.hooks.append(LayerHook(len(self.hooks), beside, beside.tensor_width, *shared))

    def install(self) -> None:
        """Register every hook, or none."""
        plain = [hook for hook in self.hooks if not isinstance(hook, ExpertHook)]
        experts = [
            (hook.experts.module, hook) for hook in self.hooks if isinstance(hook, ExpertHook)
        ]
        with ExitStack() as stack:
            for remove in install(plain):
                stack.callback(remove)
            if experts:
                stack.callback(change_experts(experts))
            self._stack = stack.pop_all()

    def remove(self) -> None:
        """Take every hook away, and let go of the model; `report()` still tells what was done."""
        self._stack.close()
        self._left = self.report()
        self.hooks = []
        self._blocks = {}
        del self._anatomy

    def probe(self) -> None:
        """Run one token and raise if a hook does not fire: a dead hook would be silent."""
        run_tokens(self._anatomy.root, 1)
        dead = [hook.point for hook in self.hooks if not hook.fired]
        if dead:
            raise HookError(
                f"{len(dead)} of {len(self.hooks)} hooks do not fire, the first on "
                f"{dead[0].name!r}: the model computes this layer without calling the module (a "
                "fused kernel such as a whole-MLP replacement). Load the model without kernel "
                "replacement (use_kernels=False, no Liger MLP), then attach."
            )
        self.current.to_device(self._first_device())

    def define(
        self, label: str | None, compiled: Compiled, beginning: Beginning | None = None
    ) -> Row:
        """Return a new row that does what `compiled` says; written before anybody can read it.

        Raises:
            ParameterError: If a value does not fit the model's dtype.
        """
        layers = [
            self._localise(*pair, compiled) for pair in zip(self.hooks, self._keys, strict=True)
        ]
        for hook, sparse in zip(self.hooks, layers, strict=True):
            if sparse is not None and sparse.gain is not None and hook.point.experts is None:
                self._read_up(hook)
        with self._lock:
            row = self._rows.make(label, layers, beginning)
            for hook in self.hooks:
                hook.define(row)
        return row

    def readable(self, site: str) -> list[tuple[int, HookPoint]]:
        """Return number and place of the hooks that meet the activations of `site` as they are.

        Experts meet those of some tokens only, and features are not activations of the model.
        """
        return [
            (hook.number, hook.point)
            for hook, key in zip(self.hooks, self._keys, strict=True)
            if key[0] == steered_site(site)
            and key not in self._blocks
            and site not in FEATURE_SITES
        ]

    def report(self) -> list[dict[str, Any]]:
        """Return, per hook, how often and at how many positions it changed something."""
        if self._left is not None:
            return self._left
        return [
            {
                "layer": hook.point.layer,
                "site": hook.point.site,
                "module": hook.point.name,
                "calls": hook.calls,
                "positions": hook.positions,
            }
            for hook in self.hooks
        ]

    def _localise(
        self, hook: LayerHook, key: tuple[str, int], compiled: Compiled
    ) -> SparseRow | None:
        """Return what a state does to the tensor that one hook meets."""
        sparse, point, block = compiled.get(key), hook.point, self._blocks.get(key)
        if sparse is None:
            return None
        if block is None:
            return replace(sparse, columns=tensor_columns(point, sparse.columns))
        routed = block.num_experts * block.expert_width
        mine = sparse.columns < routed if point.experts is not None else sparse.columns >= routed
        if not bool(mine.any()):
            return None
        columns = sparse.columns[mine]
        if point.experts is None:
            columns = tensor_columns(point, columns - routed)
        gain = None if sparse.gain is None else sparse.gain[mine]
        return SparseRow(columns, sparse.scale[mine], sparse.shift[mine], gain)

    def _read_up(self, hook: LayerHook) -> None:
        # Only steering at 'mlp.act' needs the other factor, so nobody else pays for the hook.
        with self._lock:
            if hook.number in self._up_installed:
                return
            if self.current.traced:
                raise HookError(
                    "Steering at 'mlp.act' was asked for after the model was compiled. Call "
                    "steer.to(…) with that operation once before compiling."
                )
            layer = hook.point.layer
            ups = {point.layer: point for point in self._anatomy.up_hook_points()}
            up = ups.get(layer)
            if up is not None and up.experts is not None:
                up = up.experts.shared
            if up is None:
                raise HookError(f"Layer {layer} has no up projection to steer 'mlp.act' with.")
            for remove in install([hook], {layer: up}):
                self._stack.callback(remove)
            self._up_installed.add(hook.number)

    def _first_device(self) -> torch.device:
        devices = [hook.device for hook in self.hooks if hook.device is not None]
        return devices[0] if devices else torch.device("cpu")


def tensor_columns(point: HookPoint, neurons: Tensor) -> Tensor:
    """Return where neurons of a layer are in the tensor that its hook meets."""
    if point.columns is None:
        return neurons
    if isinstance(point.columns, slice):
        return (point.columns.start or 0) + neurons * (point.columns.step or 1)
    return point.columns.to(neurons.device)[neurons]
