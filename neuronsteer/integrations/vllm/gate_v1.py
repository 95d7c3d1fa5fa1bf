"""The vocabulary gate as a logits processor of model runner V1.

vLLM imports this module by its name, which admission puts into the engine's configuration: an entry
point would load it into every engine, and V2 refuses to start with a processor made for V1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...errors import require
from .kept_requests import kept_request
from .request_gate import GatedRequest, RequestGate
from .worker_gate import gate_of

_vllm: Any = require("vllm.v1.sample.logits_processor", "vllm", "Serving")


class KeepV1(_vllm.LogitsProcessor):
    """Holds back foreign tokens in the rows of requests that are kept in a language."""

    def __init__(self, vllm_config: Any, _device: Any, _is_pin_memory: bool) -> None:
        self._gate: RequestGate | None = gate_of(vllm_config)
        #: Row of the batch -> the request, and vLLM's own list of its generated tokens.
        self._rows: dict[int, tuple[GatedRequest, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """Whether the likeliest token never changes; it does."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow what comes into the batch, leaves it, or is moved."""
        _vllm.process_dict_updates(self._rows, batch_update, self._added)

    def _added(
        self, params: Any, prompt: list[int] | None, generated: list[int]
    ) -> tuple[GatedRequest, list[int]] | None:
        kept = kept_request(params)
        if kept is None or self._gate is None:
            return None
        # V1 takes penalties off after its logits processors.
        request = self._gate.request(kept, params, prompt or [], penalise=True)
        return request, generated

    def apply(self, logits: Tensor) -> Tensor:
        """Return the logits, changed in place."""
        if self._gate is not None and self._rows:
            for request, generated in self._rows.values():
                request.follow(generated)
            rows = [(row, request) for row, (request, _) in self._rows.items()]
            self._gate.apply(logits, rows)
        return logits
