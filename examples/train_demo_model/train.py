"""Trains the small multilingual model that neuronsteer ships as its demo.

    python train.py --data CORPUS --heldout HELDOUT --run RUN            # start
    python train.py --run RUN                                            # resume
    python train.py --run FINISHED --decay-from RUN --decay-steps 1000   # finish a model
    python train.py --run FINISHED --export FOLDER                       # shippable folder
    python train.py --smoke                                              # self-test, no corpus

SIGTERM and SIGINT write a checkpoint and exit; the same command goes on from it exactly.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import checkpoint
import torch
from data import LANGUAGES, DataConfig, prepare
from model import ModelConfig
from optim import OptimConfig
from trainer import Pace, TrainConfig, Trainer
from transformers.utils import logging as transformers_logging

log = logging.getLogger("train_demo_model")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    defaults, model, optim = TrainConfig(), ModelConfig(), OptimConfig()
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, help="folder of <lang>.txt.xz, one sentence per line")
    p.add_argument("--heldout", type=Path, help="the same, never trained on")
    p.add_argument("--run", type=Path, help="folder of checkpoints and log; resumed if it exists")
    p.add_argument("--cache", type=Path, help="folder of token caches (default: beside the run)")
    p.add_argument("--decay-from", type=Path, help="run or checkpoint to finish by linear decay")
    p.add_argument("--decay-steps", type=int, default=1000)
    p.add_argument("--export", type=Path, help="write the newest checkpoint as a shippable folder")
    p.add_argument("--smoke", action="store_true", help="test the whole path on made-up text")
    what = p.add_argument_group("what is learned (fixed when a run starts)")
    change = p.add_argument_group("what is learned, but may be changed when resuming")
    what.add_argument("--languages", nargs="+", default=list(LANGUAGES))
    what.add_argument("--vocab", type=int, default=defaults.data.vocab_size)
    what.add_argument("--data-mb", type=float, default=0, help="cap per language, for the sweep")
    for name in ("hidden", "layers", "mlp_width", "heads", "kv_heads"):
        what.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(model, name))
    what.add_argument("--optimizer", default=optim.kind, choices=["muon", "adamw"])
    for name in ("lr", "embed_lr", "weight_decay"):
        change.add_argument(f"--{name.replace('_', '-')}", type=float)
    what.add_argument("--warmup", type=int, default=optim.warmup)
    what.add_argument("--block", type=int, default=defaults.block)
    change.add_argument("--batch", type=int, help="blocks in a step")
    what.add_argument("--seed", type=int, default=defaults.seed)
    how = p.add_argument_group("how this session runs")
    how.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    how.add_argument("--micro", type=int, help="blocks in one forward pass (default: by device)")
    how.add_argument("--fp32", action="store_true", help="no bfloat16")
    how.add_argument("--no-compile", action="store_true")
    how.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    how.add_argument("--max-steps", type=int)
    how.add_argument("--max-minutes", type=float)
    how.add_argument("--checkpoint-minutes", type=float, default=4)
    how.add_argument("--log-every", type=int, default=20)
    how.add_argument("--eval-minutes", type=float, default=15)
    how.add_argument("--eval-blocks", type=int, default=12, help="blocks per language (0: all)")
    return p.parse_args(argv)


def configure(args: argparse.Namespace, source: Path | None) -> TrainConfig:
    """Returns the configuration of a checkpoint or a new one, with the command line's changes."""
    if source is not None:
        raw = json.loads((source / "progress.json").read_text(encoding="utf-8"))
        config = TrainConfig.from_dict(raw["config"])
    else:
        data = DataConfig(
            languages=tuple(args.languages),
            vocab_size=args.vocab,
            max_bytes=int(args.data_mb * 1e6),
            seed=args.seed,
        )
        config = TrainConfig(
            data=data,
            model=ModelConfig(args.hidden, args.layers, args.mlp_width, args.heads, args.kv_heads),
            optim=OptimConfig(kind=args.optimizer, warmup=args.warmup),
            block=args.block,
            seed=args.seed,
        )
    names = ("lr", "embed_lr", "weight_decay")
    rates = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    return replace(config, optim=replace(config.optim, **rates), batch=args.batch or config.batch)


def newest(folder: Path | None) -> Path | None:
    """Returns the checkpoint meant by a run folder or a checkpoint folder, if there is one."""
    if folder is None:
        return None
    if (folder / "trainer.pt").exists():
        return folder
    found = checkpoint.checkpoints(folder)
    return found[-1] if found else None


def find_cache(args: argparse.Namespace, config: TrainConfig) -> Path:
    """Returns the token cache, made now or remembered from an earlier session."""
    if args.data is not None:
        if args.heldout is None:
            raise SystemExit("--data needs --heldout")
        root = args.cache or args.run.parent / "cache"
        return prepare(args.data, args.heldout, root, config.data)
    runs = [args.run, args.decay_from]
    if args.decay_from is not None:
        runs.append(args.decay_from.parent.parent)  # a checkpoint inside its run
    for run in runs:
        if run is not None and (run / "cache.json").exists():
            cache = Path(json.loads((run / "cache.json").read_text(encoding="utf-8")))
            if (cache / "meta.json").exists():
                return cache
    raise SystemExit("no token cache is known for this run: give --data and --heldout")


def run_training(args: argparse.Namespace) -> dict[str, float]:
    """Starts, resumes or finishes a run; returns its last held-out scores."""
    own, decay_from = newest(args.run), newest(args.decay_from)
    if args.decay_from is not None and own is None and decay_from is None:
        raise SystemExit(f"no checkpoint in {args.decay_from}")
    config = configure(args, own or decay_from)
    cache = find_cache(args, config)
    args.run.mkdir(parents=True, exist_ok=True)
    (args.run / "cache.json").write_text(json.dumps(str(cache.resolve())), encoding="utf-8")
    device = torch.device(args.device)
    on_cpu = device.type == "cpu"
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    pace = Pace(
        micro=args.micro or (8 if on_cpu else 256),
        checkpoint_minutes=args.checkpoint_minutes,
        log_every=args.log_every,
        eval_minutes=args.eval_minutes,
        eval_blocks=args.eval_blocks,
        max_steps=args.max_steps,
        max_minutes=args.max_minutes,
        dtype=torch.float32 if args.fp32 else torch.bfloat16,
        compiled=not args.no_compile,
        # On a CPU a chunk of logits should stay in cache; on a GPU launches should be few.
        chunk=128 if on_cpu else 16384,
    )
    trainer = Trainer(config, pace, args.run, cache, device, decay_from, args.decay_steps)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    log.info("%.2f M parameters on %s, %s", parameters / 1e6, device, config)

    def stop(number: int, _frame: object) -> None:
        log.info("%s: finishing the step", signal.Signals(number).name)
        trainer.stop = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return trainer.fit()


def run_export(args: argparse.Namespace) -> int:
    """Writes the shippable folder and returns its size."""
    source = newest(args.run)
    if source is None:
        raise SystemExit(f"no checkpoint in {args.run}")
    size = checkpoint.export(source, args.export)
    log.info("exported %s to %s: %d bytes (%.2f MB)", source.name, args.export, size, size / 1e6)
    return size


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
        force=True,
    )
    transformers_logging.disable_progress_bar()
    args = parse(argv)
    if args.smoke:
        from smoke import smoke

        with tempfile.TemporaryDirectory() as folder:
            smoke(Path(folder))
        return
    if args.run is None:
        raise SystemExit("--run is needed")
    if args.export is None:
        run_training(args)
    else:
        run_export(args)


if __name__ == "__main__":
    main()
