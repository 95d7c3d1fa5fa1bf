"""Answers of the model itself, as calibration text: what it does while it answers in a language."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ParameterError, TextError
from ..hub.atomic_files import write_file
from ..languages import same
from ..stats.texts import read_lines
from .candidates import identifier_among
from .continuations import continue_rows, decode, encode_prompt
from .metrics.fluency import degenerate
from .metrics.langid import Identifier, IdentifierLike

#: `(prompt as the model sees it, its answer)`.
Pair = tuple[str, str]
#: Called with a label, how many of its prompts are done, and how many there are.
OnProgress = Callable[[str, int, int], object]


def own_answers(
    model: Any,
    tokenizer: Any,
    prompts: Mapping[str, Sequence[str]],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.7,
    batch_size: int = 16,
    chat: bool | None = None,
    identifier: IdentifierLike = "lingua",
    languages: Sequence[str] | str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    progress: OnProgress | None = None,
) -> dict[str, list[Pair]]:
    """Return what the model answers in each language, where the answer is in that language.

    Chat text is not plain text. Statistics of answers, `collect(model, tok, answers,
    response_only=True, add_special_tokens=False)`, are about the tokens that steering will act on.

    Args:
        model: The model, unsteered.
        tokenizer: Its tokenizer.
        prompts: Language → prompts in it.
        max_new_tokens: Length of the answers.
        temperature: Of sampling; 0 is greedy.
        batch_size: Rows that are generated together.
        chat: Whether prompts go through the chat template; default: if the tokenizer has one.
        identifier: What tells the language of an answer. Those that are in another one, or that
            stutter, are left out.
        languages: What it chooses from, see `identifier_among`.
        seed: Of sampling.
        out: Folder for a file of answers per label; labels whose file is there are not made again.
        progress: Called after every batch.

    Raises:
        TextError: If no answer of a label is in its language.
    """
    if max_new_tokens < 4 or batch_size < 1 or temperature < 0:
        raise ParameterError(
            f"max_new_tokens={max_new_tokens}, batch_size={batch_size}, temperature={temperature}: "
            "expected at least 4, at least 1, and 0 or more."
        )
    templated = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
    tells = identifier_among(identifier, list(prompts), languages)
    folder = None if out is None else Path(out).expanduser()
    found: dict[str, list[Pair]] = {}
    for label, asked in prompts.items():
        file = None if folder is None else folder / f"{_safe(label)}.jsonl"
        if file is not None and file.exists():
            found[label] = _read(file)
            continue
        made: list[Pair] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for begin in range(0, len(asked), batch_size):
                some = [each for each in asked[begin : begin + batch_size] if each.strip()]
                options: dict[str, Any] = {"do_sample": False}
                if temperature > 0:
                    options = {"do_sample": True, "temperature": temperature, "top_k": 50}
                ids = [encode_prompt(tokenizer, each, templated) for each in some]
                new = continue_rows(model, tokenizer, ids, max_new_tokens, **options)
                made += zip(_shown(tokenizer, some, templated), decode(tokenizer, new), strict=True)
                if progress is not None:
                    progress(label, min(begin + batch_size, len(asked)), len(asked))
        found[label] = _kept(label, made, tells)
        if file is not None:
            _write(file, found[label])
    return found


def _shown(tokenizer: Any, prompts: Sequence[str], templated: bool) -> list[str]:
    if not templated:
        return [prompt + " " for prompt in prompts]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)


def _kept(label: str, made: Sequence[Pair], tells: Identifier) -> list[Pair]:
    guesses = tells.identify([answer for _, answer in made])
    kept = [
        pair
        for pair, guess in zip(made, guesses, strict=True)
        if same(guess.label, label) and not degenerate(pair[1])
    ]
    if not kept:
        said = ", ".join(dict.fromkeys(str(guess.label) for guess in guesses)) or "nothing"
        raise TextError(
            f"None of the {len(made)} answers to the prompts of {label!r} is in that language "
            f"(they are: {said}). Give more prompts, prompts in that language, or plain text "
            "instead (texts)."
        )
    return kept


def _safe(label: str) -> str:
    if "/" in label or label.startswith("."):
        raise ParameterError(f"The label {label!r} cannot be the name of a file of answers.")
    return label


def _write(file: Path, pairs: Sequence[Pair]) -> None:
    lines = [
        json.dumps({"prompt": prompt, "response": answer}, ensure_ascii=False) + "\n"
        for prompt, answer in pairs
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, lambda path: path.write_text("".join(lines), encoding="utf-8"))


def _read(file: Path) -> list[Pair]:
    rows = [json.loads(line) for _, line in read_lines(file)]
    return [(row["prompt"], row["response"]) for row in rows]
