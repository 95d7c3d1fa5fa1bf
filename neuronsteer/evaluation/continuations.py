"""Texts that a model continues: padded on the left, generated in one batch, decoded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from ..models.special_tokens import end_tokens


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


def without_end(model: Any, tokenizer: Any, row: Sequence[int]) -> list[int]:
    """Return new tokens up to the one that ended the text."""
    ends = end_tokens(model, tokenizer)
    return list(itertools.takewhile(lambda token: token not in ends, row))


def encode_prompt(tokenizer: Any, prompt: str, chat: bool = False, **template: Any) -> list[int]:
    """Return the ids of a prompt, in the chat template if it goes through it.

    Args:
        tokenizer: The model's tokenizer.
        prompt: What a user says, or the beginning of a text.
        chat: Whether it goes through the chat template.
        **template: Further arguments of that template.
    """
    if chat:
        messages = [{"role": "user", "content": prompt}]
        found = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, **template
        )
        return [int(i) for i in found["input_ids"]]
    ids = [int(i) for i in tokenizer(prompt)["input_ids"]]
    plain = [int(i) for i in tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    while ids and ids[-1] == eos and len(ids) > len(plain):
        ids.pop()
    # A model that was trained with a first token works badly without it.
    return [int(bos), *ids] if bos is not None and ids[:1] != [bos] else ids


def decode(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return tokens as texts, without special tokens."""
    decoded = tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
    # A text may be cut inside a character of several bytes.
    return [text.strip("\ufffd").strip() for text in decoded]
