"""Blocks of experts: their forward pass, with activations that can be seen and changed.

Experts are 3-D parameters, so there is no module to hook between an expert's activation and its
output projection. Transformers lets an implementation of the block be registered by name. Ours runs
the plain loop over experts while activations are read or changed, and calls the model's own
implementation otherwise, so that logits stay bit-identical where nothing is steered.

Only the block's own view of the config says which implementation runs: the model's config, and
with it what is saved and copied, stays as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .plain_copies import keep_copies_plain, ours, release

NAME = "neuronsteer"

#: `(expert, fused pre-activation [n, …], activations [n, expert_width], token positions [n])`.
ExpertReader = Callable[[int, Tensor, Tensor, Tensor], None]

_lock = threading.Lock()


class ExpertChanger(Protocol):
    """Changes the activations of the experts of one block."""

    @property
    def idle(self) -> bool:
        """Whether this forward pass leaves the block alone."""
        ...

    def prepare(self, x: Tensor) -> None:
        """Note that the block runs on `x`, before it is known whether anything changes."""
        ...

    def begin(self) -> None:
        """Count one forward pass in which something may change."""
        ...

    def change_expert(self, expert: int, fused: Tensor, a: Tensor, tokens: Tensor) -> Tensor:
        """Return the changed activations of one expert's tokens."""
        ...


class _BlockConfig:
    """What a block uses as the model's config while activations are read or changed.

    Both tuples are replaced, never changed: a forward pass in another thread keeps its own.
    """

    _experts_implementation = NAME

    def __init__(self, config: Any) -> None:
        self.config = config
        self.changers: tuple[ExpertChanger, ...] = ()
        self.readers: tuple[ExpertReader, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["config"], name)

    def __reduce__(self) -> Any:
        return _same, (self.config,)  # a copy is the config


def _same(config: Any) -> Any:
    return config


def change_experts(changers: Sequence[tuple[nn.Module, ExpertChanger]]) -> Callable[[], None]:
    """Let each changer change what the experts of its block compute; return what undoes it."""
    return _attach([(module, "changers", changer) for module, changer in changers])


@contextmanager
def read_experts(readers: dict[nn.Module, ExpertReader]) -> Generator[None, None, None]:
    """Call each reader with every expert's activations, before they are changed."""
    undo = _attach([(module, "readers", reader) for module, reader in readers.items()])
    try:
        yield
    finally:
        undo()


def _attach(entries: Sequence[tuple[Any, str, Any]]) -> Callable[[], None]:
    with _lock:
        if NAME not in ALL_EXPERTS_FUNCTIONS:
            ALL_EXPERTS_FUNCTIONS.register(NAME, _experts_forward)
        for module, kind, entry in entries:
            block = module.__dict__["config"]
            if not isinstance(block, _BlockConfig):
                keep_copies_plain(module)
                block = ours(_BlockConfig(block), instead=block)
                module.__dict__["config"] = block
            setattr(block, kind, (*getattr(block, kind), entry))

    def undo() -> None:
        with _lock:
            for module, kind, entry in entries:
                block = module.__dict__["config"]
                if not isinstance(block, _BlockConfig):
                    continue
                left = tuple(each for each in getattr(block, kind) if each is not entry)
                setattr(block, kind, left)
                if not block.changers and not block.readers:
                    module.__dict__["config"] = block.config
                    release(module)

    return undo


def _experts_forward(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Run one experts block: the model's own way, or a loop that reads and changes activations."""
    block = self.config
    compiling = torch.compiler.is_compiling()
    # Readers and changers added or removed meanwhile take no part in this pass.
    changers: tuple[ExpertChanger, ...] = getattr(block, "changers", ())
    readers: tuple[ExpertReader, ...] = getattr(block, "readers", ())
    if not compiling:
        for changer in changers:
            changer.prepare(hidden_states)
    if not readers and all(changer.idle for changer in changers):
        name = getattr(block, "config", block)._experts_implementation
        run = ALL_EXPERTS_FUNCTIONS.get_interface(name, type(self).forward.__wrapped__)
        return run(self, hidden_states, top_k_index, top_k_weights)
    if compiling:
        return _every_expert(self, changers, hidden_states, top_k_index, top_k_weights)
    for changer in changers:
        changer.begin()
    out = torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        if expert >= self.num_experts:  # the sentinel of expert parallelism
            continue
        tokens, slot = (top_k_index == expert).nonzero(as_tuple=True)
        y = _one_expert(self, changers, readers, expert, hidden_states[tokens], tokens)
        out.index_add_(0, tokens, (y * top_k_weights[tokens, slot, None]).to(out.dtype))
    return out


def _every_expert(
    module: Any,
    changers: tuple[ExpertChanger, ...],
    hidden: Tensor,
    index: Tensor,
    weights: Tensor,
) -> Tensor:
    # A graph cannot depend on which experts were hit, so every expert sees every token.
    out = torch.zeros_like(hidden)
    tokens = torch.arange(hidden.shape[0], device=hidden.device)
    for expert in range(module.num_experts):
        share = (weights * (index == expert)).sum(-1, keepdim=True)
        y = _one_expert(module, changers, (), expert, hidden, tokens)
        out = out + (y * share).to(out.dtype)
    return out


def _one_expert(
    module: Any,
    changers: tuple[ExpertChanger, ...],
    readers: tuple[ExpertReader, ...],
    expert: int,
    x: Tensor,
    tokens: Tensor,
) -> Tensor:
    first = "gate_up_proj" if module.has_gate else "up_proj"
    weight, down = getattr(module, first)[expert], module.down_proj[expert]
    transposed = module.is_transposed
    fused = x @ weight if transposed else nn.functional.linear(x, weight)
    if module.has_bias:
        fused = fused + getattr(module, f"{first}_bias")[expert]
    a = module._apply_gate(fused) if module.has_gate else module.act_fn(fused)
    for reader in readers:
        reader(expert, fused, a, tokens)
    for changer in changers:
        a = changer.change_expert(expert, fused, a, tokens)
    y = a @ down if transposed else nn.functional.linear(a, down)
    if module.has_bias:
        y = y + module.down_proj_bias[expert]
    # Older transformers have no such norm, and no word for it.
    if getattr(module, "has_post_expert_norm", False):
        y = module.post_expert_norm(y)
    return y
