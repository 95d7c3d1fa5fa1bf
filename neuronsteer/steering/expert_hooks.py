"""Mixture-of-experts blocks: the registered experts implementation that steers and listens.

Experts are 3-D parameters, so there is no module to hook between an expert's activation and its
output projection. Transformers lets an implementation of the block be registered by name; ours runs
the plain loop over experts while something wants to look or change, and hands over to the model's
own implementation otherwise, so an unset steerer leaves the logits bit-identical.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from ..errors import HookError
from ..models import HookPoint
from .layer_hooks import MIXED, Cell, Signal
from .tables import Tables

NAME = "neuronsteer"

#: `(expert, fused pre-activation [n, …], activations [n, expert_width], token positions [n])`.
Listener = Callable[[int, Tensor, Tensor, Tensor], None]


class ExpertCell(Cell):
    """One steered block of routed experts; its tables are indexed by flat neuron index."""

    def __init__(self, tap: HookPoint, tables: Tables, signal: Signal) -> None:
        super().__init__(tap, tables, signal)
        if tap.experts is None:
            raise HookError(f"Layer {tap.layer} has no experts to steer.")
        self.experts = tap.experts

    @property
    def idle(self) -> bool:
        """Whether this forward pass leaves the block alone."""
        if torch.compiler.is_compiling():
            return False
        plan = self.local.plan
        row = self._signal.default if plan is None else plan.row
        return row == 0

    def change_expert(self, expert: int, fused: Tensor, a: Tensor, tokens: Tensor) -> Tensor:
        """Return the steered activations of one expert's tokens."""
        width = self.experts.expert_width
        part = slice(expert * width, (expert + 1) * width)
        if torch.compiler.is_compiling():
            self._signal.traced = True
            index = self._signal.index.reshape(-1)
            rows = index if index.shape[0] == 1 else index[tokens]
            dense = self._dense
            if dense is None:
                raise HookError("Compiled before the probe at attach ran; attach with probe=True.")
        else:
            plan = self.local.plan
            row = self._without_clock(a) if plan is None else plan.row
            dense = self.tables.on(a, width)
            if row != MIXED:
                view = dense.rows[row]
                if view is None:
                    return a
                found = torch.addcmul(view[1][part], a, view[0][part])
                if view[2] is not None:
                    found = torch.addcmul(found, self._up_of(fused), view[2][part])
                return found
            assert plan is not None  # a default row is never MIXED
            rows = plan.index_on(a.device).reshape(-1)[tokens]
        found = torch.addcmul(dense.shift[:, part][rows], a, dense.scale[:, part][rows])
        if dense.gain is not None:
            found = torch.addcmul(found, self._up_of(fused), dense.gain[:, part][rows])
        return found

    def begin(self) -> None:
        """Count one forward pass of the block."""
        plan = self.local.plan
        if plan is not None and plan.row != 0:
            self.calls += 1
            self.positions += plan.steered
            plan.hits += 1

    def prepare(self, hidden: Tensor) -> None:
        """Note that the block ran, and build what compiled graphs will need."""
        if not self.probed:
            self.probed = True
            like = hidden.new_empty(0, self.experts.expert_width)
            self._dense = self.tables.on(like, self.experts.expert_width)

    def _up_of(self, fused: Tensor) -> Tensor:
        if self.experts.up is None:
            raise HookError("These experts are not gated, so 'mlp.act' has no second factor.")
        return self.experts.up(fused)


class _Block:
    """What is attached to one experts module."""

    def __init__(self) -> None:
        self.cells: list[ExpertCell] = []
        self.listeners: list[Listener] = []
        self.implementation = "eager"

    @property
    def idle(self) -> bool:
        return not self.listeners and all(cell.idle for cell in self.cells)


_BLOCKS: weakref.WeakKeyDictionary[nn.Module, _Block] = weakref.WeakKeyDictionary()
_TAKEN: weakref.WeakKeyDictionary[nn.Module, tuple[int, Any]] = weakref.WeakKeyDictionary()


def attach_cells(root: nn.Module, cells: list[ExpertCell]) -> Callable[[], None]:
    """Steer the blocks of `cells`; return what undoes it."""
    return _attach(root, [(cell.experts.module, "cells", cell) for cell in cells])


@contextmanager
def listen_experts(root: nn.Module, listeners: dict[nn.Module, Listener]) -> Generator[None]:
    """Call each listener with every expert's activations, before they are steered."""
    undo = _attach(root, [(module, "listeners", call) for module, call in listeners.items()])
    try:
        yield
    finally:
        undo()


def _attach(root: nn.Module, entries: list[tuple[nn.Module, str, Any]]) -> Callable[[], None]:
    if NAME not in ALL_EXPERTS_FUNCTIONS:
        ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    model = cast(Any, root)
    count, original = _TAKEN.get(root, (0, None))
    if count == 0:
        original = getattr(model.config, "_experts_implementation", None) or "eager"
        model.set_experts_implementation(NAME)
    _TAKEN[root] = (count + 1, original)
    for module, kind, entry in entries:
        block = _BLOCKS.setdefault(module, _Block())
        block.implementation = original
        getattr(block, kind).append(entry)

    def undo() -> None:
        for module, kind, entry in entries:
            block = _BLOCKS.get(module)
            if block is not None:
                getattr(block, kind).remove(entry)
                if not block.cells and not block.listeners:
                    _BLOCKS.pop(module, None)
        left, before = _TAKEN[root]
        if left == 1:
            del _TAKEN[root]
            model.set_experts_implementation(before)
        else:
            _TAKEN[root] = (left - 1, before)

    return undo


def experts_forward(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Run one experts block: the model's own way, or the loop that steers and listens."""
    block = _BLOCKS.get(self)
    if block is not None and not torch.compiler.is_compiling():
        for cell in block.cells:
            cell.prepare(hidden_states)
    if block is None or block.idle:
        eager = type(self).forward.__wrapped__
        name = "eager" if block is None else block.implementation
        run = ALL_EXPERTS_FUNCTIONS.get_interface(name, eager)
        return run(self, hidden_states, top_k_index, top_k_weights)
    if torch.compiler.is_compiling():
        return _every_expert(self, block, hidden_states, top_k_index, top_k_weights)
    for cell in block.cells:
        cell.begin()
    out = torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        if expert >= self.num_experts:  # the sentinel of expert parallelism
            continue
        tokens, slot = (top_k_index == expert).nonzero(as_tuple=True)
        y = _one_expert(self, block, expert, hidden_states[tokens], tokens)
        out.index_add_(0, tokens, (y * top_k_weights[tokens, slot, None]).to(out.dtype))
    return out


def _every_expert(
    module: Any, block: _Block, hidden: Tensor, index: Tensor, weights: Tensor
) -> Tensor:
    # A graph cannot depend on which experts were hit, so every expert sees every token.
    out = torch.zeros_like(hidden)
    tokens = torch.arange(hidden.shape[0], device=hidden.device)
    for expert in range(module.num_experts):
        share = (weights * (index == expert)).sum(-1, keepdim=True)
        out = out + (_one_expert(module, block, expert, hidden, tokens) * share).to(out.dtype)
    return out


def _one_expert(module: Any, block: _Block, expert: int, x: Tensor, tokens: Tensor) -> Tensor:
    first = "gate_up_proj" if module.has_gate else "up_proj"
    weight, down = getattr(module, first)[expert], module.down_proj[expert]
    transposed = module.is_transposed
    fused = x @ weight if transposed else nn.functional.linear(x, weight)
    if module.has_bias:
        fused = fused + getattr(module, f"{first}_bias")[expert]
    a = module._apply_gate(fused) if module.has_gate else module.act_fn(fused)
    for listener in block.listeners:
        listener(expert, fused, a, tokens)
    for cell in block.cells:
        a = cell.change_expert(expert, fused, a, tokens)
    y = a @ down if transposed else nn.functional.linear(a, down)
    if module.has_bias:
        y = y + module.down_proj_bias[expert]
    if module.has_post_expert_norm:
        y = module.post_expert_norm(y)
    return y
