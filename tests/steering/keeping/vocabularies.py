"""Two tokenizers that know the same words of several scripts: one of bytes, one of pieces."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

#: Word -> its scripts.
WORDS = {
    "Python": "LATIN",
    "weather": "LATIN",
    "the": "LATIN",
    "été": "LATIN",
    "天气": "CJK",
    "很好": "CJK",
    "天気です": "CJK HIRAGANA",
    "날씨": "HANGUL",
    "오늘": "HANGUL",
    "좋다": "HANGUL",
    "погода": "CYRILLIC",
    "π": "",
    "λόγος": "GREEK",
    "मौसम": "DEVANAGARI",
    "42": "",
    "。": "",
    "...": "",
}
SPECIAL = ["<pad>", "<s>", "</s>", "<think>", "</think>"]


def byte_level() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are bytes, or words made of bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(list(WORDS) * 3, trainer)
    backend.decoder = decoders.ByteLevel()
    return _wrapped(backend)


def sentence_piece() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words with a mark for spaces, and bytes for what is unknown."""
    names = [*(f"<0x{byte:02X}>" for byte in range(256)), *(f"▁{w}" for w in WORDS), "▁", "\n"]
    vocabulary = [("<unk>", -20.0), *((name, -1.0) for name in names)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Prepend("▁")
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _wrapped(backend)


def _wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_tokens(SPECIAL[3:], special_tokens=True)
    return tokenizer
