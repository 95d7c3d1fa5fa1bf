"""Steering inside mixture-of-experts blocks: the experts of one layer, in one flat index space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import HookError
from .layer_hooks import MIXED, LayerHook

is_compiling = torch.compiler.is_compiling


class ExpertHook(LayerHook):
    """One steered block of routed experts; its tables are indexed by flat neuron index."""

    def __init__(self, number: int, point: Any, *args: Any) -> None:
        super().__init__(number, point, *args)
        if point.experts is None:
            raise HookError(f"Layer {point.layer} has no experts to steer.")
        self.experts = point.experts

    @property
    def idle(self) -> bool:
        """Whether this forward pass leaves the block alone."""
        if is_compiling():
            return False
        plan = self.local.plan
        row = (self.current.outside() if plan is None else plan).row
        return row is None or (row is not MIXED and row.views[self.number] is None)

    def prepare(self, x: Tensor) -> None:
        """Note that the block ran, and build what compiled graphs will need."""
        if not self.fired:
            super().prepare(x.new_empty(0, self.experts.expert_width))

    def begin(self) -> None:
        """Count one forward pass of the block."""
        plan = self.local.plan
        if plan is not None and not self.idle:
            self.calls += 1
            self.positions += plan.steered
            plan.hits += 1

    def change_expert(self, expert: int, fused: Tensor, a: Tensor, tokens: Tensor) -> Tensor:
        """Return the steered activations of one expert's tokens."""
        width = self.experts.expert_width
        part = slice(expert * width, (expert + 1) * width)
        if is_compiling():
            current, table = self.current, self._ready_to_trace()
            rows, factors = current.index.reshape(-1), current.factors.reshape(-1, 1)
            rows = rows if rows.shape[0] == 1 else rows[tokens]
            factors = factors if factors.shape[0] == 1 else factors[tokens]
        else:
            plan = self.local.plan
            plan = self.current.outside() if plan is None else plan
            row = plan.row
            if row is None:
                return a
            if row is not MIXED:
                view = row.views[self.number]
                if view is None:
                    return a
                if not view or view[3] is not a.dtype or view[4] != a.device:
                    view = self.view(row, a)
                found = torch.addcmul(view[1][part], a, view[0][part])
                if view[2] is not None:
                    found = torch.addcmul(found, self._up_of(fused), view[2][part])
                return found if plan.factor == 1 else torch.lerp(a, found, plan.factor)
            table = self.table(a)
            index, spread = plan.positions_on(a.device)
            rows = index.reshape(-1)[tokens]
            factors = None if spread is None else spread.reshape(-1, 1)[tokens]
        found = torch.addcmul(table.shift[:, part][rows], a, table.scale[:, part][rows])
        if table.gain is not None:
            found = torch.addcmul(found, self._up_of(fused), table.gain[:, part][rows])
        return found if factors is None else torch.lerp(a, found, factors.to(a.dtype))

    def _up_of(self, fused: Tensor) -> Tensor:
        if self.experts.up is None:
            raise HookError("These experts are not gated, so 'mlp.act' has no second factor.")
        return self.experts.up(fused)
