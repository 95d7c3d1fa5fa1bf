"""Log-likelihoods of text under a model: only real tokens count, however they are padded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ...errors import ParameterError
from ...stats.forward import evaluating
from ...steering.steerer import OperationLike, Steerer

#: Makes a label active; `None` stops steering.
Switch = Callable[[str | None], object]
#: Positions per window where neither the caller nor the model says less.
WINDOW = 1024


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of some tokens: the sum in nats, and over how many."""

    logprob: float
    tokens: int

    @property
    def nll(self) -> float:
        """Nats per token."""
        return -self.logprob / self.tokens


@dataclass(frozen=True)
class TokenRow:
    """Token ids of one sequence; those from `start` on are scored."""

    ids: tuple[int, ...]
    start: int


@contextmanager
def switching(
    steer: Steerer | Switch, operation: OperationLike | None = None, strength: float = 1.0
) -> Generator[Switch, None, None]:
    """Yield a function that makes a label active, and stop steering at the end, whatever happens.

    Args:
        steer: A steerer, or a function of a label; a function decides on the operation itself.
        operation: Passed to `Steerer.to`.
        strength: Passed to `Steerer.to`.
    """

    def steered(label: str | None) -> None:
        if isinstance(steer, Steerer):
            if label is None:
                steer.off()
            else:
                steer.to(label, operation, strength)
        else:
            steer(label)

    steered(None)
    try:
        yield steered
    finally:
        steered(None)


def continuations(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[TokenRow]:
    """Return the rows that score each continuation after its prompt.

    Both are tokenised in one piece, as the model would see them in running text. Where a token
    spans the border, it is scored with the continuation, so that the
    prompt gives away nothing of it.
    """
    rows: list[TokenRow] = []
    for prompt, continuation in pairs:
        whole = _encode(tokenizer, prompt + continuation)
        given = _encode(tokenizer, prompt)
        start = 0
        while start < min(len(given), len(whole)) and given[start] == whole[start]:
            start += 1
        if start == len(whole):
            raise ParameterError(
                f"The continuation {continuation!r} has no tokens of its own after {prompt!r}."
            )
        if start == 0:
            # The first token needs something to be predicted from.
            whole, start = [_first(tokenizer), *whole], 1
        rows.append(TokenRow(tuple(whole), start))
    return rows


def windows(tokenizer: Any, text: str, max_length: int) -> list[TokenRow]:
    """Return rows that score every token of a text once, in windows of at most `max_length`.

    Every window begins with the BOS token; a tokenizer without one leaves the first token of a
    window unscored, because there is nothing to predict it from.
    """
    ids = [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    bos = tokenizer.bos_token_id
    head = [] if bos is None else [int(bos)]
    step = max_length - len(head)
    pieces = [tuple(head + ids[i : i + step]) for i in range(0, len(ids), step)]
    return [TokenRow(piece, 1) for piece in pieces if len(piece) > 1]


def likelihoods(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_size: int = 8,
    padding: str = "right",
) -> list[Likelihood]:
    """Return log P(continuation | prompt) of each `(prompt, continuation)`."""
    rows = continuations(tokenizer, pairs)
    return score_rows(model, rows, batch_size=batch_size, padding=padding)


def text_likelihoods(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    padding: str = "right",
) -> list[Likelihood]:
    """Return the log-likelihood of each text; one of no scorable token has `tokens == 0`."""
    longest = window_length(model, max_length)
    rows: list[TokenRow] = []
    owner: list[int] = []
    for i, text in enumerate(texts):
        found = windows(tokenizer, text, longest)
        rows += found
        owner += [i] * len(found)
    sums, tokens = [0.0] * len(texts), [0] * len(texts)
    scored = score_rows(model, rows, batch_size=batch_size, padding=padding)
    for i, each in zip(owner, scored, strict=True):
        sums[i] += each.logprob
        tokens[i] += each.tokens
    return [Likelihood(s, t) for s, t in zip(sums, tokens, strict=True)]


def mean_nll(model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 8) -> float:
    """Return nats per token over all texts; 0 where there is no token to score."""
    found = text_likelihoods(model, tokenizer, texts, batch_size=batch_size)
    return -sum(each.logprob for each in found) / max(sum(each.tokens for each in found), 1)


def score_rows(
    model: Any, rows: Sequence[TokenRow], *, batch_size: int = 8, padding: str = "right"
) -> list[Likelihood]:
    """Return the log-likelihood of each row's scored tokens, in the order of `rows`."""
    found: list[Likelihood | None] = [None] * len(rows)
    for chosen, logits in forward(model, rows, batch_size=batch_size, padding=padding):
        for i, scores in zip(chosen, logits, strict=True):
            row = rows[i]
            targets = torch.tensor(row.ids[row.start :], device=scores.device)
            nats = cross_entropy(scores, targets, reduction="none")
            found[i] = Likelihood(-float(nats.double().sum()), len(targets))
    return [each for each in found if each is not None]


def forward(
    model: Any, rows: Sequence[TokenRow], *, batch_size: int = 8, padding: str = "right"
) -> Generator[tuple[list[int], list[torch.Tensor]], None, None]:
    """Yield `(positions in rows, float32 logits [scored tokens, vocabulary] of each)` per batch.

    Batches pad themselves; the tokenizer's pad token and side do not matter. Logits come from the
    position *before* each scored token.

    Args:
        model: A causal LM.
        rows: What to run.
        batch_size: Rows per forward pass. Rows of similar length are run together.
        padding: Side of the padding.
    """
    if padding not in ("left", "right"):
        raise ParameterError(f"padding must be 'left' or 'right'; got {padding!r}.")
    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1; got {batch_size}.")
    device = model.get_input_embeddings().weight.device
    names = _arguments(model)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids), reverse=True)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        batch = [rows[i] for i in chosen]
        longest = max(len(row.ids) for row in batch)
        offsets = [longest - len(row.ids) if padding == "left" else 0 for row in batch]
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for k, (row, offset) in enumerate(zip(batch, offsets, strict=True)):
            ids[k, offset : offset + len(row.ids)] = torch.tensor(row.ids)
            mask[k, offset : offset + len(row.ids)] = 1
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if padding == "left" and "position_ids" in names:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0).to(device)
        first = min(offset + row.start for row, offset in zip(batch, offsets, strict=True)) - 1
        if "logits_to_keep" in names:
            # The vocabulary is wide: logits of prompts would be most of the memory.
            inputs["logits_to_keep"] = longest - first
        with torch.inference_mode(), evaluating(model):
            logits = model(**inputs, use_cache=False).logits
        skipped = longest - logits.shape[1]
        yield (
            chosen,
            [
                logits[
                    k, offset + row.start - 1 - skipped : offset + len(row.ids) - 1 - skipped
                ].float()
                for k, (row, offset) in enumerate(zip(batch, offsets, strict=True))
            ],
        )


def window_length(model: Any, max_length: int | None) -> int:
    """Return how many positions a window has."""
    if max_length is not None and max_length < 2:
        raise ParameterError(f"max_length must be at least 2; got {max_length}.")
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or WINDOW
    return min(max_length or WINDOW, int(limit))


def _arguments(model: Any) -> frozenset[str]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(base.forward).parameters)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids = [int(i) for i in tokenizer(text)["input_ids"]]
    # Some tokenizers end every text with EOS, which no continuation can follow.
    plain = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    while len(ids) > plain and ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def _first(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ParameterError(
        "The first token of a text cannot be scored: the tokenizer has neither a BOS nor an EOS "
        "token to begin with. Give a prompt."
    )
