"""Ways an engine can run: compiled, in several processes, with either runner, with drafts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests_vllm.material import (
    SHAPE,
    Job,
    Reference,
    changed,
    checkpoint,
    jobs,
    neuron_sets,
    same,
)

ROOT = Path(__file__).resolve().parents[1]


def run_job(mode: str, shelf: Path, wanted: list[Job], tokens: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests_vllm.job", mode, str(shelf)],
        input=json.dumps([wanted, tokens]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(mode: str, shelf: Path, wanted: list[Job], tokens: int) -> dict[str, Any]:
    reference = Reference(checkpoint(shelf), neuron_sets(shelf))
    done = run_job(mode, shelf, wanted, tokens)
    same(done["found"], reference.all(wanted, tokens), wanted)
    assert changed(done["found"], reference, wanted) >= 14
    return done["facts"]


def test_compiled(shelf: Path):
    assert check("compiled", shelf, jobs(), 24)["compiled"] == "DYNAMO_TRACE_ONCE"


def test_compiled_in_pieces_as_on_gpus(shelf: Path):
    for _ in range(2):  # the second time, vLLM loads the graphs that it stored
        assert check("pieces", shelf, jobs(), 24)["compiled"] == "VLLM_COMPILE"


def test_the_runner_of_gpus(shelf: Path):
    # With a small budget: prompts in parts, and more requests than places.
    facts = check("second", shelf, jobs((40, 9, 1, 33, 6, 30, 12, 3)), 12)
    assert facts["runner"] == 2


def test_engine_in_a_process_of_its_own(shelf: Path):
    assert check("processes", shelf, jobs(), 24)["runner"] == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_tensor_parallel(shelf: Path):
    assert check("tensors", shelf, jobs(), 24)["tensor_parallel"] == 2


@pytest.mark.parametrize("method", ["ngram", "draft"])
def test_speculative_decoding(shelf: Path, method: str):
    # Prompts that repeat themselves, so that guesses from them are made, and some are right.
    wanted = [((ids * 6)[:24], plan) for ids, plan in jobs((2, 3, 4, 5))]
    if method == "draft":
        _draft(shelf)
    facts = check(method, shelf, wanted, 32)
    assert facts["drafted"] > facts["accepted"] > 0


def _draft(shelf: Path) -> None:
    """Make a model that guesses well but not always: the checkpoint with a little noise."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shelf / "draft"
    if not folder.exists():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_pretrained(checkpoint(shelf), dtype=torch.float32)
        for weight in model.parameters():
            weight.data.add_(torch.randn_like(weight) * SHAPE["initializer_range"] * 0.02)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoint(shelf)).save_pretrained(folder)
