"""What a request is kept in, resolved at admission, and which engines can keep requests.

Only logits are changed, so requests that are kept share cached prefixes with all others.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from ...errors import ParameterError
from ...steering.schedule import Schedule
from .settings import KEEP, THINKING, KeepSettings, read_kept, read_thinking

#: Of every engine in this process, for checks that do not know which engine they belong to.
ALL_KEEPING: weakref.WeakSet[Keeping] = weakref.WeakSet()

#: What of a tokenizer tells the scripts of its tokens.
_TOKENIZER = ("convert_ids_to_tokens", "all_special_ids", "added_tokens_decoder", "__len__")


@dataclass(frozen=True)
class KeptRequest:
    """What one request is kept in.

    Attributes:
        languages: By the number of generated tokens.
        thinking: The language of its thoughts; `None` leaves them alone.
    """

    languages: Schedule
    thinking: str | None = None

    def to_wire(self) -> list[str | None]:
        """Return plain data, which vLLM carries to the workers in `extra_args`."""
        return [str(self.languages), self.thinking]

    @classmethod
    def from_wire(cls, data: Any) -> KeptRequest:
        """Return the request that `to_wire` wrote."""
        languages, thinking = data
        return cls(read_kept(languages, KEEP) or Schedule(None), thinking)


class Keeping:
    """Keeps the requests of one engine in languages, as far as it can.

    Args:
        settings: What is done to requests that say nothing.
        obstacle: Why this engine can keep nothing, in words; `None`: it can.
    """

    def __init__(self, settings: KeepSettings | None, obstacle: str | None) -> None:
        settings = settings or KeepSettings()
        self._obstacle = obstacle
        self._languages = read_kept(settings.language, KEEP)
        self._thinking = read_thinking(settings.thinking, THINKING)
        if obstacle is not None and self.by_default:
            raise ParameterError(f"This server cannot keep texts in a language: {obstacle}")

    @property
    def by_default(self) -> bool:
        """Whether requests that say nothing are kept."""
        return self._languages is not None or self._thinking is not None

    def resolve(self, extra: dict[str, Any]) -> KeptRequest | None:
        """Return what a request with these `extra_args` is kept in, `None` if in nothing.

        Raises:
            NeuronSteerError: If it cannot be kept so; the message says why.
        """
        languages, thinking = self._languages, self._thinking
        if extra.get(KEEP) is not None:
            languages = read_kept(extra[KEEP], KEEP)
            # What the server does to thoughts belongs to the language that it keeps.
            thinking = None
        if extra.get(THINKING) is not None:
            thinking = read_thinking(extra[THINKING], THINKING)
        if languages is None and thinking is None:
            return None
        if self._obstacle is not None:
            raise ParameterError(f"Cannot keep a text in a language here: {self._obstacle}")
        return KeptRequest(languages or Schedule(None), thinking)


def config_obstacle(vllm_config: Any) -> str | None:
    """Return why an engine with this configuration can keep nothing, `None` if it may."""
    model = vllm_config.model_config
    if vllm_config.speculative_config is not None:
        return (
            "with speculative decoding, vLLM's logits processors do not see drafts. Start the "
            "server without it."
        )
    if model.skip_tokenizer_init:
        return (
            "without a tokenizer, the scripts of tokens are unknown. Start the server without "
            "--skip-tokenizer-init."
        )
    if getattr(model, "return_sampling_mask", False):
        return "vLLM returns no sampling masks where a logits processor changes them."
    return None


def unreadable(tokenizer: Any) -> str | None:
    """Return why a tokenizer does not tell the scripts of its tokens, `None` if it does."""
    if tokenizer is not None and all(hasattr(tokenizer, name) for name in _TOKENIZER):
        return None
    return (
        f"a tokenizer of the class {type(tokenizer).__name__} does not tell what its tokens are "
        "made of. Start the server with --tokenizer-mode hf, if the model has such a tokenizer."
    )


def kept_request(sampling_params: Any) -> KeptRequest | None:
    """Return what admission wrote into a request, for the workers."""
    extra = None if sampling_params is None else sampling_params.extra_args
    wire = extra.get(KEEP) if extra else None
    return None if wire is None else KeptRequest.from_wire(wire)
