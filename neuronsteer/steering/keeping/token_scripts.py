"""Which scripts the tokens of a vocabulary are written in, pieces of characters included."""

from __future__ import annotations

import re
import weakref
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...languages import script_of

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_NOTHING: frozenset[str] = frozenset()
_ASCII = frozenset({"LATIN"})
#: Bytes that follow the first one of a character.
_FOLLOWING = range(0x80, 0xC0)
#: What looks like UTF-8 here is not a character.
_SURROGATES = range(0xD800, 0xE000)


class TokenScripts:
    """Text and scripts of every token of a tokenizer; `TokenScripts.of(tokenizer)` keeps them.

    Attributes:
        texts: What each token adds to a text; a piece of a character has no text of its own.
        kinds: The different sets of scripts that tokens have.
        kind: Which of them each token has `[tokens]`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.texts: list[str] = []
        self.kinds: list[frozenset[str]] = []
        numbers: dict[frozenset[str], int] = {}
        kind: list[int] = []
        for text, found in _tokens(tokenizer):
            if found not in numbers:
                numbers[found] = len(self.kinds)
                self.kinds.append(found)
            self.texts.append(text)
            kind.append(numbers[found])
        self.kind = torch.tensor(kind, dtype=torch.int64)

    @classmethod
    def of(cls, tokenizer: Any) -> TokenScripts:
        """Return the scripts of a tokenizer's tokens, read when first asked for."""
        found = _known.get(tokenizer)
        if found is None or len(found.texts) != len(tokenizer):  # tokens may have been added
            found = _known[tokenizer] = cls(tokenizer)
        return found

    def foreign(self, allowed: Collection[str]) -> Tensor:
        """Return which tokens have letters of other scripts than `allowed` `[tokens]`."""
        return torch.tensor([not kind <= set(allowed) for kind in self.kinds])[self.kind]

    def having(self, scripts: Collection[str]) -> Tensor:
        """Return which tokens have letters of one of `scripts` `[tokens]`."""
        return torch.tensor([bool(kind & set(scripts)) for kind in self.kinds])[self.kind]

    def text(self, token: int) -> str:
        """Return what a token adds to a text."""
        return self.texts[token] if token < len(self.texts) else ""

    def scripts(self, token: int) -> frozenset[str]:
        """Return the scripts that a token has letters of."""
        return self.kinds[int(self.kind[token])] if token < len(self.kind) else _NOTHING


_known: weakref.WeakKeyDictionary[Any, TokenScripts] = weakref.WeakKeyDictionary()


def _tokens(tokenizer: Any) -> list[tuple[str, frozenset[str]]]:
    """Return text and scripts of every token."""
    names: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    added = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items()}
    byte_of = _byte_alphabet() if _is_byte_level(tokenizer) else None
    found: list[tuple[str, frozenset[str]]] = []
    for number, name in enumerate(names):
        if name is None or number in special or number in added:
            text = added.get(number, name or "")
            found.append((text, _NOTHING if number in special else _scripts(text)))
        elif byte_of is not None:
            found.append(_from_bytes(bytes([byte_of[c] for c in name if c in byte_of])))
        elif byte := _BYTE.fullmatch(name):
            found.append(_from_bytes(bytes([int(byte[1], 16)])))
        else:
            text = name.replace("▁", " ")
            found.append((text, _scripts(text)))
    return found


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return hasattr(tokenizer, "byte_decoder") or "ByteLevel" in str(getattr(backend, "decoder", ""))


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Return the bytes behind the characters that byte-level tokenizers write them with."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(shifted)}


def _from_bytes(data: bytes) -> tuple[str, frozenset[str]]:
    """Return the text of a token that consists of bytes, and the scripts that it may belong to."""
    if data.isascii():
        text = data.decode("ascii")
        return text, _scripts(text)
    start = next((n for n, byte in enumerate(data) if byte not in _FOLLOWING), len(data))
    end = len(data)
    for back in range(1, min(4, end - start + 1)):
        byte = data[end - back]
        if byte not in _FOLLOWING:
            if back < _length(byte):
                end -= back
            break
    text = data[start:end].decode("utf-8", errors="ignore")
    return text, _scripts(text) | _begun(data[end:])


def _length(first: int) -> int:
    """Return how many bytes a character has that begins with this one."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@lru_cache(maxsize=4096)
def _begun(data: bytes) -> frozenset[str]:
    """Return the scripts of the characters that may begin with `data`.

    Nothing, unless most of these characters are letters of some script: what may become a
    punctuation mark or an emoji is not held back.
    """
    if not data or not 0xC2 <= data[0] <= 0xF4:
        return _NOTHING
    missing = _length(data[0]) - len(data)
    first, last = data + b"\x80" * missing, data + b"\xbf" * missing
    low, high = _code_point(first), min(_code_point(last), 0x10FFFF)
    step = max(1, (high - low) // 512)  # of 262,144 characters a sample will do
    points = [point for point in range(low, high + 1, step) if point not in _SURROGATES]
    found = [script_of(chr(point)) for point in points]
    letters = [each for each in found if each is not None]
    return frozenset(letters) if len(letters) * 2 > len(found) else _NOTHING


def _code_point(data: bytes) -> int:
    """Return what UTF-8 means by `data`, also where it is not a character."""
    value = data[0] & (0x7F >> len(data))
    for byte in data[1:]:
        value = value << 6 | (byte & 0x3F)
    return value


def _scripts(text: str) -> frozenset[str]:
    if text.isascii():
        return _ASCII if any(map(str.isalpha, text)) else _NOTHING
    found = {script_of(character) for character in set(text)}
    if "GREEK" in found and sum(script_of(character) is not None for character in text) == 1:
        return _NOTHING  # a symbol of mathematics or physics, not a word
    return frozenset(each for each in found if each)
