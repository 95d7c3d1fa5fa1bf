"""Held-out bits per byte of each language."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data import load_split
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Returns how many bytes of text each token stands for (special tokens: 0)."""
    lengths = np.zeros(len(tokenizer), dtype=np.int64)
    for token, index in tokenizer.get_vocab().items():
        # Byte-level BPE spells one byte as one character.
        lengths[index] = 0 if index in tokenizer.all_special_ids else len(token)
    return lengths


class HeldOut:
    """A fixed held-out sample, scored the same way every time.

    Only text counts: the loss of predicting end-of-document tokens is left out, as their number
    depends on how sentences were joined.

    Args:
        cache: Folder made by `data.prepare`.
        tokenizer: Its tokenizer.
        languages: Languages to score.
        block: Context length.
        blocks: Blocks of each language (0: the whole held-out text).
    """

    def __init__(
        self,
        cache: Path,
        tokenizer: PreTrainedTokenizerFast,
        languages: list[str],
        block: int,
        blocks: int,
    ) -> None:
        self.lengths = torch.from_numpy(token_bytes(tokenizer))
        self.blocks: dict[str, torch.Tensor] = {}
        for language in languages:
            tokens, _ = load_split(cache, "heldout", language)
            count = len(tokens) // (block + 1)
            count = min(count, blocks) if blocks else count
            if count == 0:
                raise ValueError(f"held-out text of {language} is shorter than one block")
            flat = np.asarray(tokens[: count * (block + 1)], dtype=np.int64)
            self.blocks[language] = torch.from_numpy(flat.reshape(count, block + 1))

    @torch.no_grad()
    def score(self, model: PreTrainedModel, dtype: torch.dtype, batch: int = 8) -> dict[str, float]:
        """Returns bits per byte by language, and their mean under ``"mean"``."""
        device = model.device
        lengths = self.lengths.to(device)
        result = {}
        for language, blocks in self.blocks.items():
            nats, n_bytes = 0.0, 0
            for rows in blocks.split(batch):
                rows = rows.to(device)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
                targets = rows[:, 1:].reshape(-1)
                losses = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
                size = lengths[targets]
                nats += float(losses[size > 0].sum())
                n_bytes += int(size.sum())
            result[language] = round(nats / math.log(2) / n_bytes, 4)
        result["mean"] = round(sum(result.values()) / len(result), 4)
        return result
