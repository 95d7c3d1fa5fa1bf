"""The gate of a worker: of which tokenizer it is made, and how vLLM finds its logits processor."""

from __future__ import annotations

from typing import Any

from ...errors import require
from .kept_requests import config_obstacle, unreadable
from .request_gate import RequestGate
from .settings import settings_of

_PACKAGE = __name__.rpartition(".")[0]


def processor_name(vllm_config: Any) -> str:
    """Return what names the logits processor in vLLM's configuration."""
    runner = 2 if vllm_config.use_v2_model_runner else 1
    return f"{_PACKAGE}.gate_v{runner}:KeepV{runner}"


def tokenizer_obstacle(vllm_config: Any) -> str | None:
    """Return why the model's tokenizer tells no scripts, `None` if it does."""
    return unreadable(_tokenizer(vllm_config))


def gate_of(vllm_config: Any) -> RequestGate | None:
    """Return the gate of a worker, `None` where admission refuses every request for it."""
    settings = settings_of(vllm_config)
    if settings is None or config_obstacle(vllm_config) is not None:
        return None
    tokenizer = _tokenizer(vllm_config)
    return None if unreadable(tokenizer) is not None else RequestGate(tokenizer, settings.keep)


def _tokenizer(vllm_config: Any) -> Any:
    tokenizers = require("vllm.tokenizers", "vllm", "Serving")
    return tokenizers.cached_tokenizer_from_config(vllm_config.model_config)
