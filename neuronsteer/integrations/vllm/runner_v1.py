"""Model runner V1, which vLLM uses on CPUs: two of its methods are wrapped.

It has no place where a plugin could follow the requests of a batch. So before every forward pass,
the requests in the batch are compared with those of the pass before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .admission import plan_of
from .settings import settings_of
from .worker_tables import Bank
from .workers import build
from .wrapping import wrap


def install() -> None:
    """Wrap the runner; nothing changes for engines without neuron sets."""
    wrap("vllm.v1.worker.gpu_worker", "Worker.load_model", _loaded)
    wrap("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._model_forward", _told)


class Follower:
    """Keeps the bank's requests those of the runner's batch."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        # The runner's own record of each request: another request is another object, even if a
        # client uses a name twice.
        self._seen: list[Any] = []

    def tell(self, runner: Any, positions: torch.Tensor, padded: int) -> None:
        """Say what acts on the tokens of the next forward pass."""
        batch, bank, seen = runner.input_batch, self.bank, self._seen
        count = int(batch.num_reqs)
        now = [runner.requests[request_id] for request_id in batch.req_ids[:count]]
        for place in range(max(count, len(seen))):
            state = now[place] if place < count else None
            if state is None:
                bank.assign(place, None)
            elif place >= len(seen) or seen[place] is not state:
                bank.assign(place, plan_of(state.sampling_params))
        self._seen = now
        if not bank.tokens.steering:
            bank.rest()
            return
        starts = runner.query_start_loc.np[: count + 1]
        slots = torch.from_numpy(np.repeat(np.arange(count), np.diff(starts)))
        # Models with several position axes (multimodal ones) have the token's own in the first.
        line = positions if positions.dim() == 1 else positions[0]
        bank.fill(slots.to(line.device), line[: slots.shape[0]], padded)


def _loaded(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        settings = settings_of(self.vllm_config)
        if settings is not None and not self.vllm_config.use_v2_model_runner:
            runner = self.model_runner
            bank = build(self.vllm_config, settings, runner.get_model(), self.device)
            runner.neuronsteer = Follower(bank)
        return result

    return load_model


def _told(original: Callable[..., Any]) -> Callable[..., Any]:
    def model_forward(
        self: Any, input_ids: Any = None, positions: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        follower: Follower | None = getattr(self, "neuronsteer", None)
        if follower is not None:
            tokens = kwargs["inputs_embeds"] if input_ids is None else input_ids
            follower.tell(self, positions, tokens.shape[0])
        return original(self, input_ids, positions, *args, **kwargs)

    return model_forward
