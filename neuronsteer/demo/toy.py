"""A toy language model that speaks four languages, trained from nothing in well under a minute.

It stands in wherever no real model is at hand: `make demo` on a machine without internet, examples,
tests. What it says is grammatical and means nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .sentences import LANGUAGES, sentence, texts

_END = "<|end|>"
_LENGTH = 64
# Chance that a training text goes on in another language, in the middle of a sentence. Without it the
# model would never have seen a switch, and would not know what to do with one.
_SWITCH = 0.3

Progress = Callable[[int, int, float], None]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the toy languages."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        [text for name in LANGUAGES for text in texts(name, 200, 3, seed=1)], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=_END, pad_token=_END)


def train(
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """Return a trained toy model.

    Args:
        tokenizer: What `tokenizer()` returned.
        steps: Number of optimiser steps.
        seed: For the weights and the texts.
        progress: Called with the step, the number of steps and the loss.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(len(tokenizer), tokenizer.eos_token_id))
    batches = _batches(tokenizer, 16, random.Random(seed))
    rate = 4e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    model.train()
    for step in range(steps):
        # A short warm-up, then down to nothing in a straight line.
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 20, 1 - step / steps)
        ids = next(batches)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps, float(loss.detach()))
    return model.eval()


def _config(vocabulary: int, end: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )


def _batches(tokenizer: PreTrainedTokenizerFast, size: int, rng: random.Random) -> Any:
    """Yield batches of token ids, each row a window of an endless text."""
    ids: list[int] = []
    language = rng.choice(LANGUAGES)
    while True:
        while len(ids) < size * _LENGTH:
            words = sentence(language, rng).split()
            if rng.random() < _SWITCH:
                language = rng.choice(LANGUAGES)
                other = sentence(language, rng).split()
                words = words[: rng.randint(1, len(words))] + other[rng.randrange(len(other)) :]
            ids += tokenizer.encode(" " + " ".join(words), add_special_tokens=False)
        yield torch.tensor(ids[: size * _LENGTH]).view(size, _LENGTH)
        ids = ids[size * _LENGTH :]
