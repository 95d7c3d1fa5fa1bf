"""The tables and hooks of a worker of either model runner, and the calls that change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...errors import NeuronSteerError, require
from .compiled_labels import ServedSet, WorkerSets, load_set
from .layers import TokenRows, find_layers
from .settings import ServeSettings
from .vllm_internals import RUNNER_V1, RUNNER_V2, add_method, verify
from .worker_tables import WorkerTables

#: Beyond the token budget: what a batch is padded to for CUDA graphs.
_PADDING = 1024


def build_tables(
    vllm_config: Any, settings: ServeSettings, model: Any, device: torch.device
) -> WorkerTables:
    """Return the tables of this worker, their hooks registered."""
    verify(RUNNER_V2 if vllm_config.use_v2_model_runner else RUNNER_V1)
    config = require("vllm.config", "vllm", "Serving")
    scheduler, compilation = vllm_config.scheduler_config, vllm_config.compilation_config
    count = int(vllm_config.model_config.hf_text_config.num_hidden_layers)
    most = max(scheduler.max_num_batched_tokens, scheduler.max_num_seqs)
    with torch.device(device):
        tokens = TokenRows(most + _PADDING, device)
        layers = find_layers(model, count, settings.capacity, device)
        sets = WorkerSets({number: layer.width for number, layer in layers.items()})
        tables = WorkerTables(layers, tokens, settings.capacity, scheduler.max_num_seqs, sets)
    sets.change((), [load_set(source) for source in settings.sets])
    # Only where Python runs in every step may a hook use Python to find out if anything is steered.
    python = (
        compilation.mode == config.CompilationMode.NONE
        and compilation.cudagraph_mode == config.CUDAGraphMode.NONE
    )
    for layer in layers.values():
        layer.install(tokens, python)
    return tables


def install() -> None:
    """Give the workers of vLLM the methods that `collective_rpc` calls by name."""
    add_method("vllm.v1.worker.worker_base", "WorkerBase", "neuronsteer_change", _change)
    add_method("vllm.v1.worker.worker_base", "WorkerBase", "neuronsteer_rows", _rows)


def _tables(worker: Any) -> WorkerTables:
    runner = worker.model_runner
    tracker = getattr(runner, "neuronsteer", None)
    return runner.model_state.neuronsteer_tables if tracker is None else tracker.tables


def _change(worker: Any, kept: Sequence[str], added: Sequence[Any]) -> str | None:
    """Keep some sets and add others; return an error as text: raised, it would stop the engine."""
    try:
        _tables(worker).sets.change(kept, [ServedSet.from_wire(each) for each in added])
    except NeuronSteerError as error:
        return str(error)
    return None


def _rows(worker: Any) -> list[str]:
    """Return the keys of the filled rows."""
    return _tables(worker).keys
