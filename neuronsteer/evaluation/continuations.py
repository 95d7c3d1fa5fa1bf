"""Texts that a model continues: padded on the left, generated in one batch, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def continue_rows(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], tokens: int, **options: Any
) -> list[list[int]]:
    """Return the new tokens of every row, at most `tokens` of them.

    Args:
        model: A causal LM, steered or not.
        tokenizer: Its tokenizer.
        rows: Token ids of prompts.
        tokens: How many new tokens.
        **options: Further arguments of `model.generate`.
    """
    device = model.get_input_embeddings().weight.device
    longest = max(len(row) for row in rows)
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad = next(int(token) for token in found if token is not None)
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    made = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=tokens,
        pad_token_id=pad,
        **options,
    )
    return [row[longest:] for row in made.tolist()]


def decode(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return tokens as texts, without special tokens."""
    decoded = tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
    # A text may be cut inside a character of several bytes.
    return [text.strip("\ufffd").strip() for text in decoded]
