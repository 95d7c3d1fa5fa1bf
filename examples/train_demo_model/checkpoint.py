"""Checkpoints that appear all at once or not at all, and the shippable export."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STEP = re.compile(r"step-(\d+)")


def write_atomically(target: Path, fill: Callable[[Path], None]) -> None:
    """Fills a temporary sibling folder and renames it to ``target``, replacing an older one."""
    temporary = target.with_name(f".{target.name}.tmp{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    for path in temporary.rglob("*"):
        if path.is_file():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
    if target.exists():
        # A folder cannot be replaced in one call; the old one is moved aside, then removed.
        old = target.with_name(f".{target.name}.old{os.getpid()}")
        os.replace(target, old)
        os.replace(temporary, target)
        shutil.rmtree(old)
    else:
        os.replace(temporary, target)


def checkpoints(run: Path) -> list[Path]:
    """Returns the complete checkpoints of a run, oldest first."""
    found = [p for p in (run / "checkpoints").glob("step-*") if STEP.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))


def save(
    run: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimizers: list[torch.optim.Optimizer],
    progress: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Writes a checkpoint and removes all but the newest ``keep``.

    A checkpoint is an ordinary `transformers` folder (float32) with ``trainer.pt`` beside it, so it
    can also be loaded by ``from_pretrained`` while the training goes on.
    """

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        rng = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            rng["cuda"] = torch.cuda.get_rng_state()
        state = {"optimizers": [o.state_dict() for o in optimizers], "rng": rng} | progress
        torch.save(state, folder / "trainer.pt")
        (folder / "progress.json").write_text(json.dumps(progress, indent=1), encoding="utf-8")

    target = run / "checkpoints" / f"step-{progress['step']:07d}"
    write_atomically(target, fill)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load(folder: Path, device: torch.device) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """Returns the model of a checkpoint, on its device, and the trainer state."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    # weights_only: a checkpoint handed around must not be able to run code.
    state = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
    return model, state


def restore(state: dict[str, Any], optimizers: list[torch.optim.Optimizer]) -> None:
    """Puts optimiser and random-number states back."""
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["rng"]["cpu"])
    if torch.cuda.is_available() and "cuda" in state["rng"]:
        torch.cuda.set_rng_state(state["rng"]["cuda"])


def export(checkpoint: Path, target: Path) -> int:
    """Writes the shippable folder: bfloat16 safetensors, configs and tokenizer.

    Args:
        checkpoint: A checkpoint folder.
        target: Where to write; replaced if it exists.

    Returns:
        The folder's size in bytes.
    """
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
    )

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors writes files only their owner can read

    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, fill)
    return sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
