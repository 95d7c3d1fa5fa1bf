"""The vocabulary gate as a logits processor of model runner V2; imported as `gate_v1.py` is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import require
from .kept_requests import KeptRequest, kept_request
from .request_gate import GatedRequest, RequestGate
from .worker_gate import gate_of

_vllm: Any = require("vllm.v1.worker.gpu.sample.logits_processor", "vllm", "Serving")


class KeepV2(_vllm.LogitsProcessor):
    """Holds back foreign tokens in the rows of requests that are kept in a language."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._gate: RequestGate | None = gate_of(vllm_config)
        self._states = req_states
        #: Slot -> what its request is kept in, and its sampling parameters.
        self._kept: dict[int, tuple[KeptRequest, Any]] = {}
        #: Slot -> the request, once its tokens are there.
        self._requests: dict[int, GatedRequest] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Remember what a request in a slot of the batch is kept in; return whether in anything."""
        self._requests.pop(req_idx, None)
        self._kept.pop(req_idx, None)
        kept = kept_request(sampling_params)
        if kept is None or self._gate is None:
            return False
        self._kept[req_idx] = kept, sampling_params
        return True

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Return the logits, changed in place."""
        if self._gate is None or not self._kept.keys() & set(ctx.idx_mapping_np.tolist()):
            return logits
        # Only the device knows which tokens were drawn; this waits for it, once.
        known = torch.stack([ctx.expanded_idx_mapping, ctx.pos, ctx.input_ids.to(ctx.pos.dtype)])
        slots, positions, tokens = known.tolist()
        rows: list[tuple[int, GatedRequest]] = []
        for row, (slot, position, token) in enumerate(zip(slots, positions, tokens, strict=True)):
            # In the middle of a prompt nothing is drawn.
            if slot in self._kept and position + 1 >= int(self._states.prefill_len.np[slot]):
                rows.append((row, self._request(slot, position, token)))
        self._gate.apply(logits, rows)
        return logits

    def _request(self, slot: int, position: int, token: int) -> GatedRequest:
        """Return the request of a slot, its text up to this position."""
        request = self._requests.get(slot)
        if request is not None and request.length == position:
            request.add(token)
        elif request is None or request.length != position + 1:
            assert self._gate is not None
            prompt = int(self._states.prompt_len.np[slot])
            ids: list[int] = self._states.all_token_ids.gpu[slot, : position + 1].tolist()
            kept, params = self._kept[slot]
            request = self._gate.request(kept, params, ids[:prompt], penalise=False)
            request.follow(ids[prompt:])
            self._requests[slot] = request
        return request
