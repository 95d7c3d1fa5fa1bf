"""From texts to rows of token ids with a mark on every token that counts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ParameterError, TextError
from .policy import TokenPolicy
from .texts import Item

log = logging.getLogger(__name__)

_GROUP = 256  # texts handed to the tokenizer at once
_INT32 = np.int32


@dataclass(frozen=True, eq=False)
class TokenRow:
    """One sequence for the model.

    Attributes:
        ids: Token ids.
        counts: Which of them count.
        text: Position among the label's rows.
    """

    ids: np.ndarray
    counts: np.ndarray
    text: int


@dataclass
class Tally:
    """What was read of one label so far.

    Attributes:
        texts: Texts that were read (sampled ones only).
        seen: Items taken from the source.
        rows: Rows produced.
        tokens: Tokens that count.
        empty: Texts without a token that counts.
        digest: Hash over the texts that were read.
    """

    texts: int = 0
    seen: int = 0
    rows: int = 0
    tokens: int = 0
    empty: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class RowReader:
    """Turns items into rows by a policy.

    Args:
        tokenizer: A transformers tokenizer.
        policy: A resolved policy.
    """

    def __init__(self, tokenizer: Any, policy: TokenPolicy) -> None:
        self.tokenizer = tokenizer
        self.policy = policy
        self._bos = getattr(tokenizer, "bos_token_id", None)
        self._fast = bool(getattr(tokenizer, "is_fast", False))

    def read(self, items: Iterable[Item], label: str, tally: Tally) -> Iterator[TokenRow]:
        """Yield the rows of one label in order, keeping `tally`.

        The rows depend on the items and the policy only.
        """
        rows = self._cut(self._texts(items, label, tally))
        budget = self.policy.max_tokens
        for ids, counts in rows:
            counted = int(counts.sum())
            if counted == 0:
                tally.empty += not self.policy.packed
                continue
            if budget is not None and tally.tokens + counted > budget:
                # The token after the last one that still counts is not read either.
                end = int(np.flatnonzero(counts)[budget - tally.tokens - 1]) + 1
                ids, counts = ids[:end], counts[:end]
                counted = budget - tally.tokens
            tally.tokens += counted
            tally.rows += 1
            yield TokenRow(ids, counts, tally.rows - 1)
            if budget is not None and tally.tokens >= budget:
                return

    def _texts(
        self, items: Iterable[Item], label: str, tally: Tally
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        group: list[Item] = []
        for item in self._chosen(items, label, tally):
            group.append(item)
            if len(group) == _GROUP:
                yield from self._encode(group)
                group = []
        if group:
            yield from self._encode(group)

    def _chosen(self, items: Iterable[Item], label: str, tally: Tally) -> Iterator[Item]:
        policy = self.policy
        threshold = None if policy.sample is None else int(policy.sample * 2**64)
        for item in items:
            position = tally.seen
            tally.seen += 1
            if threshold is not None and _draw(policy.seed, label, position) >= threshold:
                continue
            if policy.response_only and isinstance(item, str):
                raise TextError(
                    f"Label {label!r}, item {position} is a plain text, but response_only=True "
                    f"needs (prompt, response) pairs or records with these two fields."
                )
            for part in (item,) if isinstance(item, str) else item:
                try:
                    data = part.encode("utf-8")
                except UnicodeEncodeError as error:
                    raise TextError(
                        f"Label {label!r}, item {position} cannot be encoded as UTF-8 (character "
                        f"{error.start} is half of a surrogate pair). Clean the text."
                    ) from error
                tally.digest.update(len(data).to_bytes(8, "little"))
                tally.digest.update(data)
            tally.texts += 1
            yield item
            if policy.max_texts is not None and tally.texts >= policy.max_texts:
                return

    def _encode(self, group: list[Item]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pairs = [item for item in group if not isinstance(item, str)]
        whole = [item if isinstance(item, str) else item[0] + item[1] for item in group]
        offsets = self._fast and bool(pairs)
        encoded = self._tokenize(whole, offsets)
        for position, item in enumerate(group):
            ids = np.asarray(encoded["input_ids"][position], dtype=_INT32)
            counts = np.ones(len(ids), dtype=bool)
            if self.policy.response_only and not isinstance(item, str):
                spans = encoded["offset_mapping"][position] if offsets else None
                counts = self._response(item, len(ids), spans)
            if self.policy.skip_bos and self._bos is not None:
                counts &= ids != self._bos
            if not self.policy.packed and self.policy.skip_first:
                counts = self._without_first(ids, counts)
            if self.policy.max_length is not None:
                ids, counts = ids[: self.policy.max_length], counts[: self.policy.max_length]
            yield ids, counts

    def _tokenize(self, texts: list[str], offsets: bool) -> Any:
        more = {"return_offsets_mapping": True} if offsets else {}
        return self.tokenizer(
            texts,
            add_special_tokens=self.policy.add_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            # Texts beyond the context are cut by the policy, so the tokenizer need not warn.
            verbose=False,
            **more,
        )

    def _response(self, item: tuple[str, str], length: int, spans: Any) -> np.ndarray:
        prompt = item[0]
        counts = np.zeros(length, dtype=bool)
        if spans is not None:
            # A token that starts in the prompt belongs to it; special tokens have empty spans.
            starts = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
            return (starts[:, 0] >= len(prompt)) & (starts[:, 1] > starts[:, 0])
        counts[len(self._tokenize([prompt], False)["input_ids"][0]) :] = True
        return counts

    def _without_first(self, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        kept = counts.copy()
        start = int(self._bos is not None and len(ids) > 0 and ids[0] == self._bos)
        kept[: start + self.policy.skip_first] = False
        return kept

    def _cut(
        self, texts: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = self.policy.block_size
        if size is None:
            yield from texts
            return
        ids, counts = np.empty(0, dtype=_INT32), np.empty(0, dtype=bool)
        for more_ids, more_counts in texts:
            ids, counts = np.concatenate([ids, more_ids]), np.concatenate([counts, more_counts])
            start = 0
            while len(ids) - start >= size:
                yield self._block(ids[start : start + size], counts[start : start + size])
                start += size
            ids, counts = ids[start:], counts[start:]
        if len(ids):
            yield self._block(ids, counts)

    def _block(self, ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ids, self._without_first(ids, counts) if self.policy.skip_first else counts


def _draw(seed: int, label: str, position: int) -> int:
    """Return a number below 2**64 that depends on nothing else."""
    key = f"{seed}\0{label}\0{position}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def check_tokenizer(tokenizer: Any) -> Callable[..., Any]:
    """Return the tokenizer, or raise."""
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise ParameterError(
            f"{type(tokenizer).__name__} is not a tokenizer; expected what "
            f"AutoTokenizer.from_pretrained returns."
        )
    return tokenizer
