"""A judge: a chat model, or any function of prompts, that rates answers from 0 to 2.

The rule is that of CLaS-Bench's judge, in other words: relevance and coherence count, the language
does not; ratings are averaged, those that cannot be read are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...errors import ParameterError
from ...hub import public_name
from ...neuron_set.card import hub_id
from ...stats.forward import evaluating
from ..continuations import continue_rows, decode, encode_prompt, without_end

#: Prompts in, one reply each out.
JudgeFunction = Callable[[list[str]], Sequence[str]]
#: A function, or a chat model and its tokenizer.
Judge = JudgeFunction | tuple[Any, Any]

_PROMPT = """\
Rate an answer to a question. The question, the answer or both may be in any language. Which \
language the answer is in does not matter: do not reward or punish it. Rate only what it says:

- 0: it has nothing to do with the question, or is no meaningful text.
- 1: it has something to do with the question, but is incomplete, partly beside the point, or of \
little use.
- 2: it clearly answers the question, and is coherent and useful.

Question:
{question}

Answer:
{answer}

Give your reasons in a few sentences. Then write your rating in exactly this form: \
"Rating: [[score]]"."""
#: From the form that is asked for to what is often written instead.
_RATINGS = (r"Rating: \[\[([012])\]\]", r"\[\[([012])\]\]", r"\b([012])\b\s*$")
_TOKENS = 512
_SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
_BATCH = 8


def check_judge(judge: object) -> None:
    """Raise if this is no judge, or a model that takes no instructions."""
    pair = isinstance(judge, tuple | list) and len(judge) == 2
    if judge is not None and not pair and not callable(judge):
        raise ParameterError(
            f"judge={judge!r}: expected a function that returns a reply to each of a list of "
            "prompts, or a chat model and its tokenizer; on the command line, --judge MODEL."
        )
    if isinstance(judge, tuple | list) and not getattr(judge[1], "chat_template", None):
        raise ParameterError(
            "The judge's tokenizer has no chat template, so it is no model that rates when it is "
            "told to. Give one that was trained to follow instructions."
        )


def name_of(judge: Judge | None) -> str | None:
    """Return what a report calls a judge."""
    if judge is None:
        return None
    if isinstance(judge, tuple | list):
        config = judge[0].config
        return hub_id(public_name(getattr(config, "_name_or_path", None))) or config.model_type
    return getattr(judge, "__name__", type(judge).__name__)


def ratings(judge: Judge, asked: Sequence[tuple[str, str]], seed: int) -> list[float | None]:
    """Return the rating of every `(question, answer)`, 0 to 1; `None` where it cannot be read.

    Args:
        judge: The judge.
        asked: Questions with their answers.
        seed: Of the sampling of a judge that is a model.
    """
    prompts = [_PROMPT.format(question=question, answer=answer) for question, answer in asked]
    replies = judge(prompts) if callable(judge) else _replies(*judge, prompts, seed)
    if isinstance(replies, str) or len(replies) != len(prompts):
        raise ParameterError(
            f"The judge was given {len(prompts)} prompts, and returned "
            f"{'one text' if isinstance(replies, str) else f'{len(replies)} replies'}; expected a "
            "reply to each."
        )
    return [_rating(reply) for reply in replies]


def _rating(reply: str) -> float | None:
    found = (re.search(form, reply.strip()) for form in _RATINGS)
    first = next((each for each in found if each), None)
    return None if first is None else int(first[1]) / 2


def _replies(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[str]:
    # Reasons are asked for in the answer; thinking before it would use up the tokens.
    rows = [encode_prompt(tokenizer, each, True, enable_thinking=False) for each in prompts]
    found: list[list[int]] = []
    device = model.get_input_embeddings().weight.device
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluating(model):
        torch.manual_seed(seed)
        for begin in range(0, len(rows), _BATCH):
            some = rows[begin : begin + _BATCH]
            found += continue_rows(model, tokenizer, some, _TOKENS, **_SAMPLING)
    return decode(tokenizer, [without_end(model, tokenizer, row) for row in found])
