"""Tokens that a text never contains: marks of pictures, tools and roles, and unused entries."""

from __future__ import annotations

from typing import Any


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return the ids that end a text."""
    given: Any = model.generation_config.eos_token_id
    found = [given] if isinstance(given, int) else [*(given or ())]
    return {token for token in (*found, tokenizer.eos_token_id) if token is not None}


def unwritten_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the ids that a model which only continues texts should not generate.

    These are the special tokens, except for those that end a text. A base model that was trained on
    pages with pictures puts their mark between two sentences. Chat models have none: some of them
    need their marks to say what part of the answer follows.
    """
    if getattr(tokenizer, "chat_template", None):
        return []
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    # Unused entries are thousands, and no model was trained to generate one.
    special = {i for i, t in added.items() if t.special and "unused" not in t.content}
    width = model.config.get_text_config().vocab_size
    ids = {*special, *tokenizer.all_special_ids} - end_tokens(model, tokenizer)
    return sorted(i for i in ids if i < width)
