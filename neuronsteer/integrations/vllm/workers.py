"""What a worker of either model runner has: its tables and hooks, and calls that change sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import NeuronSteerError, require
from . import vllm_internals as private
from .compiled_labels import Move, moves_of
from .layers import find
from .settings import Settings
from .tokens import Tokens
from .worker_tables import Bank
from .wrapping import add

#: Beyond the token budget: what a batch is padded to for CUDA graphs.
_PADDING = 1024


def build(vllm_config: Any, settings: Settings, model: Any, device: torch.device) -> Bank:
    """Return the tables of this worker, filled, their hooks registered."""
    anyway = os.environ.get(private.ANYWAY, "") not in ("", "0")
    second = bool(vllm_config.use_v2_model_runner)
    private.verify(private.RUNNER_2 if second else private.RUNNER_1, anyway=anyway)
    config = require("vllm.config", "vllm", "Serving")
    scheduler, compilation = vllm_config.scheduler_config, vllm_config.compilation_config
    layers = int(vllm_config.model_config.hf_text_config.num_hidden_layers)
    most = max(scheduler.max_num_batched_tokens, scheduler.max_num_seqs)
    with torch.device(device):
        tokens = Tokens(most + _PADDING, device)
        sites = find(model, layers, settings.capacity, device)
        bank = Bank(sites, tokens, settings.capacity, scheduler.max_num_seqs)
    bank.load(moves_of(settings))
    # Only where Python runs in every step may a hook ask Python whether there is anything to do.
    python = (
        compilation.mode == config.CompilationMode.NONE
        and compilation.cudagraph_mode == config.CUDAGraphMode.NONE
    )
    for site in sites.values():
        site.install(tokens, python)
    return bank


def install() -> None:
    """Give the workers of vLLM the methods that `collective_rpc` calls by name."""
    add("vllm.v1.worker.worker_base", "WorkerBase", "neuronsteer_change", _change)
    add("vllm.v1.worker.worker_base", "WorkerBase", "neuronsteer_rows", _rows)


def _bank(worker: Any) -> Bank:
    runner = worker.model_runner
    return (getattr(runner, "neuronsteer", None) or runner.model_state.neuronsteer).bank


def _change(worker: Any, gone: Sequence[str], moves: Sequence[Any]) -> str | None:
    """Give up rows, then fill others; returns what is wrong, because an error would be a crash."""
    bank = _bank(worker)
    bank.unload(gone)
    try:
        bank.load([Move.from_wire(move) for move in moves])
    except NeuronSteerError as error:
        return str(error)
    return None


def _rows(worker: Any) -> list[str]:
    """Return the keys of the filled rows."""
    return _bank(worker).keys
