"""Model runner V1, which vLLM uses on CPUs: two of its methods are wrapped.

It has no method that a plugin could use to follow the requests of a batch. So before every forward
pass, the requests in the batch are compared with those of the previous pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .admission import schedule_of
from .settings import steering_of
from .vllm_internals import wrap
from .worker_tables import WorkerTables
from .workers import build_tables


def install() -> None:
    """Wrap the runner; nothing changes for engines without neuron sets."""
    wrap("vllm.v1.worker.gpu_worker", "Worker.load_model", _build_after_loading)
    wrap("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._model_forward", _update_before_forward)


class BatchTracker:
    """Keeps the tables up to date with the requests in the runner's batch."""

    def __init__(self, tables: WorkerTables) -> None:
        self.tables = tables
        # The runner's own record of each request: another request is another object, even if a
        # client uses the same name twice.
        self._seen: list[Any] = []

    def update(self, runner: Any, positions: torch.Tensor, padded: int) -> None:
        """Write which row acts on each token of the next forward pass."""
        batch, tables, seen = runner.input_batch, self.tables, self._seen
        count = int(batch.num_reqs)
        now = [runner.requests[request_id] for request_id in batch.req_ids[:count]]
        kept = [slot < count and now[slot] is state for slot, state in enumerate(seen)]
        # First what is over: its rows may be needed for what is new.
        for slot, same in enumerate(kept):
            if not same:
                tables.assign(slot, None)
        for slot, state in enumerate(now):
            if slot >= len(seen) or not kept[slot]:
                tables.assign(slot, schedule_of(state.sampling_params))
        self._seen = now
        if not tables.tokens.steering:
            tables.clear()
            return
        starts = runner.query_start_loc.np[: count + 1]
        slots = torch.from_numpy(np.repeat(np.arange(count), np.diff(starts)))
        # Models with several position axes (multimodal ones) have the token's own in the first.
        line = positions if positions.dim() == 1 else positions[0]
        tables.fill(slots.to(line.device), line[: slots.shape[0]], padded)


def _build_after_loading(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        settings = steering_of(self.vllm_config)
        if settings is not None and not self.vllm_config.use_v2_model_runner:
            runner = self.model_runner
            tables = build_tables(self.vllm_config, settings, runner.get_model(), self.device)
            runner.neuronsteer = BatchTracker(tables)
        return result

    return load_model


def _update_before_forward(original: Callable[..., Any]) -> Callable[..., Any]:
    def model_forward(
        self: Any, input_ids: Any = None, positions: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        tracker: BatchTracker | None = getattr(self, "neuronsteer", None)
        if tracker is not None:
            tokens = kwargs["inputs_embeds"] if input_ids is None else input_ids
            tracker.update(self, positions, tokens.shape[0])
        return original(self, input_ids, positions, *args, **kwargs)

    return model_forward
