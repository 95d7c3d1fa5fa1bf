"""Servers in processes of their own, and the plain `openai` client."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

PROMPT = "The weather"


@contextlib.contextmanager
def serving(command: list[str], log: Path) -> Iterator[str]:
    """Start `python -m command`, wait until it answers, and stop it afterwards."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    options = ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    options += ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        )
    try:
        while True:  # the test's own limit ends it: a slow machine is no reason to go on without
            assert process.poll() is None, log.read_text()[-5000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def client_of(address: str) -> openai.OpenAI:
    """Return a client that does not try again: errors are what is tested."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)


def ask(client: openai.OpenAI, schedule: Any, tokens: int = 24, **options: Any) -> Any:
    """Ask for a completion of `PROMPT`."""
    extra: dict[str, Any] = {"return_token_ids": True}
    if schedule is not None:
        extra["vllm_xargs"] = {"neuronsteer": schedule}
    return client.completions.create(
        model="demo",
        prompt=PROMPT,
        max_tokens=tokens,
        temperature=0,
        extra_body=extra | options.pop("extra_body", {}),
        **options,
    )


def ids(answer: Any) -> list[int]:
    """Return the generated tokens."""
    return answer.choices[0].model_extra["token_ids"]
