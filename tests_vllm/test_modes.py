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


def run_job(mode: str, storage: Path, wanted: list[Job], tokens: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests_vllm.job", mode, str(storage)],
        input=json.dumps([wanted, tokens]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(mode: str, storage: Path, wanted: list[Job], tokens: int) -> dict[str, Any]:
    reference = Reference(checkpoint(storage), neuron_sets(storage))
    done = run_job(mode, storage, wanted, tokens)
    same(done["found"], reference.all(wanted, tokens), wanted)
    assert changed(done["found"], reference, wanted) >= 14
    return done["facts"]


def test_compiled(storage: Path):
    assert check("compiled", storage, jobs(), 24)["compiled"] == "DYNAMO_TRACE_ONCE"


def test_compiled_in_pieces_as_on_gpus(storage: Path):
    for _ in range(2):  # the second time, vLLM loads the graphs that it stored
        assert check("pieces", storage, jobs(), 24)["compiled"] == "VLLM_COMPILE"


def test_the_runner_of_gpus(storage: Path):
    # With a small budget: prompts in parts, and more requests than places.
    facts = check("second", storage, jobs((40, 9, 1, 33, 6, 30, 12, 3)), 12)
    assert facts["runner"] == 2


def test_engine_in_a_process_of_its_own(storage: Path):
    assert check("processes", storage, jobs(), 24)["runner"] == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_tensor_parallel(storage: Path):
    assert check("tensors", storage, jobs(), 24)["tensor_parallel"] == 2


@pytest.mark.parametrize("method", ["ngram", "draft"])
def test_speculative_decoding(storage: Path, method: str):
    # Prompts that repeat themselves, so that guesses from them are made, and some are right.
    wanted = [((ids * 6)[:24], schedule) for ids, schedule in jobs((2, 3, 4, 5))]
    if method == "draft":
        _draft(storage)
    facts = check(method, storage, wanted, 32)
    assert facts["drafted"] > facts["accepted"] > 0


def _draft(storage: Path) -> None:
    """Make a model that guesses well but not always: the checkpoint with a little noise."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = storage / "draft"
    if not folder.exists():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_pretrained(checkpoint(storage), dtype=torch.float32)
        for weight in model.parameters():
            weight.data.add_(torch.randn_like(weight) * SHAPE["initializer_range"] * 0.02)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoint(storage)).save_pretrained(folder)
