"""Which language a token of the vocabulary belongs to, learned from text and from its letters."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError
from ._relatives import writing

#: What belongs to no label: digits, punctuation, spaces, and words that are not in the texts.
OTHER = "other"
BY = ("language", "script")

# A label uses a script if at least so many of its letters are of it: names and quotations do not
# make Russian a Latin language.
_SCRIPT_SHARE = 0.02
# What a decoder shows for part of a character.
_PIECE = "\ufffd"


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """The share of each label in each token.

    Attributes:
        names: Languages or scripts, and `other` as the last.
        shares: float32 `[vocabulary, names]`, rows sum to 1.
    """

    names: tuple[str, ...]
    shares: Tensor

    def known(self) -> float:
        """Return the share of the vocabulary that is not `other`."""
        return float((self.shares[:, -1] < 0.5).float().mean())


def token_table(
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]],
    size: int,
    *,
    by: str = "language",
    least: int = 2,
) -> TokenTable:
    """Return the table that follows from texts of each label and the letters of the tokens.

    By language, a token's share in a label is how frequent it is there, over the sum of its
    frequencies in all labels. Before that its letters decide: a label that does not use the token's
    script (as its own texts show) has no share, and where one label is left, the token is its, seen
    or not. A token without letters belongs to no label, nor does one seen fewer than `least` times;
    part of a character (byte-level tokenizers) is decided by frequency alone. By script, only
    letters count.

    Args:
        tokenizer: A tokenizer.
        texts: Label → texts.
        size: Rows of the table: the width of the model's logits.
        by: `"language"` or `"script"`.
        least: How often a token must be seen to be decided by frequency.
    """
    if by not in BY:
        raise ParameterError(f"by={by!r}; expected {' or '.join(BY)}.")
    pieces = _decoded(tokenizer, size)
    written = [_scripts(piece) for piece in pieces]
    if by == "script":
        return _by_script(written, texts, size)
    labels = list(texts)
    counts = torch.zeros(len(labels), size, dtype=torch.float64)
    for position, label in enumerate(labels):
        for text in texts[label]:
            ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
            counts[position] += torch.bincount(ids.long(), minlength=size)[:size]
    frequency = counts / counts.sum(1, keepdim=True).clamp(min=1)
    uses = [_used(texts[label]) for label in labels]
    # Few sets of scripts occur: whole vocabularies are decided at once.
    kinds = sorted(set(written), key=sorted)
    fits = torch.tensor([[not kind or kind <= used for used in uses] for kind in kinds])
    position = {kind: i for i, kind in enumerate(kinds)}
    allowed = fits[torch.tensor([position[scripts] for scripts in written])]
    lettered = torch.tensor([bool(scripts) for scripts in written])
    frequent = lettered | torch.tensor([_PIECE in piece for piece in pieces])
    frequent &= counts.sum(0) >= least
    shares = frequency.T * allowed * frequent[:, None]
    only = lettered & (allowed.sum(1) == 1)
    shares[only] = allowed[only].double()
    total = shares.sum(1, keepdim=True)
    rest = (total == 0).double()
    shares = torch.cat([shares / total.clamp(min=1e-300), rest], 1)
    return TokenTable((*labels, OTHER), shares.float())


def _by_script(
    written: Sequence[frozenset[str]], texts: Mapping[str, Sequence[str]], size: int
) -> TokenTable:
    names = sorted({name for each in texts.values() for name in _used(each)})
    shares = torch.zeros(size, len(names) + 1)
    for token, scripts in enumerate(written):
        known = [names.index(name) for name in scripts if name in names]
        if known:
            shares[token, known] = 1 / len(known)
        else:
            shares[token, -1] = 1
    return TokenTable((*names, OTHER), shares)


def _decoded(tokenizer: Any, size: int) -> list[str]:
    """Return the text of every token; special tokens and unused rows are empty."""
    special = set(tokenizer.all_special_ids)
    known = min(size, len(tokenizer))
    found = tokenizer.batch_decode([[i] for i in range(known)], clean_up_tokenization_spaces=False)
    return ["" if i in special else text for i, text in enumerate(found)] + [""] * (size - known)


def _scripts(text: str) -> frozenset[str]:
    return frozenset(name for name in map(writing, text) if name is not None)


def _used(texts: Sequence[str]) -> frozenset[str]:
    letters = Counter(name for text in texts for name in map(writing, text) if name is not None)
    total = letters.total()
    return frozenset(name for name, n in letters.items() if n >= _SCRIPT_SHARE * total)
