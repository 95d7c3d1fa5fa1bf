"""Which tokens a model that continues texts is kept from generating."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from neuronsteer.models.special_tokens import end_tokens, unwritten_tokens
from tests.tiny_models import tiny_model, tiny_tokenizer


def _marked() -> tuple[Any, Any]:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    width = model.get_output_embeddings().weight.shape[0]
    added = {
        3: SimpleNamespace(content="<image>", special=True),
        4: SimpleNamespace(content="<unused7>", special=True),
        5: SimpleNamespace(content="\n\n", special=False),
        width + 1: SimpleNamespace(content="<audio>", special=True),
    }
    return model, _With(tokenizer, added)


class _With:
    """A tokenizer with other added tokens."""

    def __init__(self, tokenizer: Any, added: dict[int, Any]) -> None:
        self._tokenizer = tokenizer
        self.added_tokens_decoder = added

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_marks_are_not_written_but_texts_can_end():
    model, tokenizer = _marked()
    found = unwritten_tokens(model, tokenizer)
    assert 3 in found and tokenizer.bos_token_id in found
    assert not {4, 5} & set(found)  # never generated anyway; and ordinary text
    assert not end_tokens(model, tokenizer) & set(found)
    assert max(found) < model.get_output_embeddings().weight.shape[0]


def test_chat_models_write_their_marks():
    model, tokenizer = _marked()
    tokenizer.chat_template = "{{ messages }}"
    assert unwritten_tokens(model, tokenizer) == []


def test_what_ends_a_text():
    model, tokenizer = _marked()
    model.generation_config.eos_token_id = [7, 8]
    assert end_tokens(model, tokenizer) == {7, 8, tokenizer.eos_token_id}
    model.generation_config.eos_token_id = None
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id}
