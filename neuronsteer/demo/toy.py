"""A toy language model that speaks four languages, trained from nothing in well under a minute.

It stands in wherever no real model is at hand: `make demo` on a machine without internet, examples,
tests. What it says is grammatical and means nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..detectors import detect
from ..neuronset import NeuronSet
from ..stats import collect
from .sentences import LANGUAGES, sentence, texts

_END = "<|end|>"
_LENGTH = 64
_BATCH = 16
_STEPS = 300
_RATE = 4e-3
# Chance that a training text goes on in another language, in the middle of a sentence. Without it
# the model would never have seen a switch, and would not know what to do with one.
_SWITCH = 0.3

Progress = Callable[[int, int, float], None]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the toy languages."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
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
    steps: int = _STEPS,
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
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(len(tokenizer), tokenizer.eos_token_id))
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
        batches = _batches(tokenizer, random.Random(seed))
        model.train()
        for step in range(steps):
            # A short warm-up, then down to nothing in a straight line.
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min((step + 1) / 20, 1 - step / steps)
            ids = next(batches)
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if progress is not None:
                progress(step + 1, steps, float(loss.detach()))
    return model.eval()


def find(model: Any, tokenizer: Any) -> NeuronSet:
    """Return the neurons that steer a toy model: collect, then detect."""
    corpora = {name: texts(name, 100, 3, seed=7) for name in LANGUAGES}
    stats = collect(model, tokenizer, corpora, progress=False)
    # A toy has a thousand neurons: the usual 1 % of them would be ten.
    return detect(stats, method="effect", rate=0.2, factor=3.0)


def build(folder: Path, progress: Progress | None = None) -> None:
    """Train a toy, find its neurons, and write both into `folder`: `model/` and `set/`."""
    words = tokenizer()
    model = train(words, progress=progress)
    model.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    find(model, words).save_pretrained(folder / "set")


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    """Use one core: matrices this small gain nothing from two, and waiting for each other costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _config(vocabulary: int, end: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )


def _batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[torch.Tensor]:
    """Yield batches of token ids, each row a window of an endless text."""
    size = _BATCH * _LENGTH
    ids: list[int] = []
    language = rng.choice(LANGUAGES)
    while True:
        while len(ids) < size:
            words = sentence(language, rng).split()
            if rng.random() < _SWITCH:
                language = rng.choice(LANGUAGES)
                other = sentence(language, rng).split()
                words = words[: rng.randint(1, len(words))] + other[rng.randrange(len(other)) :]
            ids += tokenizer.encode(" ".join(words), add_special_tokens=False)
        yield torch.tensor(ids[:size]).view(_BATCH, _LENGTH)
        ids = ids[size:]
