"""Does `ns.keep` keep answers in the language of their question? And does it harm those that are?

    python benchmarks/keep.py                     # two questions per language: a first look
    python benchmarks/keep.py --items 12 --temperatures 0.3 1.0 -o runs/keep.json
    python benchmarks/keep.py --cost              # only what the gate costs per token
    python benchmarks/keep.py --cost --requests 16   # and in a batch of vLLM

A chat model answers questions of the Language Confusion Benchmark, alone and provoked: by a
document in another language before the question, by a system prompt or a sentence in another
language, or by a history in another language (`--turns`; slow). An answer is wrong if a line is
identified as another language (lingua) or a word is in a foreign script (in languages of another
script, a lower-case Latin one, too). Remedies draw with the same random numbers, so where nothing
is held back the answers are the same.

Texts come from --data, else $NEURONSTEER_DATA, else ../shared/data.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

import neuronsteer as ns
from neuronsteer.evaluation.bootstrap import wilson
from neuronsteer.evaluation.continuations import continue_rows, decode
from neuronsteer.evaluation.metrics import metric
from neuronsteer.integrations.vllm.kept_requests import KeptRequest
from neuronsteer.integrations.vllm.request_gate import RequestGate
from neuronsteer.steering.keeping.token_choice import Candidates
from neuronsteer.steering.keeping.vocabulary_gate import VocabularyGate
from neuronsteer.steering.schedule import Schedule

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from ready_made_sets import loaded  # noqa: E402  # those in tools/
from ready_made_texts import LANGUAGES, lines  # noqa: E402

SOURCES = {"ar": "aya", "en": "aya", "es": "native", "fr": "native", "ja": "native",
           "ko": "native", "ru": "dolly", "zh": "aya"}  # fmt: skip
NAMES = {"ar": "Arabic", "en": "English", "es": "Spanish", "fr": "French", "ja": "Japanese",
         "ko": "Korean", "ru": "Russian", "zh": "Chinese"}  # fmt: skip
#: Characters of a question.
LONGEST = 300
PROVOCATIONS = ("plain", "document", "system", "sentence")
SYSTEM = {"zh": "你是一个乐于助人的助手。请认真、详细地回答问题。",
          "en": "You are a helpful assistant. Answer carefully and in detail."}  # fmt: skip
SENTENCE = {"zh": "请详细解释。", "en": "Please explain this in detail."}
REMEDIES = ("none", "prompt", "gate", "prompt + gate")

Message = dict[str, str]


def foreign_to(language: str) -> str:
    """Return the language that provokes."""
    return "en" if language in ("zh", "ja") else "zh"


def questions(data: Path, language: str, count: int) -> list[str]:
    """Return prompts of the benchmark; a batch is as long as its longest one, so short ones."""
    file = data / "eval" / "lcb" / "monolingual" / SOURCES[language] / f"{language}.csv"
    with file.open(encoding="utf-8", newline="") as handle:
        rows = [row["prompt"] for row in csv.DictReader(handle)]
    found = [prompt for prompt in rows if len(prompt) <= LONGEST]
    return found[:: max(1, len(found) // count)][:count]


def conversation(data: Path, language: str, question: str, how: str, turns: int) -> list[Message]:
    """Return what the model is asked."""
    other = foreign_to(language)
    # A chat model puts a system prompt of its own in, unless it is given one.
    system = SYSTEM[other] if how == "system" else "You are a helpful assistant."
    found: list[Message] = [{"role": "system", "content": system}]
    texts = lines(data / "heldout" / f"{other}.txt.xz") if how in ("document", "history") else []
    if how == "document":
        question = " ".join(texts[:6]) + "\n\n" + question
    elif how == "sentence":
        question = f"{question} {SENTENCE[other]}"
    elif how == "history":
        for number in range(turns):
            role = "user" if number % 2 == 0 else "assistant"
            found.append({"role": role, "content": texts[number % len(texts)]})
    found.append({"role": "user", "content": question})
    return found


def asked(conversation: list[Message], language: str) -> list[Message]:
    """Return a conversation whose last message says in which language to answer."""
    *before, last = conversation
    return [*before, {**last, "content": f"{last['content']}\n\nAnswer in {NAMES[language]}."}]


def answers(
    model: Any,
    tokenizer: Any,
    rows: Sequence[tuple[str, list[Message]]],
    remedy: str,
    tokens: int,
    temperature: float,
) -> list[str]:
    """Return the answers to all conversations."""
    languages = [language for language, _ in rows]
    prompts: list[list[int]] = []
    for language, messages in rows:
        given = asked(messages, language) if "prompt" in remedy else messages
        encoded = tokenizer.apply_chat_template(given, add_generation_prompt=True, return_dict=True)
        prompts.append([int(token) for token in encoded["input_ids"]])
    keeping: AbstractContextManager[Any] = nullcontext()
    if "gate" in remedy:
        keeping = ns.keep(model, tokenizer, languages)
    torch.manual_seed(0)
    with keeping:
        made = continue_rows(
            model, tokenizer, prompts, tokens, do_sample=True, temperature=temperature
        )
    return decode(tokenizer, made)


def wrong(texts: Sequence[str], languages: Sequence[str]) -> list[bool]:
    """Return which answers have a line in another language, or a foreign word."""
    judge = metric("language_confusion", identifier="lingua", languages=(*LANGUAGES, "ko"))
    found: list[bool] = []
    for text, language in zip(texts, languages, strict=True):
        passed = judge.compute([text], [language]).values["line_pass_rate"]
        found.append(passed == 0 or bool(judge.foreign(text, language)))
    return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return answers and errors of all remedies, provocations and temperatures."""
    model, tokenizer = loaded(options.model)
    results: dict[str, Any] = {"model": options.model, "items": options.items, "cells": []}
    for temperature in options.temperatures:
        for how in options.provocations:
            rows = [
                (language, conversation(options.data, language, question, how, options.turns))
                for language in SOURCES
                for question in questions(options.data, language, options.items)
            ]
            languages = [language for language, _ in rows]
            plain: list[str] = []
            fine: list[bool] = []
            for remedy in options.remedies:
                begun = time.perf_counter()
                texts = answers(model, tokenizer, rows, remedy, options.tokens, temperature)
                errors = wrong(texts, languages)
                if remedy == "none":
                    plain, fine = texts, [not error for error in errors]
                found: dict[str, list[bool]] = {each: [] for each in SOURCES}
                for error, language in zip(errors, languages, strict=True):
                    found[language].append(error)
                kept = [a == b for a, b, good in zip(texts, plain, fine, strict=True) if good]
                cell = {
                    "temperature": temperature, "provocation": how, "remedy": remedy,
                    "answers": len(texts), "wrong": sum(errors),
                    "interval": wilson(sum(errors) / len(errors), len(errors)),
                    "by language": {
                        each: [sum(found[each]), len(found[each])] for each in SOURCES
                    },
                    "right without remedy": len(kept), "of these identical": sum(kept),
                    "seconds": round(time.perf_counter() - begun, 1),
                    "texts": texts,
                }  # fmt: skip
                results["cells"].append(cell)
                print(
                    f"T {temperature} {how:9} {remedy:14} wrong {cell['wrong']:3} of {len(texts)}, "
                    f"identical {sum(kept)} of {len(kept)}, {cell['seconds']} s",
                    flush=True,
                )
                save(options.output, results)
    return results


def cost(options: argparse.Namespace) -> None:
    """Print what the gate costs beside one step of the model, batch 1, interleaved."""
    model, tokenizer = loaded(options.model)
    begun = time.perf_counter()
    gate = VocabularyGate(tokenizer, "en", candidates=Candidates(True, 0.7, 20, 0.8))
    print(f"scripts of {len(tokenizer)} tokens: {time.perf_counter() - begun:.2f} s")
    prompt = tokenizer("The weather today is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        scores = model(prompt).logits[:, -1]
        cache = model(prompt, use_cache=True).past_key_values
        gate(prompt, scores)

        def step() -> None:
            model(prompt[:, -1:], past_key_values=cache)

        def check() -> None:
            gate(prompt, scores)

        took = {each.__name__: [] for each in (step, check)}
        for _ in range(40):
            for each in (step, check):
                took[each.__name__].append(seconds(each))
    one, other = (sorted(each)[len(each) // 2] for each in took.values())
    print(
        f"gate ÷ step of the model: {other / one:.4f} ({other * 1e3:.2f} ms ÷ {one * 1e3:.1f} ms)"
    )


def cost_in_a_server(options: argparse.Namespace) -> None:
    """Print what the gate of vLLM costs beside one step of the model, per CPU second."""
    model, tokenizer = loaded(options.model)
    begun = time.process_time()
    gate = RequestGate(tokenizer, None)
    print(f"scripts of {len(tokenizer)} tokens: {time.process_time() - begun:.2f} CPU s")
    ids = tokenizer("The weather today is", return_tensors="pt")["input_ids"]
    batch = ids.repeat(options.requests, 1)
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    plain |= {"frequency_penalty": 0.0, "presence_penalty": 0.0}
    with torch.no_grad():
        logits = model(batch).logits[:, -1].float()
        cache = model(batch, use_cache=True).past_key_values

        def step() -> None:
            model(batch[:, -1:], past_key_values=cache)

        whole = sorted(seconds(step, time.process_time) for _ in range(7))[3]
        for chosen in (
            {"temperature": 0.0},
            {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
            {"temperature": 1.0},
            {"temperature": 1.0, "top_p": 0.95},
            {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.1},
        ):
            params = SimpleNamespace(**{**plain, **chosen})
            kept = KeptRequest(Schedule("en"))
            requests = [gate.request(kept, params, ids[0].tolist(), penalise=True) for _ in batch]
            took: list[float] = []
            for _ in range(10):
                here = logits.clone()
                begun = time.process_time()
                gate.apply(here, enumerate(requests))
                took.append(time.process_time() - begun)
            one = sorted(took[1:])[4]
            print(f"{options.requests} requests, {chosen}: {one / whole:.4f} of a step "
                  f"({one * 1e3:.1f} ms of {whole * 1e3:.0f} ms CPU)")  # fmt: skip


def seconds(call: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    begun = clock()
    call()
    return clock() - begun


def save(file: Path | None, results: dict[str, Any]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, ensure_ascii=False, indent=1) + "\n"
        file.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, and print a line per cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--model", default="qwen", help="as `make real` laid it out")
    parser.add_argument("--items", type=int, default=2, help="questions per language")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=60, help="of history")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0])
    parser.add_argument(
        "--provocations", nargs="+", default=list(PROVOCATIONS), choices=[*PROVOCATIONS, "history"]
    )
    parser.add_argument("--remedies", nargs="+", default=list(REMEDIES), choices=REMEDIES)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--requests", type=int, default=1, help="with --cost: of a batch of vLLM")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.cost and options.requests > 1:
        cost_in_a_server(options)
    elif options.cost:
        cost(options)
    else:
        measured(options)


if __name__ == "__main__":
    main()
