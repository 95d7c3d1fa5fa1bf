"""Model runner V2, vLLM's default on GPUs: the state class of the model is subclassed.

The runner asks for a `ModelState`, whose methods see every request and every batch. With CUDA
graphs, `prepare_inputs` runs before each replay, on the stream that replays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .admission import schedule_of
from .settings import steering_of
from .vllm_internals import wrap
from .workers import build_tables


def install() -> None:
    """Wrap the runner; nothing changes for engines without neuron sets."""
    wrap("vllm.v1.worker.gpu.model_states", "resolve_model_state_cls", _subclass_state)


def _subclass_state(original: Callable[..., Any]) -> Callable[..., Any]:
    def resolve_model_state_cls(vllm_config: Any, model: Any) -> Any:
        base = original(vllm_config, model)
        return base if steering_of(vllm_config) is None else _steered(base)

    return resolve_model_state_cls


@functools.cache
def _steered(base: Any) -> Any:
    """Return the subclass of a `ModelState` that also keeps the tables up to date."""

    class Steered(base):
        def __init__(self, vllm_config: Any, model: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(vllm_config, model, *args, **kwargs)
            settings = steering_of(vllm_config)
            assert settings is not None  # checked by `_subclass_state`
            # Long names, because vLLM's own attributes are not known.
            self.neuronsteer_tables = build_tables(vllm_config, settings, model, self.device)
            self.neuronsteer_slots: dict[str, int] = {}

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            self.neuronsteer_slots[new_req_data.req_id] = req_index
            self.neuronsteer_tables.assign(req_index, schedule_of(new_req_data.sampling_params))

        def remove_request(self, req_id: str) -> None:
            super().remove_request(req_id)
            slot = self.neuronsteer_slots.pop(req_id, None)
            if slot is not None:
                self.neuronsteer_tables.assign(slot, None)

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            if self.neuronsteer_tables.tokens.steering:
                count = int(input_batch.num_tokens)
                ends = input_batch.query_start_loc[1 : int(input_batch.num_reqs) + 1]
                # Only the device has the positions of a batch.
                token = torch.arange(count, device=ends.device, dtype=ends.dtype)
                request = torch.searchsorted(ends.contiguous(), token, right=True)
                self.neuronsteer_tables.fill(
                    input_batch.idx_mapping[request].long(),
                    input_batch.positions[:count],
                    int(input_batch.num_tokens_after_padding),
                )
            else:
                self.neuronsteer_tables.clear()
            return super().prepare_inputs(input_batch, req_states)

    Steered.__name__ = Steered.__qualname__ = f"Steered{base.__name__}"
    return Steered
