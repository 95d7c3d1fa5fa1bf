"""The training loop: deterministic steps, exact resume, held-out scores."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import checkpoint
import torch
from data import DataConfig, TokenStream, load_tokenizer
from heldout import HeldOut
from model import LossModel, ModelConfig, build_model
from optim import OptimConfig, build_optimizers, multiplier, set_rate
from transformers import set_seed

log = logging.getLogger("train_demo_model")

# Arabic has a sixth of the others' text; half a share keeps its epochs within reason.
WEIGHTS = {"ar": 0.5}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what is learned; stored in every checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    block: int = 256
    batch: int = 24
    seed: int = 0

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> TrainConfig:
        """Rebuilds a configuration from its JSON form."""
        data = dict(raw["data"], languages=tuple(raw["data"]["languages"]))
        nested = {
            "data": DataConfig(**data),
            "model": ModelConfig(**raw["model"]),
            "optim": OptimConfig(**raw["optim"]),
        }
        return TrainConfig(**(raw | nested))


@dataclass(frozen=True)
class Pace:
    """What may differ from one session to the next without changing what is learned."""

    micro: int
    checkpoint_minutes: float
    log_every: int
    eval_minutes: float
    eval_blocks: int
    max_steps: int | None
    max_minutes: float | None
    dtype: torch.dtype
    compiled: bool
    chunk: int


class Trainer:
    """One training run in one folder.

    Args:
        config: What is learned.
        pace: How this session runs.
        run: Folder of checkpoints and log.
        cache: Token cache.
        device: Where to compute.
        decay_from: Start a linear decay from this checkpoint.
        decay_steps: Length of the decay.
    """

    def __init__(
        self,
        config: TrainConfig,
        pace: Pace,
        run: Path,
        cache: Path,
        device: torch.device,
        decay_from: Path | None = None,
        decay_steps: int = 0,
    ) -> None:
        self.config, self.pace, self.run, self.device = config, pace, run, device
        self.tokenizer = load_tokenizer(cache)
        weights = {lang: WEIGHTS.get(lang, 1.0) for lang in config.data.languages}
        self.stream = TokenStream(cache, weights, config.block, config.seed)
        self.heldout = HeldOut(cache, self.tokenizer, list(weights), config.block, pace.eval_blocks)
        set_seed(config.seed)
        self.progress: dict[str, Any] = {
            "step": 0,
            "position": 0,
            "decay_start": None,
            "decay_steps": 0,
            "config": asdict(config),
        }
        own = checkpoint.checkpoints(run)
        source = own[-1] if own else decay_from
        if source is None:
            self.model = build_model(config.model, self.tokenizer).to(device)
            self.optimizers = build_optimizers(self.model, config.optim)
        else:
            self.model, state = checkpoint.load(source, device)
            self.optimizers = build_optimizers(self.model, config.optim)
            peaks = [[g["peak_lr"] for g in o.param_groups] for o in self.optimizers]
            checkpoint.restore(state, self.optimizers)
            # The configuration decides the rates, so that a session may change them.
            for optimizer, rates in zip(self.optimizers, peaks, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["peak_lr"] = rate
            self.progress |= {k: state[k] for k in self.progress if k != "config"}
            if not own:
                self.progress |= {"decay_start": state["step"], "decay_steps": decay_steps}
            log.info("resumed %s at step %d", source.name, self.progress["step"])
        self.loss_model = LossModel(self.model, pace.dtype, pace.chunk, pace.compiled)
        self.stop = False
        run.mkdir(parents=True, exist_ok=True)
        self._log = open(run / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115

    def record(self, **values: Any) -> None:
        """Appends one JSON line to the run's log."""
        values = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **values}
        self._log.write(json.dumps(values) + "\n")
        self._log.flush()

    def save(self) -> None:
        """Writes a checkpoint."""
        path = checkpoint.save(self.run, self.model, self.tokenizer, self.optimizers, self.progress)
        log.info("checkpoint %s", path.name)

    def evaluate(self) -> dict[str, float]:
        """Scores the held-out sample and logs it."""
        self.model.eval()
        scores = self.heldout.score(self.model, self.pace.dtype)
        self.model.train()
        position = self.progress["position"]
        self.record(
            event="eval",
            step=self.progress["step"],
            tokens=position * self.config.block,
            bits_per_byte=scores,
            epochs=self.stream.epochs(position),
        )
        log.info("held-out bits per byte: %s", " ".join(f"{k} {v:.3f}" for k, v in scores.items()))
        return scores

    def train_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Does one optimiser step and returns its loss and gradient norm."""
        progress, config = self.progress, self.config
        factor = multiplier(
            progress["step"],
            config.optim.warmup,
            progress["decay_start"],
            progress["decay_steps"],
        )
        set_rate(self.optimizers, factor)
        rows = torch.from_numpy(self.stream.batch(progress["position"], config.batch))
        total = torch.zeros((), device=self.device)
        for micro in rows.split(self.pace.micro):
            share = len(micro) / len(rows)
            loss = self.loss_model(micro.to(self.device, non_blocking=True)) * share
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress["step"] += 1
        progress["position"] += len(rows)
        return total, norm

    def done(self, started: float) -> bool:
        """Tells whether this session has reached its end."""
        step, pace = self.progress["step"], self.pace
        start = self.progress["decay_start"]
        return (
            self.stop
            or (pace.max_steps is not None and step >= pace.max_steps)
            or (pace.max_minutes is not None and time.monotonic() - started > pace.max_minutes * 60)
            or (start is not None and step >= start + self.progress["decay_steps"])
        )

    def fit(self) -> dict[str, float]:
        """Trains until told to stop; returns the last held-out scores (none after a signal)."""
        started = saved = evaluated = mark = time.monotonic()
        self.model.train()
        tokens, losses = 0, []
        while not self.done(started):
            loss, norm = self.train_step()
            losses.append(loss)
            tokens += self.config.batch * self.config.block
            step = self.progress["step"]
            if step % self.pace.log_every == 0:
                mean = float(torch.stack(losses).mean())
                if not mean < float("inf"):
                    raise FloatingPointError(f"loss is {mean} at step {step}; checkpoints are kept")
                now = time.monotonic()
                speed = tokens / (now - mark)
                total = self.progress["position"] * self.config.block
                rate = self.optimizers[0].param_groups[0]["lr"]
                self.record(
                    event="train",
                    step=step,
                    tokens=total,
                    loss=round(mean, 4),
                    grad_norm=round(float(norm), 3),
                    lr=rate,
                    tokens_per_s=round(speed),
                )
                log.info(
                    "step %d  loss %.3f  norm %.2f  lr %.1e  %.2f M tokens  %.0f tokens/s",
                    *(step, mean, norm, rate, total / 1e6, speed),
                )
                tokens, losses, mark = 0, [], now
            paused = time.monotonic()
            if paused - saved > self.pace.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()
            if paused - evaluated > self.pace.eval_minutes * 60:
                self.evaluate()
                evaluated = time.monotonic()
            # Checkpoints and evaluations are not training time.
            mark += time.monotonic() - paused
        self.save()
        # Whoever sent a signal is waiting.
        scores = {} if self.stop else self.evaluate()
        self._log.close()
        return scores
