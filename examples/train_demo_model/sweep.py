"""Compares sizes and optimisers after the same few training steps, and writes the table.

Each configuration trains for the same number of tokens, and its speed is taken as tokens per second
of processor time, so neither figure depends on what else the machine was doing.

    python sweep.py --data CORPUS --heldout HELDOUT --runs FOLDER --steps 100
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from data import load_tokenizer
from model import LossModel, build_model
from optim import build_optimizers, set_rate
from train import configure, parse

HERE = Path(__file__).resolve().parent
log = logging.getLogger("train_demo_model")

MUON = ["--lr", "6e-3", "--embed-lr", "6e-3"]
CONFIGS: dict[str, list[str]] = {
    "base: 256 x 6, MLP width 768, vocab 8192, Muon": MUON,
    "AdamW 3e-3": ["--optimizer", "adamw", "--lr", "3e-3", "--embed-lr", "3e-3"],
    "AdamW 6e-3": ["--optimizer", "adamw", "--lr", "6e-3", "--embed-lr", "6e-3"],
    "Muon at 1e-2": ["--lr", "1e-2", "--embed-lr", "1e-2"],
    "wider, shallower: 320 x 4, MLP width 832": [
        *MUON,
        *(
            "--hidden",
            "320",
            "--layers",
            "4",
            "--mlp-width",
            "832",
            "--heads",
            "5",
            "--kv-heads",
            "1",
        ),
    ],
    "narrower, deeper: 192 x 10, MLP width 704": [
        *MUON,
        *(
            "--hidden",
            "192",
            "--layers",
            "10",
            "--mlp-width",
            "704",
            "--heads",
            "3",
            "--kv-heads",
            "1",
        ),
    ],
    "half the size: 192 x 4, MLP width 768": [
        *MUON,
        *(
            "--hidden",
            "192",
            "--layers",
            "4",
            "--mlp-width",
            "768",
            "--heads",
            "3",
            "--kv-heads",
            "1",
        ),
    ],
    "vocab 6144": [*MUON, "--vocab", "6144"],
}


HEAD = """# Sweep

Held-out bits per byte after the same number of training tokens (blocks of 256, 16 in a step, 40
steps of warmup), and tokens per second of processor time (bfloat16, not compiled, optimiser
included). Written by `sweep.py`. So few tokens favour small models: this is no forecast of a long
run.

"""


def speed(options: list[str], run: Path, steps: int = 3) -> int:
    """Returns tokens per second of processor time, over whole steps of 16 blocks of 256."""
    config = configure(parse(options), None)
    cache = Path(json.loads((run / "cache.json").read_text(encoding="utf-8")))
    model = build_model(config.model, load_tokenizer(cache))
    optimizers = build_optimizers(model, config.optim)
    set_rate(optimizers, 1e-3)
    loss_model = LossModel(model, chunk=128, compiled=False)
    blocks = torch.randint(3, model.config.vocab_size, (2, 8, 257))
    started = 0.0
    for step in range(steps + 1):
        if step == 1:  # the first step allocates
            started = time.process_time()
        for micro in blocks:
            loss_model(micro).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return round(steps * 16 * 256 / (time.process_time() - started))


def measure(name: str, options: list[str], args: argparse.Namespace) -> dict:
    """Trains one configuration for the fixed number of steps and reads its log."""
    run = args.runs / "sweep"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, str(HERE / "train.py"), "--run", str(run)]
    command += ["--data", str(args.data), "--heldout", str(args.heldout)]
    command += ["--cache", str(args.runs / "cache"), "--max-steps", str(args.steps), *options]
    command += ["--warmup", "40", "--log-every", "10", "--eval-minutes", "999"]
    command += ["--batch", "16", "--no-compile", "--checkpoint-minutes", "999"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    million = next(line for line in done.stdout.splitlines() if "M parameters" in line)
    row = {
        "name": name,
        "parameters_m": float(million.split()[1]),
        "tokens": events[-1]["tokens"],
        "tokens_per_cpu_s": speed(options, run),
        "train_loss": [e for e in events if e["event"] == "train"][-1]["loss"],
        "bits_per_byte": events[-1]["bits_per_byte"],
    }
    log.info("%s", row)
    return row


def table(rows: list[dict]) -> str:
    """Renders the rows as Markdown."""
    languages = [k for k in rows[0]["bits_per_byte"] if k != "mean"]
    head = ["configuration", "M params", "tokens", "tokens per CPU s", "mean", *languages]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        scores = [f"{row['bits_per_byte'][k]:.3f}" for k in ["mean", *languages]]
        cells = [row["name"], f"{row['parameters_m']:.2f}", f"{row['tokens']:,}"]
        cells += [f"{row['tokens_per_cpu_s']:,}", *scores]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="scratch folder")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="*", help="configurations whose name contains one of these")
    args = parser.parse_args()
    path = HERE / "sweep.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() and args.only else []
    for name, options in CONFIGS.items():
        if args.only and not any(part in name for part in args.only):
            continue
        rows = [row for row in rows if row["name"] != name]
        rows.append(measure(name, options, args))
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (HERE / "sweep.md").write_text(HEAD + table(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
