"""A model that knows only the tokens of some texts: the same text, made twice as fast.

More than half of what a small model computes for a token is the score of each of its 262,144
tokens. Which of several settings is the best can be seen without those that texts of the languages
in question never have. What is published is measured with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from neuronsteer.evaluation.continuations import encode_prompt


class ShortTokenizer:
    """A tokenizer whose ids are positions in the list of tokens that are left."""

    def __init__(self, tokenizer: Any, kept: torch.Tensor) -> None:
        self._tokenizer, self._kept = tokenizer, kept.tolist()
        self._places = {token: place for place, token in enumerate(self._kept)}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._tokenizer, name)
        return self._places.get(found) if name.endswith("_token_id") else found

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": self._short(self._tokenizer(text, **options)["input_ids"])}

    def apply_chat_template(self, messages: Any, **options: Any) -> dict[str, list[int]]:
        found = self._tokenizer.apply_chat_template(messages, **options)
        return {"input_ids": self._short(found["input_ids"])}

    def batch_decode(self, rows: Sequence[Sequence[int]], **options: Any) -> list[str]:
        full = [[self._kept[token] for token in row] for row in rows]
        return self._tokenizer.batch_decode(full, **options)

    def decode(self, row: Sequence[int], **options: Any) -> str:
        return self._tokenizer.decode([self._kept[token] for token in row], **options)

    def get_vocab(self) -> dict[str, int]:
        known = self._tokenizer.get_vocab().items()
        return {text: self._places[token] for text, token in known if token in self._places}

    def _short(self, ids: Sequence[int]) -> list[int]:
        # A token of a prompt that no text had is left out.
        return [self._places[token] for token in ids if token in self._places]


def shorten(model: Any, tokenizer: Any, texts: Iterable[str], chat: bool = False) -> ShortTokenizer:
    """Leave a model the tokens of these texts, special tokens and bytes; return its tokenizer.

    The model is changed and cannot be used with its own tokenizer afterwards.
    """
    wanted = set(tokenizer.all_special_ids)
    wanted |= {i for text, i in tokenizer.get_vocab().items() if len(text) <= 2 or "<0x" in text}
    for text in texts:
        wanted.update(tokenizer(text)["input_ids"])
    # A chat template has words of its own.
    wanted.update(encode_prompt(tokenizer, "", chat))
    kept = torch.tensor(sorted(wanted))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding.padding_idx = None
    embedding.weight = torch.nn.Parameter(embedding.weight.detach()[kept], requires_grad=False)
    embedding.num_embeddings = head.out_features = len(kept)
    head.weight = embedding.weight
    short = ShortTokenizer(tokenizer, kept)
    model.config.vocab_size = len(kept)
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, _renamed(getattr(config, name, None), kept.tolist()))
    return short


def _renamed(found: Any, kept: list[int]) -> Any:
    if isinstance(found, list):
        return [kept.index(token) for token in found if token in kept]
    return kept.index(found) if found in kept else None
