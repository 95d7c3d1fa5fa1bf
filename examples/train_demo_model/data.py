"""Corpus -> tokenizer -> token cache on disk.

The corpus is a folder of ``<language>.txt.xz`` (or ``.txt``) files with one sentence per line. This
module joins a few sentences of one language into a document, trains a byte-level BPE tokenizer on
a sample that is balanced over languages, and tokenises everything exactly once: the cache holds one
``uint16`` file of tokens and one ``int64`` file of document offsets per language, both memory
mapped by the trainer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

log = logging.getLogger("train_demo_model")

LANGUAGES = ("en", "de", "fr", "es", "zh", "ja", "ru", "ar")
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"

# Written without spaces between sentences.
UNSPACED = frozenset({"zh", "ja"})

# Words keep their leading space, digits stand alone, punctuation groups; a run of letters may be a
# whole Chinese clause, which is what lets BPE learn multi-character CJK tokens.
SPLIT = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class DataConfig:
    """Everything the token cache depends on.

    Attributes:
        languages: Language codes; each must have a file in the corpus folder.
        vocab_size: Size of the BPE vocabulary, special tokens included.
        min_sentences: Fewest sentences in a document.
        max_sentences: Most sentences in a document.
        tokenizer_bytes: UTF-8 bytes of each language the tokenizer is trained on.
        max_bytes: Cap on the training bytes of each language (0: no cap); used by the sweep.
        seed: Seed of the document lengths.
    """

    languages: tuple[str, ...] = LANGUAGES
    vocab_size: int = 8192
    min_sentences: int = 4
    max_sentences: int = 12
    tokenizer_bytes: int = 2_500_000
    max_bytes: int = 0
    seed: int = 0

    def key(self, folders: tuple[Path, ...]) -> str:
        """Returns a short hash of the settings and of the corpus files' names and sizes."""
        files = [
            (p.name, p.stat().st_size)
            for folder in folders
            for p in sorted(folder.iterdir())
            if p.name.split(".")[0] in self.languages
        ]
        text = json.dumps([asdict(self), files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_lines(folder: Path, language: str) -> list[str]:
    """Returns the sentences of one language."""
    for name in (f"{language}.txt.xz", f"{language}.txt"):
        path = folder / name
        if path.exists():
            opener = lzma.open if name.endswith(".xz") else open
            with opener(path, "rt", encoding="utf-8") as handle:
                return [line for line in (raw.strip() for raw in handle) if line]
    raise FileNotFoundError(f"no {language}.txt.xz or {language}.txt in {folder}")


def documents(lines: list[str], language: str, config: DataConfig) -> Iterator[str]:
    """Joins consecutive sentences of one language into documents of varying length."""
    rng = np.random.default_rng([config.seed, *language.encode()])
    joiner = "" if language in UNSPACED else " "
    start = 0
    while start < len(lines):
        count = int(rng.integers(config.min_sentences, config.max_sentences + 1))
        yield joiner.join(lines[start : start + count])
        start += count


def _head(lines: list[str], n_bytes: int) -> list[str]:
    """Returns the first lines that together hold at most ``n_bytes`` of UTF-8 (0: all)."""
    if not n_bytes:
        return lines
    total, kept = 0, 0
    for line in lines:
        total += len(line.encode())
        if total > n_bytes:
            break
        kept += 1
    return lines[:kept]


def train_tokenizer(folder: Path, config: DataConfig) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer; every string encodes and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in (BOS, EOS, PAD)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )

    def sample() -> Iterator[str]:
        for language in config.languages:
            lines = _head(read_lines(folder, language), config.tokenizer_bytes)
            yield from documents(lines, language, config)

    tokenizer.train_from_iterator(sample(), trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _encode_split(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], stem: Path
) -> dict[str, int]:
    """Tokenises documents to ``stem.bin`` and ``stem.idx.npy``; returns their sizes."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    offsets, written = [0], 0
    with open(f"{stem}.bin", "wb") as handle:
        for start in range(0, len(texts), 2048):
            batch = tokenizer.backend_tokenizer.encode_batch_fast(
                texts[start : start + 2048], add_special_tokens=False
            )
            for encoding in batch:
                ids = [bos, *encoding.ids, eos]
                handle.write(np.asarray(ids, dtype=np.uint16).tobytes())
                written += len(ids)
                offsets.append(written)
    np.save(f"{stem}.idx.npy", np.asarray(offsets, dtype=np.int64))
    return {
        "documents": len(texts),
        "tokens": written,
        "bytes": sum(len(t.encode()) for t in texts),
        "characters": sum(len(t) for t in texts),
    }


def prepare(data: Path, heldout: Path, cache_root: Path, config: DataConfig) -> Path:
    """Builds the tokenizer and the token cache once, and returns the cache folder.

    Args:
        data: Folder of the training text.
        heldout: Folder of the held-out text.
        cache_root: Where caches live; each is named by a hash of its settings.
        config: The settings.

    Returns:
        The folder with ``tokenizer/``, ``train.<lang>.*``, ``heldout.<lang>.*`` and ``meta.json``.
    """
    if config.vocab_size > 2**16:
        raise ValueError(f"vocab_size {config.vocab_size} does not fit the uint16 cache")
    folder = cache_root / f"tokens-{config.key((data, heldout))}"
    if (folder / "meta.json").exists():
        return folder
    started = time.time()
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tokenizer = train_tokenizer(data, config)
    tokenizer.save_pretrained(temporary / "tokenizer")
    log.info("tokenizer: %d entries, %.0f s", len(tokenizer), time.time() - started)
    meta: dict = {"config": asdict(config), "train": {}, "heldout": {}}
    for split, source in (("train", data), ("heldout", heldout)):
        for language in config.languages:
            lines = read_lines(source, language)
            if split == "train":
                lines = _head(lines, config.max_bytes)
            texts = list(documents(lines, language, config))
            counts = _encode_split(tokenizer, texts, temporary / f"{split}.{language}")
            meta[split][language] = counts
            log.info(
                "%s %s: %.2f M tokens, %.2f bytes a token",
                split,
                language,
                counts["tokens"] / 1e6,
                counts["bytes"] / counts["tokens"],
            )
    (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    # A rename is atomic: a cache folder either is complete or does not exist.
    os.replace(temporary, folder)
    log.info("token cache ready in %.0f s", time.time() - started)
    return folder


def load_tokenizer(cache: Path) -> PreTrainedTokenizerFast:
    """Loads the tokenizer of a cache."""
    return AutoTokenizer.from_pretrained(cache / "tokenizer")


def load_split(cache: Path, split: str, language: str) -> tuple[np.ndarray, np.ndarray]:
    """Memory-maps the tokens and the document offsets of one language."""
    tokens = np.memmap(cache / f"{split}.{language}.bin", dtype=np.uint16, mode="r")
    return tokens, np.load(cache / f"{split}.{language}.idx.npy")


class TokenStream:
    """Packed training blocks whose content is a pure function of the seed and the position.

    The stream is made of *passes* of about ``pass_tokens`` tokens. A pass takes the next documents
    of every language from that language's endless sequence of shuffled epochs, in numbers that give
    each language its share of the tokens, shuffles them together and cuts them into blocks. So any
    position can be rebuilt without replaying the ones before it, whatever the batch size was.

    Args:
        cache: Folder made by `prepare`.
        weights: Relative share of the tokens of each language.
        block: Tokens of context; a block holds one more, for the shifted targets.
        seed: Seed of the order.
        pass_tokens: Approximate tokens in a pass.
    """

    def __init__(
        self,
        cache: Path,
        weights: dict[str, float],
        block: int,
        seed: int,
        pass_tokens: int = 2**21,
    ) -> None:
        self.weights, self.block, self.seed = weights, block, seed
        self.languages = list(weights)
        self._splits = {lang: load_split(cache, "train", lang) for lang in self.languages}
        total = sum(weights.values())
        self._per_pass: dict[str, int] = {}
        for lang, (_, offsets) in self._splits.items():
            mean = offsets[-1] / (len(offsets) - 1)
            self._per_pass[lang] = max(1, round(pass_tokens * weights[lang] / total / mean))
        # Documents differ in length, so passes do too; a fixed number of blocks, a little under
        # the mean, keeps position -> (pass, row) a division.
        self.blocks_per_pass = max(1, int(pass_tokens * 0.98) // (block + 1))
        self._loaded: tuple[int, np.ndarray] | None = None
        self._orders: dict[tuple[str, int], np.ndarray] = {}

    def _order(self, lang: str, epoch: int) -> np.ndarray:
        key = (lang, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != lang}
            rng = np.random.default_rng([self.seed, epoch, *lang.encode()])
            self._orders[key] = rng.permutation(len(self._splits[lang][1]) - 1)
        return self._orders[key]

    def _build(self, index: int) -> np.ndarray:
        picks: list[tuple[str, int]] = []
        for lang in self.languages:
            n_docs = len(self._splits[lang][1]) - 1
            first = index * self._per_pass[lang]
            for cursor in range(first, first + self._per_pass[lang]):
                epoch, row = divmod(cursor, n_docs)
                picks.append((lang, int(self._order(lang, epoch)[row])))
        rng = np.random.default_rng([self.seed, index, 7])
        parts = []
        for i in rng.permutation(len(picks)):
            lang, doc = picks[i]
            tokens, offsets = self._splits[lang]
            parts.append(tokens[offsets[doc] : offsets[doc + 1]])
        flat = np.concatenate(parts)
        need = self.blocks_per_pass * (self.block + 1)
        # Only tiny corpora fall short of the mean by more than the margin; they wrap around.
        return np.resize(flat, need).reshape(self.blocks_per_pass, self.block + 1)

    def batch(self, position: int, size: int) -> np.ndarray:
        """Returns blocks ``position`` to ``position + size - 1`` as int64 ``[size, block + 1]``."""
        rows = []
        for i in range(position, position + size):
            index, row = divmod(i, self.blocks_per_pass)
            if self._loaded is None or self._loaded[0] != index:
                self._loaded = (index, self._build(index))
            rows.append(self._loaded[1][row])
        return np.stack(rows).astype(np.int64)

    def epochs(self, position: int) -> dict[str, float]:
        """Returns how many times each language's text has been seen at a position."""
        passes = position / self.blocks_per_pass
        return {
            lang: round(passes * self._per_pass[lang] / (len(self._splits[lang][1]) - 1), 3)
            for lang in self.languages
        }
